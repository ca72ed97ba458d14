"""What tests of NumPy kernels draw, and in which precision they compute what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Floats = npt.NDArray[Any]
DTYPES = ("float32", "float64")
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1e-3, 1.0, 8.0])


def unit(dtype: str) -> float:
    """The unit roundoff."""
    return float(np.finfo(dtype).eps) / 2


def normal(rng: np.random.Generator, dtype: str, *shape: int, size: float = 1.0) -> Floats:
    """Read-only, so that a kernel that writes into its arguments fails."""
    x: Floats = (size * rng.standard_normal(shape)).astype(dtype)
    x.flags.writeable = False
    return x


def wide(x: Floats) -> Floats:
    """In extended precision, which on most machines has 11 bits more than float64."""
    return x.astype(np.longdouble)
