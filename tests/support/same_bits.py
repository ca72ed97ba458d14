"""Whether two arrays are the same, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def same_bits(a: Any, b: Any) -> bool:
    """Same shape, same dtype, same bits, the sign of zero among them; but any NaN is as good as another."""
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    x, y = (np.where(np.isnan(z), np.nan, z).astype(z.dtype) for z in (x, y))
    return x.tobytes() == y.tobytes()
