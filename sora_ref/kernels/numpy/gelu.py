"""GELU with its derivative, without SciPy's erf: one exponential and a polynomial, block by block in the cache.

Φ(−a) = φ̃(a)·Q(1/(1 + p·a)) for a ≥ 0, φ̃(a) = exp(−a²/2)          after Hastings 1955 (Abramowitz & Stegun 7.1.26)
gelu(x)  = max(x, 0) − a·Φ(−a)                                     with a = |x|
gelu′(x) = ½ + sgn(x)·(½ − Φ(−a) + a·φ̃(a)/√(2π))
"""

from __future__ import annotations

import math

import numpy as np

from sora_ref.backends import Array

# Q has no constant; p and Q were fitted by Lawson's iteration (weighted least squares towards minimax) on
# max(a, 1)·φ̃(a)·|error of Q|, which bounds the error of gelu and of gelu′ alike: 9.1e-8 over all a.
P = 0.333
Q = (0.1240877469529064, 0.19868005903785543, -0.07661782738569733, 0.3628359433499214, -0.10898601279530638)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_SIGN = np.int32(-(2**31))  # the sign bit of a float32
BLOCK = 65_536  # elements; smaller ones stay in the L2 cache but cost more calls


def gelu_forward(x: Array) -> tuple[Array, Array]:
    """x·Φ(x), and what is kept: its derivative Φ(x) + x·φ(x).

    float32 to 3e-7, its own rounding included; other dtypes through SciPy's erf, as the specification does.
    """
    derivative = np.empty(x.shape, x.dtype)
    return _gelu(x, derivative), derivative


def gelu_value(x: Array) -> tuple[Array, None]:
    """`gelu_forward` for an evaluation: no backward follows, so nothing is kept."""
    return _gelu(x, None), None


def _gelu(x: Array, derivative: Array | None) -> Array:
    """x·Φ(x); the derivative is written into `derivative`, which is C-contiguous, where there is one."""
    y = np.empty(x.shape, x.dtype)
    flat, out = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    kept = None if derivative is None else derivative.reshape(-1)
    block = _float32_block if x.dtype == np.float32 else _erf_block
    with np.errstate(over="ignore"):  # the square of a huge x is infinite, which exp takes as it should
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            block(flat[part], out[part], None if kept is None else kept[part])
    return y


def _float32_block(x: Array, y: Array, derivative: Array | None) -> None:
    """Write gelu(x) into y, and gelu′(x) into `derivative` if there is one: flat float32 arrays, the fitted formula."""
    a = np.abs(x)
    t = a * P
    t += 1
    np.reciprocal(t, out=t)
    tail = t * Q[-1]  # Q(t) by Horner's rule
    for coefficient in Q[-2::-1]:
        tail += coefficient
        tail *= t
    e = np.multiply(x, x, out=t)  # φ̃(a)
    e *= -0.5
    np.exp(e, out=e)
    tail *= e  # Φ(−a)
    np.maximum(x, np.zeros_like(x), out=y)  # a scalar 0 takes four times as long
    if derivative is None:
        a *= tail
        y -= a
        return
    e *= a  # gelu′: ½ − Φ(−a) + a·φ̃(a)/√(2π), its sign bit flipped where x has one, + ½
    e *= _DENSITY
    np.subtract(e, tail, out=derivative)
    derivative += 0.5
    bits = derivative.view(np.int32)
    bits ^= x.view(np.int32) & _SIGN
    derivative += 0.5
    a *= tail
    y -= a


def _erf_block(x: Array, y: Array, derivative: Array | None) -> None:
    """The same for any dtype, by SciPy's erf as in the specification."""
    from scipy.special import erf

    cdf = 0.5 * (1 + erf(x * math.sqrt(0.5)))
    np.multiply(x, cdf, out=y)
    if derivative is not None:
        np.add(cdf, x * (np.exp(-0.5 * (x * x)) * _DENSITY), out=derivative)
