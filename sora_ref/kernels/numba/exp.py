"""exp of a float32, as functions that loops of compiled kernels take in and vectorise.

With n the integer nearest to x/ln 2 and r = x − n·ln 2, so that |r| ≤ 0.3467,

    exp x = 2ⁿ·exp r        exp r ≈ 1 + r + r²·(C2 + C3·r + C4·r² + C5·r³ + C6·r⁴)

n comes from adding 1.5·2²³, whose last bit is worth 1, and subtracting it again, which `reassoc` would fold away; no
loop that calls these functions may allow that.  ln 2 is HI + LO: HI has nine bits, so that n·HI is exact.  2ⁿ is made
of its bits (range reduction after Cody and Waite 1980).

Relative error, in units of u = 2⁻²⁴, whether or not products and sums are contracted:

    r         x − n·HI is exact, since HI's multiples of 2⁻⁹ leave x's own digits; n·LO, LO, the difference   ≤ 0.41
    fit       the polynomial itself, over |r| ≤ 0.3467                                                        ≤ 0.06
    r²·(…)    its terms fall quickly: 5 roundings of at most 0.068                                            ≤ 0.37
    the sums  r + r²·(…), below 1/2, loses u/4 at most, relatively 0.36; 1 + … one rounding                   ≤ 1.06

together at most 2 u = 2⁻²³.  Measured over all of float32: 1.44 u, and 1.03 ulp.
"""

from __future__ import annotations

import math

import numpy as np

from sora_ref.kernels.numba.inlined import bits_of, float_of, inlined

# Fitted by Lawson's iteration (weighted least squares towards minimax) on r²·|error|/exp r over |r| ≤ 0.3467, each
# rounded to float32 before the next are fitted again: 3.2e-9.
C2 = np.float32(0.4999999403953552)
C3 = np.float32(0.1666652113199234)
C4 = np.float32(0.04166826605796814)
C5 = np.float32(0.008368683978915215)
C6 = np.float32(0.0013820945750921965)
_PER_LN2 = np.float32(1 / math.log(2))
HI = np.float32(0.693359375)  # 355/512
LO = np.float32(-2.1219444005469057e-4)  # ln 2 − HI
_ROUND = np.float32(1.5 * 2**23)
_ROUND_BITS = np.int32(_ROUND.view(np.int32))
_BIAS = np.int32(127)  # of a float32's exponent, which begins at bit 23
_ONE_BITS = np.int32(127 << 23)
_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST, _MOST = np.float32(-104), np.float32(89)  # exp of less is 0, of more is infinite
SMALLEST = np.float32(-87.33654)  # ln 2⁻¹²⁶, rounded towards 0: where results begin to be subnormal


@inlined
def exp32(x: np.float32) -> np.float32:
    """exp x for any float32: 0 below −104, infinite from 88.73 on, NaN for NaN.

    The error is that of the module, and half of the smallest subnormal where the result is subnormal.
    """
    x = _LEAST if x < _LEAST else x  # NaN passes
    x = _MOST if x > _MOST else x
    p, shifted = _mantissa(x)
    n = np.int32(bits_of(shifted) - _ROUND_BITS)
    half = np.int32(n >> 1)  # 2ⁿ may be no normal float32; its two factors are
    first: np.float32 = float_of(np.int32((half + _BIAS) << 23))
    second: np.float32 = float_of(np.int32((n - half + _BIAS) << 23))
    return p * first * second


@inlined
def exp32_of_nonpositive(x: np.float32) -> np.float32:
    """exp x for x ≤ 0, at two thirds of the time: 0 below −87.34, where the result would be subnormal; NaN for NaN.

    The error is that of the module, and less than 2⁻¹²⁶ where the result is 0.  Positive x give anything.
    """
    p, shifted = _mantissa(x)
    power: np.float32 = float_of(np.int32((bits_of(shifted) << 23) + _ONE_BITS))  # the last bits of n + 1.5·2²³ are n
    return _ZERO if x < SMALLEST else p * power


@inlined
def _mantissa(x: np.float32) -> tuple[np.float32, np.float32]:
    """(exp r, n + 1.5·2²³) for x = n·ln 2 + r."""
    shifted = x * _PER_LN2 + _ROUND
    n = shifted - _ROUND
    r = (x - n * HI) - n * LO
    square = r * r  # Estrin's order: the processor waits for fewer results than in Horner's
    q = (C6 * square + (C5 * r + C4)) * square + (C3 * r + C2)
    return (q * square + r) + _ONE, shifted
