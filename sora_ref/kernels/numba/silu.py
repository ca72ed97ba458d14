"""SiLU with its derivative in one loop: one exponential and one division.

    σ(−a) = e/(1 + e), σ(a) = 1/(1 + e) for a ≥ 0, e = exp(−a)
    silu(x)  = x·σ(x)
    silu′(x) = σ(x) + silu(x)·σ(−x)

float32 alone is compiled.  For any other dtype each function calls the specification's; NumPy has no form of its own.
Products and sums may be contracted; there is no sum over elements, so that each has the same bits wherever it stands.
The backward is the specification's: one product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.exp import exp32_of_nonpositive
from sora_ref.kernels.numba.inlined import inlined
from sora_ref.kernels.numba.rows import gapless, long_rows_of
from sora_ref.models import layers

_ZERO, _ONE = np.float32(0), np.float32(1)


def silu_forward(x: Array) -> tuple[Array, Array]:
    """x·σ(x), and what is kept: its derivative; x of any shape, the results contiguous."""
    if x.dtype != FLOAT32:
        return layers.silu_forward(x)
    y, derivative = np.empty(x.shape, FLOAT32), np.empty(x.shape, FLOAT32)
    rows = long_rows_of(x)
    _silu(rows, y.reshape(rows.shape), derivative.reshape(rows.shape))
    return y, derivative


def silu_value(x: Array) -> tuple[Array, None]:
    """`silu_forward` for an evaluation: no backward follows, so nothing is kept."""
    if x.dtype != FLOAT32:
        return layers.silu_forward(x)[0], None
    y = np.empty(x.shape, FLOAT32)
    rows = long_rows_of(x)
    _silu(rows, y.reshape(rows.shape), None)
    return y, None


@inlined
def silu32(x: np.float32) -> tuple[np.float32, np.float32]:
    """(silu(x), silu′(x)) of one number; of ±∞ what the specification's products give, NaN where they do."""
    e = exp32_of_nonpositive(-abs(x))
    larger = _ONE / (_ONE + e)  # σ(a)
    smaller = e * larger  # σ(−a)
    sigmoid = smaller if x < _ZERO else larger
    y = x * sigmoid
    return y, sigmoid + y * (larger if x < _ZERO else smaller)


@compiled
def _silu(x: Any, y: Any, derivative: Any) -> None:
    """Row by row: x, y, derivative (n, d), the last one or None."""
    for i in range(len(x)):
        if derivative is None:
            _silu_row(gapless(x[i]), y[i], None)
        else:
            _silu_row(gapless(x[i]), y[i], derivative[i])


@compiled
def _silu_row(x: Any, y: Any, derivative: Any) -> None:
    """One row; whether there is a derivative is known when this is compiled."""
    for j in range(len(x)):
        if derivative is None:
            y[j] = silu32(x[j])[0]
        else:
            y[j], derivative[j] = silu32(x[j])
