"""The proximal map of the L1 norm, what it solves, and the map the released code runs instead (clause SORA-PROX).

    T_ξ(x) = argmin_u ξ‖u‖₁ + ½‖u − x‖²                                              SoRA eq. 11 and 13

A threshold is a Python number, rounded once to the dtype of x, or an array of x's shape (a diagonal metric).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from array_api_compat import array_namespace

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.preconditions import require, require_finite_number, require_one_dtype, require_shape


def soft_threshold(x: Array, xi: Any) -> Array:
    """T_ξ(x) = x − clip(x, −ξ, ξ), elementwise (SORA-PROX-1).

    x: any shape; xi: number, finite and ≥ 0, or an array of x's shape and dtype.
    Over the reals it is the one minimiser of ξ|u| + ½(u − x)² (SORA-PROX-2).
    One rounding.  The result is zero exactly where |x| ≤ ξ, and that zero is +0; NaN stays NaN and ±inf stays ±inf.
    (`where(|x| > ξ, …, 0)` would turn NaN into 0, and `sign(x)·max(|x| − ξ, 0)` would give −0.)
    Raises SoRAError for a ξ that is negative, not finite, or beyond the numbers of the dtype.

    >>> sr.soft_threshold(np.array([3.0, 1.5, -0.5]), 1.0)
    array([2. , 0.5, 0. ])
    """
    _check_threshold(xi, x)
    xp = array_namespace(x)
    return x - xp.clip(x, -xi, xi)


def released_threshold(x: Array, xi: Any) -> Array:
    """The map of the released optimiser: three in-place lines, one after the other (SORA-PROX-5).

        x > ξ: x − ξ;   then  x < −ξ: x + ξ;   then  |x| < ξ: 0

    Deviation: the second visit zeroes what the first shrank, so the dead zone is |x| < 2ξ and not |x| ≤ ξ; the points
    x = ±ξ alone escape all three lines and stay.  Off those points it is a hard threshold at ξ after a soft one, the
    prox of the non-convex `released_penalty`; with them it is not monotone, hence the prox of no penalty at all
    (SORA-PROX-6).
    NaN stays NaN.
    Arguments and SoRAErrors as of `soft_threshold`.

    >>> sr.released_threshold(np.array([3.0, 1.5, -0.5]), 1.0)
    array([2., 0., 0.])
    """
    _check_threshold(xi, x)
    xp = array_namespace(x)
    x = xp.where(x > xi, x - xi, x)
    x = xp.where(x < -xi, x + xi, x)
    return xp.where(xp.abs(x) < xi, xp.zeros_like(x), x)


def released_penalty(u: Array, xi: Any) -> Array:
    """φ(u) = 2ξ|u| − u²/2 for |u| ≤ ξ, ξ|u| + ξ²/2 beyond, elementwise: `released_threshold` is a prox of φ off ±ξ.

    φ = ξ|u| + MCP_{ξ,1}(u).  Only its values on {0} ∪ {|u| ≥ ξ} matter; at x = 2ξ the minimisers fill [0, ξ]
    (SORA-PROX-6).  SoRAErrors as of `soft_threshold`.

    >>> sr.prox.released_penalty(np.array([0.5, 2.0]), 1.0)
    array([0.875, 2.5  ])
    """
    _check_threshold(xi, u)
    xp = array_namespace(u)
    a = xp.abs(u)
    return xp.where(a <= xi, 2 * xi * a - u * u / 2, xi * a + xi * xi / 2)


def l1_value(gates: Iterable[Array], lam: Any) -> Any:
    """λ Σ_k ‖g^(k)‖₁, a sum over modules that is not normalised (SoRA eq. 14; SORA-PROX-4).

    A 0-d array, or 0 for no gates.  Raises SoRAError for a λ that is negative or not finite.

    >>> float(sr.l1_value([np.array([1.0, -2.0]), np.array([0.5])], 2.0))
    7.0
    """
    require_finite_number("lambda", lam, least=0)
    norms = [array_namespace(g).sum(array_namespace(g).abs(g)) for g in gates]
    return lam * sum(norms[1:], start=norms[0]) if norms else 0


def prox_kkt_distance(x: Array, u: Array, xi: Any) -> Array:
    """How far u is from solving min_u ξ‖u‖₁ + ½‖u − x‖²: the ∞-norm distance of x − u to ξ∂‖u‖₁; 0-d (SORA-PROX-3).

    Zero exactly when u = T_ξ(x), in exact arithmetic.  The smooth part's gradient at u is u − x.

    >>> x = np.array([3.0, 0.5])
    >>> float(sr.prox.prox_kkt_distance(x, sr.soft_threshold(x, 1.0), 1.0))
    0.0
    """
    return kkt_distance(u, u - x, xi)


def kkt_distance(g: Array, grad: Array, lam: Any) -> Array:
    """How far g is from stationarity of L0(g) + λ‖g‖₁, given grad = ∇L0(g); the ∞-norm, 0-d (SORA-PROX-4).

    |grad_i + λ·sgn(g_i)| where g_i ≠ 0, and max(|grad_i| − λ, 0) where g_i = 0.  Empty gates are stationary.
    Raises SoRAError where grad has another shape or dtype than g, and for a λ as `soft_threshold` does for ξ.

    >>> float(sr.kkt_distance(np.array([0.0, 2.0]), np.array([0.5, -1.25]), 1.0))
    0.25
    """
    _check_threshold(lam, g)
    require_shape("gradient", grad, g.shape)
    require_one_dtype({"g": g, "gradient": grad})
    xp = array_namespace(g)
    if math.prod(g.shape) == 0:
        return xp.sum(g)
    open_gate = xp.abs(grad + lam * xp.sign(g))
    closed_gate = xp.maximum(xp.abs(grad) - lam, xp.zeros_like(g))
    return xp.max(xp.where(g == 0, closed_gate, open_gate))


def _check_threshold(xi: Any, x: Array) -> None:
    """A number must stay finite and non-negative when it is rounded to x's dtype; an array is the caller's claim."""
    if hasattr(xi, "shape"):
        require(tuple(xi.shape) == tuple(x.shape), f"threshold has shape {tuple(xi.shape)}: expected {tuple(x.shape)}")
        return
    require_finite_number("threshold", xi, least=0)
    xp = array_namespace(x)
    if xp.isdtype(x.dtype, "real floating"):
        largest = backends.float_info(x).max
        require(xi <= largest, f"threshold {xi} overflows {x.dtype}: expected at most {largest}")
