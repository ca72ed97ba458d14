"""How an adapter's tensors are called in a flat mapping of parameters: packed, unpacked and recognised here alone.

    module.sora_A (r, in)    module.sora_g (r,)    module.sora_B (out, r)

Every name whose last part begins with `sora_` is an adapter's.  The scale s is a number and stands in no mapping of
arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sora_ref.backends import Array
from sora_ref.linear import LinearGrads, SoRA
from sora_ref.preconditions import require

_PREFIX = "sora_"


class AdapterNames(NamedTuple):
    """The names of one module's tensors, in the order in which `SoRA` has them."""

    A: str
    g: str
    B: str


def adapter_names(module: str) -> AdapterNames:
    """What the tensors of this module's adapter are called."""
    return AdapterNames(*(f"{module}.{_PREFIX}{letter}" for letter in AdapterNames._fields))


def is_adapter(name: str) -> bool:
    """Whether this names a tensor of an adapter."""
    return name.rpartition(".")[2].startswith(_PREFIX)


def is_gate(name: str) -> bool:
    """Whether this names a gate."""
    return name == adapter_names(module_of(name)).g


def module_of(name: str) -> str:
    """The module whose tensor this names: all before the last dot."""
    return name.rpartition(".")[0]


def pack(module: str, adapter: SoRA) -> dict[str, Array]:
    """The adapter's tensors by name: A, g and B as they are; s, a number, is left to the caller.

    >>> list(sr.pack("query", sr.initial_adapter(0, "query", out=3, in_=4, r=2, alpha=16.0)))
    ['query.sora_A', 'query.sora_g', 'query.sora_B']
    """
    A, g, B = adapter_names(module)
    return {A: adapter.A, g: adapter.g, B: adapter.B}


def pack_gradients(module: str, grads: LinearGrads) -> dict[str, Array | None]:
    """The gradients of the adapter's tensors, by the names of these; None where there is no adapter.

    >>> adapter = sr.initial_adapter(0, "query", out=3, in_=4, r=2, alpha=16.0)
    >>> y, cache = sr.sora_linear_forward(np.ones((1, 4), "float32"), np.eye(3, 4, dtype="float32"), None, adapter)
    >>> {name: grad.shape for name, grad in sr.pack_gradients("query", sr.sora_linear_backward(y, cache)).items()}
    {'query.sora_A': (2, 4), 'query.sora_g': (2,), 'query.sora_B': (3, 2)}
    """
    A, g, B = adapter_names(module)
    return {A: grads.dA, g: grads.dg, B: grads.dB}


def unpack(params: Mapping[str, Array], module: str, s: Any) -> SoRA:
    """The module's adapter out of a mapping; SoRAError, naming it, where a tensor is missing.

    >>> params = sr.pack("query", sr.initial_adapter(0, "query", out=3, in_=4, r=2, alpha=16.0))
    >>> sr.unpack(params, "query", s=8.0).rank
    2
    """
    A, g, B = names = adapter_names(module)
    missing = [name for name in names if name not in params]
    require(not missing, f"no tensor {', '.join(missing)}: expected A, g and B of every adapter")
    return SoRA(params[A], params[g], params[B], s)
