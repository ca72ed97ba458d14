"""GELU with its derivative in one loop: one exponential, one division and the polynomial of NumPy's form.

    Φ(−a) = φ̃(a)·Q(1/(1 + p·a)) for a ≥ 0, φ̃(a) = exp(−a²/2)          p and Q: sora_ref.kernels.numpy.gelu
    gelu(x)  = max(x, 0) − a·Φ(−a)                                     with a = |x|
    gelu′(x) = Φ(x) + x·φ̃(x)/√(2π)

float32 alone is compiled, to 3e-7, its own rounding included.  For any other dtype each function calls NumPy's form.
Products and sums may be contracted; there is no sum over elements, so that each has the same bits wherever it stands.
The backward is the specification's: one product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.exp import exp32_of_nonpositive
from sora_ref.kernels.numba.inlined import inlined
from sora_ref.kernels.numba.rows import gapless, long_rows_of
from sora_ref.kernels.numpy import gelu as in_numpy

P = np.float32(in_numpy.P)
Q1, Q2, Q3, Q4, Q5 = (np.float32(coefficient) for coefficient in in_numpy.Q)
_DENSITY = np.float32(1 / math.sqrt(2 * math.pi))
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_FAR = np.float32(20)  # Φ(−20) is 0 in float32; with it for a, ∞·Φ(−∞) is no NaN


def gelu_forward(x: Array) -> tuple[Array, Array]:
    """x·Φ(x), and what is kept: its derivative Φ(x) + x·φ(x); x of any shape, the results contiguous."""
    if x.dtype != FLOAT32:
        return in_numpy.gelu_forward(x)
    y, derivative = np.empty(x.shape, FLOAT32), np.empty(x.shape, FLOAT32)
    rows = long_rows_of(x)
    _gelu(rows, y.reshape(rows.shape), derivative.reshape(rows.shape))
    return y, derivative


def gelu_value(x: Array) -> tuple[Array, None]:
    """`gelu_forward` for an evaluation: no backward follows, so nothing is kept."""
    if x.dtype != FLOAT32:
        return in_numpy.gelu_value(x)
    y = np.empty(x.shape, FLOAT32)
    rows = long_rows_of(x)
    _gelu(rows, y.reshape(rows.shape), None)
    return y, None


@inlined
def gelu32(x: np.float32) -> tuple[np.float32, np.float32]:
    """(gelu(x), gelu′(x)) of one number; of ±∞ what the specification's products give, NaN where they do."""
    size = abs(x)
    t = _ONE / (size * P + _ONE)
    minus_half = x * -_HALF
    e = exp32_of_nonpositive(minus_half * x)  # φ̃(a)
    tail = ((((Q5 * t + Q4) * t + Q3) * t + Q2) * t + Q1) * (t * e)  # Φ(−a)
    positive = size * _HALF - minus_half  # max(x, 0), and NaN for −∞
    cdf = tail if x < _ZERO else _ONE - tail
    return positive - min(size, _FAR) * tail, cdf + (x * _DENSITY) * e


@compiled
def _gelu(x: Any, y: Any, derivative: Any) -> None:
    """Row by row: x, y, derivative (n, d), the last one or None."""
    for i in range(len(x)):
        if derivative is None:
            _gelu_row(gapless(x[i]), y[i], None)
        else:
            _gelu_row(gapless(x[i]), y[i], derivative[i])


@compiled
def _gelu_row(x: Any, y: Any, derivative: Any) -> None:
    """One row; whether there is a derivative is known when this is compiled."""
    for j in range(len(x)):
        if derivative is None:
            y[j] = gelu32(x[j])[0]
        else:
            y[j], derivative[j] = gelu32(x[j])
