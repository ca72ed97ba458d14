"""Faster forms of operations, in sets: `numba` and `numpy` for arrays of NumPy, `cuda` for those of CuPy.

A set is a folder of this one whose module `table` holds a `Kernels` record, KERNELS.  A backend may have several: its
line in the table here names them, the fastest first.  The set "reference", which replaces nothing, is every backend's.
A set is imported when it is asked for, so that a library loads only where it is used; a set that cannot be imported,
because a library is missing or is another version than it expects, is passed over, unless it is asked for by its name.

Each form has the signature of the field of `ModelOps` that it replaces, which mypy checks, and a differential test
against the specification's function in tests/kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
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
        *,
        training: bool = True,
    ) -> Operations:
        """The linear maps of these modules, (W0, adapter) by name, valid while their arrays keep these values.

        forward, backward: called for any other weight or adapter.  parallel_map: the `map` that shares out the folding.
        training:          whether a backward may follow; where none does, nothing is made or kept for it.
        """


@dataclass(frozen=True)
class Kernels:
    """A set of faster forms for the arrays of one backend.

    name:       the set's.
    libraries:  the distributions whose versions its results depend on, beside those that are always there.
    training:   the forms, by the field of `ModelOps` they replace.
    evaluation: the forms that replace those where no backward follows; they keep nothing for it.
    fold:       see `Fold`; None where the set has no folded linear map.
    precisions: by the name of a precision of float32 matrix products, what makes the forms that have it, given the
                arrays that never change.
    processor:  says which processor the forms are compiled for, since last bits depend on it; None where they are not.
    compiling:  makes a context in which a callback is told the name of each form that is compiled; None where the forms
                need no compiling.
    """

    name: str = "reference"
    libraries: tuple[str, ...] = ()
    training: ModelOperations = field(default_factory=ModelOperations)
    evaluation: ModelOperations = field(default_factory=ModelOperations)
    fold: Fold | None = None
    precisions: Mapping[str, Callable[[Iterable[Array]], ModelOperations]] = field(default_factory=dict)
    processor: Callable[[], str] | None = None
    compiling: Callable[[Callable[[str], None]], AbstractContextManager[None]] | None = None


REFERENCE = Kernels()  # the specification's own operations

_SETS: Mapping[str, tuple[str, ...]] = {"numpy": ("numba", "numpy"), "cupy": ("cuda",)}  # by backend
_LIBRARIES = {"numba": "numba"}  # what a set needs that may be missing although its backend is there


def names(backend: str) -> tuple[str, ...]:
    """The sets that the backend of this name has, the fastest first, whether their libraries are installed or not."""
    return (*_SETS.get(backend, ()), "reference")


def get(backend: str, name: str | None = None) -> Kernels:
    """The set of this name for the backend of that name; by default the fastest that can be loaded.

    Raises ValueError where the backend has no such set, ImportError where it cannot be loaded.
    """
    if name is None:
        return _load(next(name for name in names(backend) if _fault(name) is None))
    if name not in names(backend):
        raise ValueError(f"backend {backend!r} has no kernels {name!r}: expected one of {', '.join(names(backend))}")
    if (fault := _fault(name)) is not None:
        raise ImportError(f"kernels {name!r}, which need {_LIBRARIES[name]}, cannot be loaded ({fault})")
    return _load(name)


def _load(name: str) -> Kernels:
    if name == "reference":
        return REFERENCE
    found: Kernels = importlib.import_module(f"{__name__}.{name}.table").KERNELS
    return found


def _fault(name: str) -> str | None:
    """Load this set if its library may be missing; why it cannot be loaded, None where nothing is amiss."""
    if name not in _LIBRARIES:
        return None
    try:
        _load(name)
    except Exception as error:  # a library that is too old or too new for what is beside it may raise anything
        return " ".join(str(error).split()) or type(error).__name__
    return None
