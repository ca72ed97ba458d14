"""How far a float32 GELU by the fit of `sora_ref.kernels.numpy.gelu` may lie from the exact one, and where to look."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sora_ref.bounds import gamma
from sora_ref.kernels.numpy.gelu import P, Q
from sora_ref.models import layers

Floats = npt.NDArray[Any]

U = 2.0**-24
CLAIM = 3e-7  # the docstrings'
DENSITY = 1 / np.sqrt(2 * np.pi)


def in_float64(x: Floats) -> tuple[Floats, Floats]:
    """The specification's GELU and derivative."""
    y, derivative = layers.gelu_forward(x.astype(np.float64))
    return np.asarray(y), np.asarray(derivative)


def grid() -> Floats:
    """[-40, 40] in steps of 2⁻¹⁴, and every float32 around the largest error."""
    steps = (np.arange(-40 * 2**14, 40 * 2**14 + 1) / 2**14).astype(np.float32)
    first, last = (np.float32(end).view(np.int32) for end in (4.75, 5.25))
    near = np.arange(first, last, dtype=np.int32).view(np.float32)
    return np.concatenate([steps, near, -near])


def allowed(x: Floats, exp: float, least: float = 0.0) -> tuple[Floats, Floats]:
    """Largest errors of y and of the derivative: what the fit leaves, and what float32 adds to it.

    exp: relative error of the exponential, which may give 0 for what is below `least`.

    t = 1/(1 + P·a) meets 4 roundings, P's own among them, and Horner's sum γ₃₁ of its magnitudes: 10 for its 5 steps, 1
    for a coefficient, 4 for each of 5 factors t.  exp meets x²·u/2 for its rounded argument, and its own.  Two products
    more, and the last difference.  The derivative has two or three sums of at most 1.2, and three products with φ̃.
    """
    wide = x.astype(np.float64)
    a = np.abs(wide)
    t, density = 1 / (1 + P * a), np.exp(-0.5 * a * a)
    sizes = t * np.polynomial.polynomial.polyval(t, np.abs(Q))
    tail = density * t * np.polynomial.polynomial.polyval(t, Q)
    of_density = a * a * U / 2 + exp
    of_tail = density * gamma(31, U) * sizes + tail * (of_density + 3 * U)
    lost = (2 + 2 * a) * float(np.finfo(np.float32).smallest_subnormal) + a * least  # where exp or a product underflows
    y, derivative = in_float64(x)
    of_fit = np.abs(np.maximum(wide, 0) - a * tail - y)
    of_y = of_fit + 1.01 * a * of_tail + U * np.abs(y) + lost
    slope = np.where(wide < 0, tail, 1 - tail) + wide * density * DENSITY
    of_slope = np.abs(slope - derivative) + 1.01 * (of_tail + a * density * DENSITY * (of_density + 4 * U))
    return np.asarray(of_y), np.asarray(of_slope + 3 * 1.2 * U + lost + least)
