"""How far a kernel's GELU and LayerNorm may lie from the exact ones: bounds derived, with u the unit roundoff."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sora_ref.bounds import gamma

Floats = npt.NDArray[Any]

INFLATED = 1 + 2.0**-20  # over the roundings of a bound's own evaluation in float64
FUNCTION = 4  # roundings that exp and erf may lose: CUDA's manual gives them 2 ulp, and an ulp is at most 2u


def unit(x: Floats) -> float:
    return float(np.finfo(x.dtype).eps) / 2


def wide(*arrays: Floats) -> tuple[Floats, ...]:
    return tuple(x.astype(np.float64) for x in arrays)


def within(found: Floats, expected: Floats, bound: Floats) -> bool:
    return bool(np.all(np.abs(found.astype(np.float64) - expected) <= INFLATED * bound))


def gelu_bound(x: Floats, u: float) -> tuple[Floats, Floats]:
    """Largest errors of y and of gelu′, against the exact ones of x.

    erf's argument is off by 2u of itself, which moves erf by at most |z·erf′(z)| times that; 1 + erf, ½ and the
    product round.  exp's argument, −x²/2, is off by 2u of itself; three roundings follow.
    """
    (v,) = wide(x)
    z = np.abs(v) * math.sqrt(0.5)
    density = np.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)
    cdf = np.vectorize(lambda t: 0.5 * math.erfc(-t * math.sqrt(0.5)), otypes=[float])(v)
    erf = np.abs(2 * cdf - 1)
    e_erf = 2 * u * (1 + 4 * u) * 2 / math.sqrt(math.pi) * z * np.exp(-z * z * (1 - 8 * u)) + FUNCTION * u * erf
    e_cdf = 0.5 * e_erf + u * (cdf + e_erf)
    e_density = density * (np.expm1(3 * u * v * v / 2) + gamma(FUNCTION + 3, u))
    tiny = float(np.finfo(x.dtype).tiny)
    e_product = np.abs(v) * e_density + u * np.abs(v) * (density + e_density) + tiny
    derivative = np.abs(cdf + v * density)
    return np.abs(v) * e_cdf * (1 + u) + u * np.abs(v * cdf) + tiny, (e_cdf + e_product) * (1 + u) + u * derivative


def layer_norm_bound(x: Floats, weight: Floats, bias: Floats, eps: float, u: float) -> Floats:
    """Largest |ŷ − y|: the mean, then what is centred, the variance, its root, and three operations."""
    v, w, b = wide(x, weight, bias)
    d = v.shape[-1]
    mean = v.mean(-1, keepdims=True)
    c = np.abs(v - mean)
    e_mean = gamma(d, u) * np.abs(v).mean(-1, keepdims=True)
    e_c = e_mean + u * (c + e_mean)
    variance = (c * c).mean(-1, keepdims=True)
    e_variance = (2 * c * e_c + e_c * e_c).mean(-1, keepdims=True)
    e_variance += gamma(d + 1, u) * (variance + e_variance)
    total = variance + eps
    relative = (e_variance + 2 * u * (total + e_variance)) / total  # ε rounds, and so does the sum
    if np.any(relative >= 0.5):
        return np.full(v.shape, np.inf)
    inverse = 1 / np.sqrt(total)
    e_inverse = inverse * ((1 + gamma(2, u)) / np.sqrt(1 - relative) - 1)
    e_xhat = (c + e_c) * (inverse + e_inverse) * (1 + u) - c * inverse
    product = np.abs(w) * (c * inverse + e_xhat) * (1 + u)
    return np.asarray(np.abs(w) * (e_xhat * (1 + u) + u * c * inverse) + u * (product + np.abs(b)))
