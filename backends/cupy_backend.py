"""CuPy: NVIDIA GPUs.  `cupyx.scatter_add` uses atomics, so its last bits may differ from run to run."""

from __future__ import annotations

import array_api_compat.cupy as xp
import cupy as cp
import cupyx
from cupyx.scipy.special import erf

from sora_ref.backends import Array, Backend


def _scatter_add(rows: int, ids: Array, updates: Array) -> Array:
    out = cp.zeros((rows, updates.shape[1]), dtype=updates.dtype)
    cupyx.scatter_add(out, ids, updates)
    return out


BACKEND = Backend(
    name="cupy",
    xp=xp,
    from_host=cp.asarray,
    to_host=cp.asnumpy,
    erf=erf,
    scatter_add=_scatter_add,
    shares_memory=cp.may_share_memory,
)
