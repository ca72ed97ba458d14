"""The old name of `protocol.jax_base`; it goes with the release after 0.1."""

import warnings

from sora_ref.conformance.protocol.jax_base import JaxImplementation as JaxAdapter

__all__ = ["JaxAdapter"]

warnings.warn(
    "sora_ref.conformance.jax_adapter.JaxAdapter is called sora_ref.conformance.JaxImplementation now: "
    "the old name goes with the release after 0.1",
    DeprecationWarning,
    stacklevel=2,
)
