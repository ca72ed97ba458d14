"""Array namespaces, and the few operations the array API standard lacks.

Numerics never name a backend: they take the namespace from their arguments with ``array_namespace(x)`` and, for the
handful of functions the standard has not got, the table of that namespace with ``of(x)``.  The string
``backend="cupy"`` exists only at the edge (command line, configuration), where `get` turns it into a `Backend`.

This package imports nothing of sora_ref, and loads a library only when that library's arrays or name turn up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

Array = Any  # an array of any namespace that array-api-compat knows


@dataclass(frozen=True)
class Backend:
    """What one array library offers beyond the standard.

    name:          the word used on the command line.
    xp:            its array-API namespace.
    from_host:     NumPy array -> array on this backend's device, same dtype.
    to_host:       the inverse: the one transfer to the host that numerics may make.
    erf:           x (any shape, float) -> erf(x), same shape and dtype.
    scatter_add:   (n rows, ids (m,), updates (m, d)) -> (n, d) with out[ids[j]] += updates[j], duplicates summed.
    shares_memory: whether two arrays may overlap in memory.
    synchronous:   True where an operation has finished when its call returns; False for an asynchronous device (GPU),
                   whose results a transfer to the host waits for.
    memory:        the largest number of bytes of device memory held so far; None where the device is the host.
    """

    name: str
    xp: ModuleType
    from_host: Callable[[np.ndarray], Array]
    to_host: Callable[[Array], np.ndarray]
    erf: Callable[[Array], Array]
    scatter_add: Callable[[int, Array, Array], Array]
    shares_memory: Callable[[Array, Array], bool]
    synchronous: bool = True
    memory: Callable[[], int] | None = None


class DeviceError(RuntimeError):
    """A device that cannot be used, in one sentence."""


_MODULES = {"numpy": "numpy_backend", "cupy": "cupy_backend", "strict": "strict_backend", "exact": "exact_backend"}
_NAMESPACES = {
    "array_api_compat.numpy": "numpy",
    "array_api_compat.cupy": "cupy",
    "array_api_strict": "strict",
}


def names() -> tuple[str, ...]:
    """The names `get` accepts."""
    return tuple(_MODULES)


@cache
def get(name: str) -> Backend:
    """The backend called `name`.

    Raises ValueError for an unknown name, ImportError where its library is not installed, DeviceError where its device
    cannot be used.
    """
    if name not in _MODULES:
        raise ValueError(f"unknown backend {name!r}: expected one of {', '.join(_MODULES)}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    backend: Backend = module.BACKEND
    return backend


def of(*arrays: Array) -> Backend:
    """The backend whose arrays these are, object arrays being exact; TypeError for an unknown or mixed namespace.

    Masks and indices go with object arrays; an array of floats beside one is a mixture.
    """
    namespace = array_namespace(*arrays).__name__
    if namespace not in _NAMESPACES:
        raise TypeError(f"no backend for arrays of {namespace}: expected one of {', '.join(_NAMESPACES)}")
    if namespace != "array_api_compat.numpy" or all(x.dtype != object for x in arrays):
        return get(_NAMESPACES[namespace])
    for x in arrays:
        if x.dtype.kind not in "Obiu":
            raise TypeError(f"an array of {x.dtype} beside one of objects: expected rationals, masks or indices")
    return get("exact")


class FloatInfo(NamedTuple):
    """A floating dtype's limits as Python floats: ε, smallest normal and subnormal, largest number."""

    eps: float
    smallest_normal: float
    smallest_subnormal: float
    max: float


def float_info(x: Array) -> FloatInfo:
    """The limits of x's dtype.  (NumPy's own finfo holds float32 scalars, which underflow and promote.)"""
    info = array_namespace(x).finfo(x.dtype)
    eps, normal = float(info.eps), float(info.smallest_normal)
    return FloatInfo(eps, normal, normal * eps, float(info.max))


def to_host(x: Array) -> np.ndarray:
    """The array as NumPy's: the one transfer numerics may ask for, by this name.

    Only where a shape depends on the data (pruning), or a refusal does (whether a bound exists).
    """
    return of(x).to_host(x)
