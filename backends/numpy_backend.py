"""NumPy: the reference backend.  SciPy is loaded at the first `erf`, not before."""

from __future__ import annotations

import array_api_compat.numpy as xp
import numpy as np

from sora_ref.backends import Array, Backend


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return erf(x)


def _scatter_add(rows: int, ids: Array, updates: Array) -> Array:
    out = np.zeros((rows, updates.shape[1]), dtype=updates.dtype)
    np.add.at(out, ids, updates)
    return out


BACKEND = Backend(
    name="numpy",
    xp=xp,
    from_host=np.asarray,
    to_host=np.asarray,
    erf=_erf,
    scatter_add=_scatter_add,
    shares_memory=np.may_share_memory,
)
