"""array-api-strict on its second device: the stand-in for a GPU that proves portability without one.

What the standard lacks is computed on the host; what the standard has, numerics must get from the standard.
"""

from __future__ import annotations

import array_api_strict as xp
import numpy as np

from sora_ref.backends import Array, Backend

DEVICE = xp.Device("device1")


def _from_host(x: np.ndarray) -> Array:
    return xp.asarray(x, device=DEVICE, copy=True)


def _to_host(x: Array) -> np.ndarray:
    return np.asarray(x.to_device(xp.Device("CPU_DEVICE")))


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return _from_host(erf(_to_host(x)))


def _scatter_add(rows: int, ids: Array, updates: Array) -> Array:
    # A one-hot product: nothing but the standard, deterministic, no atomics.
    one_hot = xp.expand_dims(ids, axis=0) == xp.expand_dims(xp.arange(rows, dtype=ids.dtype, device=DEVICE), axis=1)
    return xp.astype(one_hot, updates.dtype) @ updates


def _shares_memory(a: Array, b: Array) -> bool:
    return np.may_share_memory(a._array, b._array)  # to_device would copy


BACKEND = Backend(
    name="strict",
    xp=xp,
    from_host=_from_host,
    to_host=_to_host,
    erf=_erf,
    scatter_add=_scatter_add,
    shares_memory=_shares_memory,
)
