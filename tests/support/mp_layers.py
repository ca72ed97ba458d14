"""The formulas of the transformer's layers in mpmath, number by number: what floating-point layers are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath

Reals = Sequence[Any]  # of MP.mpf

MP = mpmath.MPContext()
MP.dps = 60


def softmax(x: Reals) -> list[Any]:
    if all(MP.isinf(v) for v in x):
        return [MP.zero for _ in x]
    top = max(x)
    e = [MP.zero if MP.isinf(v) else MP.exp(v - top) for v in x]
    total = MP.fsum(e)
    return [v / total for v in e]


def gelu(x: Any) -> tuple[Any, Any]:
    """x·Φ(x) and its derivative; beyond 10⁴ they are x and 1, or 0, to more than 10⁷ digits."""
    if abs(x) > 10**4:
        return (x, MP.one) if x > 0 else (MP.zero, MP.zero)
    cdf = MP.erfc(-x / MP.sqrt(2)) / 2
    return x * cdf, cdf + x * MP.exp(-x * x / 2) / MP.sqrt(2 * MP.pi)


def layer_norm(x: Reals, w: Reals, b: Reals, eps: Any) -> tuple[list[Any], list[Any], Any]:
    """y, x̂ and 1/√(var + ε)."""
    mean = MP.fsum(x) / len(x)
    rstd = 1 / MP.sqrt(MP.fsum((v - mean) ** 2 for v in x) / len(x) + eps)
    xhat = [(v - mean) * rstd for v in x]
    return [p * h + q for p, h, q in zip(w, xhat, b, strict=True)], xhat, rstd


def layer_norm_dx(x: Reals, w: Reals, dy: Reals, eps: Any) -> list[Any]:
    """Through x̂, through the variance and through the mean, node by node of the graph."""
    d = len(x)
    mean = MP.fsum(x) / d
    c = [v - mean for v in x]
    total = MP.fsum(v * v for v in c) / d + eps
    root = MP.sqrt(total)
    dxhat = [p * q for p, q in zip(w, dy, strict=True)]
    dvar = -MP.fdot(dxhat, c) / (2 * total * root)
    dmean = -MP.fsum(dxhat) / root - 2 * dvar * MP.fsum(c) / d
    return [g / root + 2 * dvar * v / d + dmean / d for g, v in zip(dxhat, c, strict=True)]


def attention(q: Any, k: Any, v: Any, seen: Sequence[bool]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Context and probabilities of one head, rows of mpf."""
    scores = [[MP.fdot(a, b) / MP.sqrt(len(a)) if s else MP.ninf for b, s in zip(k, seen, strict=True)] for a in q]
    p = [softmax(row) for row in scores]
    return [[MP.fdot(row, column) for column in zip(*v, strict=True)] for row in p], p


def attention_grads(q: Any, k: Any, v: Any, seen: Sequence[bool], dy: Any) -> tuple[Any, Any, Any]:
    """dq, dk, dv by the softmax's Jacobian ∂p_m/∂s_j = p_m(δ_mj − p_j), in full."""
    p = attention(q, k, v, seen)[1]
    places, root = range(len(q)), MP.sqrt(len(q[0]))
    dp = [[MP.fdot(dy[i], v[j]) for j in places] for i in places]
    ds = [[MP.fsum(dp[i][m] * p[i][m] * ((m == j) - p[i][j]) for m in places) / root for j in places] for i in places]
    dq = [[MP.fsum(ds[i][j] * k[j][c] for j in places) for c in range(len(k[0]))] for i in places]
    dk = [[MP.fsum(ds[i][j] * q[i][c] for i in places) for c in range(len(q[0]))] for j in places]
    dv = [[MP.fsum(p[i][j] * dy[i][c] for i in places) for c in range(len(dy[0]))] for j in places]
    return dq, dk, dv
