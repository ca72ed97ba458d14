"""Arrays as compiled kernels take them."""

from __future__ import annotations

import numpy as np

from sora_ref.backends import Array

FLOAT32 = np.dtype(np.float32)  # in the machine's own order of bytes


def flat(x: Array) -> Array:
    """The elements of x in C order, (n,): a view where they lie so in memory and may be written, else a copy.

    Read-only arrays and contiguous ones have types of their own for Numba, which compiles a kernel for each it meets;
    so every kernel meets one.
    """
    return (x if x.flags.carray else x.copy()).reshape(-1)
