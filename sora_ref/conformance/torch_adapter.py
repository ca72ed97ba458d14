"""The old name of `protocol.torch_base`; it goes with the release after 0.1."""

import warnings

from sora_ref.conformance.protocol.torch_base import TorchImplementation as TorchAdapter
from sora_ref.conformance.protocol.torch_base import array, tensor

__all__ = ["TorchAdapter", "array", "tensor"]

warnings.warn(
    "sora_ref.conformance.torch_adapter.TorchAdapter is called sora_ref.conformance.TorchImplementation now: "
    "the old name goes with the release after 0.1",
    DeprecationWarning,
    stacklevel=2,
)
