"""Faster forms of operations, in sets: `numpy` for arrays of NumPy, `cuda` for those of CuPy.

A set is a folder of this one whose module `table` holds a `Kernels` record, KERNELS.  A backend may have several: its
line in the table here names them, the first by default.  The set "reference", which replaces nothing, is every
backend's.  A set is imported when it is asked for, so that a library loads only where it is used.

Each form has the signature of the field of `ModelOps` that it replaces, which mypy checks, and a differential test
against the specification's function in tests/kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sora_ref.backends import Array
from sora_ref.linear import SoRA
from sora_ref.models.ops import ModelOperations
from sora_ref.ops import LinearBackward, LinearForward, Operations


class Fold(Protocol):
    """Makes linear maps for some modules whose adapters are folded into their weights."""

    def __call__(
        self,
        modules: Mapping[str, tuple[Array, SoRA]],
        forward: LinearForward,
        backward: LinearBackward,
        parallel_map: Callable[..., Iterable[Any]] = map,
    ) -> Operations:
        """The linear maps of these modules, (W0, adapter) by name, valid while their arrays keep these values.

        forward, backward: called for any other weight or adapter.  parallel_map: the `map` that shares out the folding.
        """


@dataclass(frozen=True)
class Kernels:
    """A set of faster forms for the arrays of one backend.

    training:   the forms, by the field of `ModelOps` they replace.
    evaluation: the forms that replace those where no backward follows; they keep nothing for it.
    fold:       see `Fold`; None where the set has no folded linear map.
    precisions: by the name of a precision of float32 matrix products, what makes the forms that have it, given the
                arrays that never change.
    """

    training: ModelOperations = field(default_factory=ModelOperations)
    evaluation: ModelOperations = field(default_factory=ModelOperations)
    fold: Fold | None = None
    precisions: Mapping[str, Callable[[Iterable[Array]], ModelOperations]] = field(default_factory=dict)


REFERENCE = Kernels()  # the specification's own operations

_SETS: Mapping[str, tuple[str, ...]] = {"numpy": ("numpy",), "cupy": ("cuda",)}  # by backend


def names(backend: str) -> tuple[str, ...]:
    """The sets that the backend of this name has; the first is the one it takes by default."""
    return (*_SETS.get(backend, ()), "reference")


def get(backend: str, name: str | None = None) -> Kernels:
    """The set of this name for the backend of that name, by default its first; ValueError where it has no such set."""
    name = names(backend)[0] if name is None else name
    if name not in names(backend):
        raise ValueError(f"backend {backend!r} has no kernels {name!r}: expected one of {', '.join(names(backend))}")
    if name == "reference":
        return REFERENCE
    found: Kernels = importlib.import_module(f"{__name__}.{name}.table").KERNELS
    return found
