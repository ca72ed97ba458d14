"""Bounds of the linear map and of its gradients (clauses SORA-BOUND-2 and SORA-BOUND-4)."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace, device

from sora_ref.backends import Array
from sora_ref.bounds.analysis import Path, Underflow, gated, overflow_sentence, rank_of, size_of, sizes_of
from sora_ref.bounds.precision import Precision, precision_of
from sora_ref.linear import LinearCache, LinearGrads, SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.preconditions import require


def linear_bound(
    x: Array,
    W0: Array,
    b: Array | None,
    adapter: SoRA | None,
    *,
    keep: Array | None = None,
    p: Any = 0.0,
    precision: Precision | None = None,
) -> Array:
    """Largest |ŷ − y| of `sora_linear_forward` on the same arguments; (..., out), float64 (SORA-BOUND-2).

    Holds for the unpruned, pruned, absorbed and merged forms alike, so two of them differ by at most twice this.
    precision: that of the computation; that of the arguments' dtype where none is given.
    p:         taken to be exactly this number, and 1 − p to be formed in float64.
    Raises SoRAError where an intermediate number may overflow or is NaN, for then no bound holds.

    >>> x, W0 = np.ones((1, 4), "float32"), np.eye(3, 4, dtype="float32")
    >>> bound = sr.bounds.linear_bound(x, W0, None, None)
    >>> bound.shape, bool(np.all(bound < 1e-6))
    ((1, 3), True)
    """
    precision = precision or precision_of(x)
    S, sizes = _magnitudes(x, W0, b, adapter, keep, p)
    dropout = _drops(keep, p, precision)
    relative = Path(2 * W0.shape[1] + rank_of(adapter) + 4, 2, 6).relative(precision, dropout=dropout)
    carry = Underflow(precision, relative, adapter)
    lost = carry.chain(sizes.x, sizes.W0.T)
    if sizes.adapter is not None:
        A, _, B, _ = sizes.adapter
        carry.require_operands(carry.scale * sizes.h, gated(B.T, sizes.adapter))
        lost += carry.chain(sizes.h, gated(A, sizes.adapter).T, B.T)
    return carry.bound(S, array_namespace(S).reshape(lost, S.shape))


def linear_backward_bound(
    dy: Array,
    x: Array,
    W0: Array,
    adapter: SoRA | None,
    *,
    keep: Array | None = None,
    p: Any = 0.0,
    precision: Precision | None = None,
) -> LinearGrads:
    """Largest distance of each gradient of `sora_linear_backward` from the exact one, float64 (SORA-BOUND-4).

    For dy, x, W0, adapter, keep and p exact as they are given; every gradient is bounded, those of W0 and b included.
    precision, p and errors as in `linear_bound`.

    >>> x, W0 = np.ones((1, 4), "float32"), np.eye(3, 4, dtype="float32")
    >>> bounds = sr.bounds.linear_backward_bound(np.ones((1, 3), "float32"), x, W0, None)
    >>> bounds.dx.shape, bounds.dA
    ((1, 4), None)
    """
    precision = precision or precision_of(x)
    out, in_ = W0.shape
    n, r, dropout = math.prod(x.shape[:-1]), rank_of(adapter), _drops(keep, p, precision)
    _, sizes = _magnitudes(x, W0, None, adapter, keep, p)
    S = sora_linear_backward(size_of(dy), sizes, dW0=True, db=True)
    D = array_namespace(x).reshape(size_of(dy), (n, out))

    def carrying(path: Path, *, branch: bool = True) -> Underflow:
        """The bookkeeper of one gradient."""
        return Underflow(precision, path.relative(precision, dropout=dropout and branch), adapter)

    of_x, of_A = carrying(Path(2 * out + r + 3, 2, 5)), carrying(Path(out + n + 3, 2, 4))
    of_g, of_B = carrying(Path(in_ + out + n + 2, 3, 5)), carrying(Path(in_ + n + 3, 2, 4))
    lost = of_x.chain(D, sizes.W0)
    dA = dg = dB = None
    if sizes.adapter is not None:
        A, g, B, _ = sizes.adapter
        gA, gB = gated(A, sizes.adapter), gated(B.T, sizes.adapter)  # (r, in), (r, out)
        of_A.require_operands(*(of_A.scale * operand for operand in (D, sizes.h, D.T @ sizes.h)))
        gate_free = sizes.adapter._replace(g=array_namespace(g).zeros_like(g))  # no gate is a factor of its gradient
        through = of_x.chain(D, B, gA)
        lost += through / (1 - p) if dropout else through
        dA = of_A.bound(S.dA, of_A.chain(gB, D.T, sizes.h))
        dg = of_g.bound(S.dg, _diagonal(of_g.chain(B.T, D.T, sizes.h, gated(A, gate_free).T)))
        dB = of_B.bound(S.dB, of_B.chain(D.T, sizes.h, gA.T))
    of_W0, of_b = (carrying(path, branch=False) for path in (Path(n, 1, 1), Path(max(n - 1, 0), 0, 1)))
    return LinearGrads(
        dx=of_x.bound(S.dx, array_namespace(x).reshape(lost, x.shape)),
        dA=dA,
        dg=dg,
        dB=dB,
        dW0=of_W0.bound(S.dW0, of_W0.chain(D.T, sizes.x)),
        db=of_b.bound(S.db, n * precision.spacing),
    )


def _magnitudes(
    x: Array, W0: Array, b: Array | None, adapter: SoRA | None, keep: Array | None, p: Any
) -> tuple[Array, LinearCache]:
    """The forward of the magnitudes: S of y, and the magnitudes as float64."""
    bias = None if b is None else size_of(b)
    sizes = None if adapter is None else sizes_of(adapter)
    return sora_linear_forward(size_of(x), size_of(W0), bias, sizes, keep=keep, p=p)


def _drops(keep: Array | None, p: Any, precision: Precision) -> bool:
    """Whether there is dropout; 1/(1 − p) has to be a number of the precision, and 1 − p one it rounds with error u."""
    if keep is None:
        return False
    require(precision.largest * (1 - p) >= 1, overflow_sentence(precision))
    stored = precision.spacing_out / (2 * precision.unit_out) if precision.unit_out else 0.0
    least = max(precision.spacing / (2 * precision.unit), stored)
    expected = f"expected at least {least}, below which {precision.name} may lose half of it"
    require(1 - p >= least, f"1 − p is {1 - p}: {expected}")
    return True


def _diagonal(square: Array) -> Array:
    xp = array_namespace(square)
    return xp.sum(square * xp.eye(square.shape[0], device=device(square)), axis=1)
