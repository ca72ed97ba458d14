"""How far a floating-point result may lie from the exact one: bounds derived, never chosen (clause SORA-BOUND).

On its way into y, a product s·B_oi·g_i·A_ik·x_k meets one rounding of s, four multiplications and at most in + r
additions, whatever the association of (s, g, A, B), the order of the sums, and whether or not W0 + ΔW was formed first;
W0's products and b meet fewer.  With N = in + r + 5 covering every path, and u the unit roundoff,

    |ŷ − y| ≤ γ_N·S + 4ω·S₁,    γ_N = N·u/(1 − N·u),    S = |x||W0|ᵀ + |b| + |s|((|x||A|ᵀ) ⊙ |g|)|B|ᵀ

(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1).  The second term is gradual underflow: each of
the four multiplications may lose ω, half the smallest subnormal, which the factors that follow can at most scale; so S₁
is S with every magnitude raised to at least 1 (§2.1).  Bounds are evaluated in float64 and inflated by 1 + 2⁻²⁰, which
covers that evaluation for any N below 2³².
"""

from __future__ import annotations

from array_api_compat import array_namespace

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.checks import require
from sora_ref.linear import SoRA, sora_linear_forward

_INFLATION = 1 + 2.0**-20


def gamma(n: int, u: float) -> float:
    """γ_n = n·u/(1 − n·u); SoRAError where n·u ≥ 1 and no bound holds (SORA-BOUND-1)."""
    require(n * u < 1, f"{n} roundings of unit roundoff {u}: expected n*u < 1, beyond which no bound holds")
    return n * u / (1 - n * u)


def linear_bound(x: Array, W0: Array, b: Array | None, adapter: SoRA | None) -> Array:
    """Largest |ŷ − y| of the SoRA linear computed in the arguments' dtype; (..., out), float64 (SORA-BOUND-2).

    Holds for the unpruned, pruned, absorbed and merged forms alike, so two of them differ by at most twice this.
    Raises SoRAError where some partial product may overflow, for then no bound holds.
    """
    info = backends.float_info(x)
    relative = gamma(W0.shape[1] + (adapter.rank if adapter is not None else 0) + 5, info.eps / 2)
    S, S1 = (_magnitudes(x, W0, b, adapter, least) for least in (0.0, 1.0))
    return _evaluated(relative * S + 2 * info.smallest_subnormal * S1, (1 + relative) * S1, x)


def unmerge_bound(W0: Array, adapter: SoRA) -> Array:
    """Largest |(W0 ⊕ ΔW) ⊖ ΔW − W0| of an unmerge that kept no W0; (out, in), float64 (SORA-BOUND-3).

    Both ΔW are computed alike and cancel, so only the two additions round: u(|W0| + |ΔW|) and u(|W0| + 2|ΔW|) at most,
    to first order; the computed |ΔW| is bounded from its factors, underflow included.  Additions do not underflow.
    """
    xp = array_namespace(W0)
    info = backends.float_info(W0)
    u = info.eps / 2
    relative = gamma(adapter.rank + 4, u)
    C, C1 = (_change(adapter, least) for least in (0.0, 1.0))
    change = (1 + relative) * C + 2 * info.smallest_subnormal * C1
    size = xp.abs(xp.astype(W0, xp.float64))
    return _evaluated((1 + u) ** 2 * u * (2 * size + 3 * change), size + (1 + relative) * C1, W0)


def _magnitudes(x: Array, W0: Array, b: Array | None, adapter: SoRA | None, least: float) -> Array:
    """S of the module's formula, every magnitude raised to at least `least`."""
    sized = None
    if adapter is not None:
        A, g, B = (_size(part, least) for part in (adapter.A, adapter.g, adapter.B))
        sized = SoRA(A, g, B, max(abs(adapter.s), least))
    bias = None if b is None else _size(b, least)
    return sora_linear_forward(_size(x, least), _size(W0, least), bias, sized)[0]


def _change(adapter: SoRA, least: float) -> Array:
    """|s|·(|B| ⊙ |g|)|A|, every magnitude raised to at least `least`."""
    A, g, B = (_size(part, least) for part in (adapter.A, adapter.g, adapter.B))
    return (max(abs(adapter.s), least) * (B * g)) @ A


def _size(t: Array, least: float) -> Array:
    xp = array_namespace(t)
    return xp.maximum(xp.abs(xp.astype(t, xp.float64)), least)


def _evaluated(bound: Array, largest: Array, x: Array) -> Array:
    """The bound, inflated; `largest` bounds every intermediate number, which x's dtype has to hold."""
    xp = array_namespace(bound)
    held = backends.to_host(xp.all(largest <= backends.float_info(x).max))
    require(
        bool(held), f"an intermediate number may overflow {x.dtype}: expected smaller magnitudes for a bound to hold"
    )
    return bound * _INFLATION
