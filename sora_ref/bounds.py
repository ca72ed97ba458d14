"""How far a floating-point result may lie from the exact one: bounds derived, never chosen (clause SORA-BOUND).

Every entry of every result here is a sum of products of the arguments' entries, such as s·B_oi·g_i·A_ik·x_k.  On its
way into the result a product meets one relative error of at most u for every addition and multiplication, and one more
for every number that is rounded before it is used.  If K is the sum of all those on the longest way, then

    |ŷ − y| ≤ K/(1 − K)·S + (1 + K/(1 − K))·Ω         K = N·u for N roundings in one dtype: γ_N

with S the same sum of the magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1).  Covered
is every evaluation by matrix products, that is, one that sums over one index at a time: in any association of (s, g, A,
B), each sum in any order, and also begun with what another path has given (GEMM's β = 1).

    y   N = 2·in + r + 4      the sum over in, over r, over the frozen path's in; four products; s; b
    dx  N = 2·out + r + 3
    dA  N = out + n + 3       n is the number of rows of x
    dB  N = in + n + 3
    dg  N = in + out + n + 2
    W   N = r + 4             the merged weight; |W0| itself meets one rounding, the last
    dW0 N = n, db N = n − 1

Dropout adds three: 1 − p, its rounding to the dtype, the quotient; it acts on x first, and on dx last.  (One sum over
in and r together, such as a flat einsum makes, is a longer way than any of these, and not covered.)

Ω is what underflow may take, also from s, and from s·g.  It is carried along beside the magnitudes, product by product
(`_Underflow`), in every association; only in low precision, where inputs underflow, is it ever large.  Bounds are
evaluated in float64 and inflated by 1 + 2⁻²⁰, which covers that evaluation for any N below 2³².
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.linear import LinearCache, LinearGrads, SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.preconditions import require
from sora_ref.prune import delta

_INFLATION = 1 + 2.0**-20


@dataclass(frozen=True)
class Precision:
    """An arithmetic: what one operation, one matrix product's input and one stored result may lose (SORA-BOUND-5).

    unit, spacing, largest:          of every operation: relative error u, absolute error ω = spacing/2 where it
                                     underflows, and the largest number that can be its result.
    unit_in, spacing_in, largest_in: of rounding an input of a matrix product; 0, 0 and ∞ where inputs stay as they are.
    unit_out, spacing_out:           of rounding a result to be stored, beyond that of its last operation.

    The spacing is that of the subnormal numbers (ω itself is no float64); twice the smallest normal number where
    results that underflow are flushed to zero.
    """

    name: str
    unit: float
    spacing: float
    largest: float
    unit_in: float = 0.0
    spacing_in: float = 0.0
    largest_in: float = math.inf
    unit_out: float = 0.0
    spacing_out: float = 0.0

    def stored(self) -> Precision:
        """This precision with every result rounded to the format of the inputs when it is stored, as pure bf16 does."""
        return dataclasses.replace(
            self,
            name=f"{self.name}, stored",
            largest=min(self.largest, self.largest_in),
            unit_out=self.unit_in,
            spacing_out=self.spacing_in,
        )


def precision_of(x: Array) -> Precision:
    """The arithmetic of x's own dtype, with gradual underflow."""
    info = backends.float_info(x)
    return Precision(str(x.dtype), info.eps / 2, info.smallest_subnormal, info.max)


# Matrix units that round their inputs and accumulate in float32.  Their sums truncate and align, so u is declared 2⁻²²
# and not 2⁻²⁴ (Fasi, Higham, Mikaitis & Pranesh 2021; Blanchard et al. 2020); what is below 2⁻¹²⁶ may be flushed.
_MATRIX_UNIT = Precision("float32 accumulation", unit=2.0**-22, spacing=2.0**-125, largest=(2 - 2.0**-23) * 2.0**127)
TF32 = dataclasses.replace(_MATRIX_UNIT, name="tf32", unit_in=2.0**-11, spacing_in=2.0**-125)
BF16 = dataclasses.replace(_MATRIX_UNIT, name="bf16", unit_in=2.0**-8, spacing_in=2.0**-125)
FP16 = dataclasses.replace(_MATRIX_UNIT, name="fp16", unit_in=2.0**-11, spacing_in=2.0**-24, largest_in=65504.0)


def gamma(n: int, u: float) -> float:
    """γ_n = n·u/(1 − n·u); SoRAError where n·u ≥ 1 and no bound holds (SORA-BOUND-1)."""
    require(n * u < 1, f"relative errors add up to {n * u}: expected less than 1, beyond which no bound holds")
    return n * u / (1 - n * u)


class _Path(NamedTuple):
    """The longest way of a product into a result: its roundings N, matrix products, stored intermediate results."""

    roundings: int
    products: int
    stored: int

    def relative(self, precision: Precision, *, dropout: bool = False) -> float:
        """K/(1 − K), K the sum of all relative errors on the way: γ_N where nothing but operations rounds."""
        roundings, stored = self.roundings + 3 * dropout, self.stored + 2 * dropout
        K = roundings * precision.unit + 2 * self.products * precision.unit_in + stored * precision.unit_out
        return gamma(1, K)


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
    """
    precision = precision or precision_of(x)
    S, sizes = _magnitudes(x, W0, b, adapter, keep, p)
    dropout = _drops(keep, p, precision)
    relative = _Path(2 * W0.shape[1] + _rank(adapter) + 4, 2, 6).relative(precision, dropout=dropout)
    carry = _Underflow(precision, relative, adapter)
    lost = carry.chain(sizes.x, sizes.W0.T)
    if sizes.adapter is not None:
        A, _, B, _ = sizes.adapter
        carry.require_operands(carry.scale * sizes.h, _gated(B.T, sizes.adapter))
        lost += carry.chain(sizes.h, _gated(A, sizes.adapter).T, B.T)
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
    """
    precision = precision or precision_of(x)
    out, in_ = W0.shape
    n, r, dropout = math.prod(x.shape[:-1]), _rank(adapter), _drops(keep, p, precision)
    _, sizes = _magnitudes(x, W0, None, adapter, keep, p)
    S = sora_linear_backward(_size(dy), sizes, dW0=True, db=True)
    D = array_namespace(x).reshape(_size(dy), (n, out))

    def carrying(path: _Path, *, branch: bool = True) -> _Underflow:
        """The bookkeeper of one gradient."""
        return _Underflow(precision, path.relative(precision, dropout=dropout and branch), adapter)

    of_x, of_A = carrying(_Path(2 * out + r + 3, 2, 5)), carrying(_Path(out + n + 3, 2, 4))
    of_g, of_B = carrying(_Path(in_ + out + n + 2, 3, 5)), carrying(_Path(in_ + n + 3, 2, 4))
    lost = of_x.chain(D, sizes.W0)
    dA = dg = dB = None
    if sizes.adapter is not None:
        A, g, B, _ = sizes.adapter
        gA, gB = _gated(A, sizes.adapter), _gated(B.T, sizes.adapter)  # (r, in), (r, out)
        of_A.require_operands(*(of_A.scale * operand for operand in (D, sizes.h, D.T @ sizes.h)))
        gate_free = sizes.adapter._replace(g=array_namespace(g).zeros_like(g))  # no gate is a factor of its gradient
        through = of_x.chain(D, B, gA)
        lost += through / (1 - p) if dropout else through
        dA = of_A.bound(S.dA, of_A.chain(gB, D.T, sizes.h))
        dg = of_g.bound(S.dg, _diagonal(of_g.chain(B.T, D.T, sizes.h, _gated(A, gate_free).T)))
        dB = of_B.bound(S.dB, of_B.chain(D.T, sizes.h, gA.T))
    of_W0, of_b = (carrying(path, branch=False) for path in (_Path(n, 1, 1), _Path(max(n - 1, 0), 0, 1)))
    return LinearGrads(
        dx=of_x.bound(S.dx, array_namespace(x).reshape(lost, x.shape)),
        dA=dA,
        dg=dg,
        dB=dB,
        dW0=of_W0.bound(S.dW0, of_W0.chain(D.T, sizes.x)),
        db=of_b.bound(S.db, n * precision.spacing),
    )


def merge_bound(W0: Array, adapter: SoRA, *, precision: Precision | None = None) -> Array:
    """Largest |Ŵ − (W0 + ΔW)| of `merge`, for any association of ΔW; (out, in), float64 (SORA-BOUND-6)."""
    precision = precision or precision_of(W0)
    unit, _ = _addition(precision)
    return _INFLATION * unit * _size(W0) + _change(W0, adapter, precision)[1]


def unmerge_bound(W0: Array, adapter: SoRA, *, precision: Precision | None = None) -> Array:
    """Largest |(W0 ⊕ ΔW) ⊖ ΔW − W0| of an unmerge that kept no W0; (out, in), float64 (SORA-BOUND-3).

    Both ΔW are computed alike and cancel, so only the two additions round.  The first is off by δ ≤ u(|W0| + |ΔW|), and
    what the second should give is W0 up to that, so it loses at most u(|W0| + δ).  ΔW is the computed one, which is
    bounded from its factors.  Underflow takes nothing from a sum, unless it is flushed or stored in less.
    """
    precision = precision or precision_of(W0)
    unit, lost = _addition(precision)
    size, (exact, error) = _size(W0), _change(W0, adapter, precision)
    first = unit * (size + exact + error) + lost
    return _INFLATION * (first + unit * (size + first) + lost)


class _Underflow:
    """What underflow may take from matrix products, carried along beside their magnitudes: a running error analysis.

    Every operand loses what rounding it loses, and what multiplying it by a gate, by s and by 1/(1 − p) does.  A sum of
    n products loses n·spacing, flushed additions included, and as much of spacing_out where each is stored, as those of
    dg are.  The gates and s may follow either.  Rounding s and multiplying a gate by it lose spacing/2 each, which all
    other factors may follow, and storing them as much of spacing_out.  Of spacing twice as much is taken, for float64's
    own underflow.
    """

    def __init__(self, precision: Precision, relative: float, adapter: SoRA | None) -> None:
        self.precision, self.relative, self.scale = precision, relative, 1.0
        self.factor: Any = 1.0  # what may follow a loss: s and a gate
        if adapter is not None and _rank(adapter):
            self.scale = max(abs(adapter.s), 1.0)
            self.factor = self.scale * array_namespace(adapter.g).max(_size(adapter.g, 1.0))
            self.require_results(self.factor)
        self.operand = self.factor * (precision.spacing_in + precision.spacing_out + 4 * precision.spacing)

    def chain(self, *sizes: Array) -> Array:
        """What a product of these magnitudes loses at most, in whatever association, as an array of its shape."""
        size, lost = self._chain(sizes)
        return lost + (2 * self.precision.spacing + self.precision.spacing_out) * size

    def bound(self, S: Array, lost: Any) -> Array:
        """K/(1 − K)·S + (1 + K/(1 − K))·Ω, inflated; `lost` and the last operations of the result make Ω."""
        self.require_results(S)
        return _INFLATION * (self.relative * S + (1 + self.relative) * (lost + self.operand))

    def require_operands(self, *sizes: Array) -> None:
        """SoRAError where an operand of a matrix product, in whatever association, may be more than it can hold."""
        for size in sizes:
            self._require_at_most(min(self.precision.largest_in, self.precision.largest), size)

    def require_results(self, size: Array) -> None:
        """SoRAError where a number that an operation gives may be more than the precision can hold."""
        self._require_at_most(self.precision.largest, size)

    def _require_at_most(self, largest: float, size: Array) -> None:
        held = backends.to_host(array_namespace(size).all((1 + self.relative) * size <= largest))
        require(bool(held), _overflow(self.precision))

    def _chain(self, sizes: tuple[Array, ...]) -> tuple[Array, Array]:
        if len(sizes) == 1:
            return sizes[0], array_namespace(sizes[0]).zeros_like(sizes[0])
        ways = [self._product(self._chain(sizes[:k]), self._chain(sizes[k:])) for k in range(1, len(sizes))]
        size, lost = ways[0]
        for _, other in ways[1:]:
            lost = array_namespace(lost).maximum(lost, other)
        return size, lost

    def _product(self, left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        P, dP = left[0], left[1] + self.operand
        Q, dQ = right[0], right[1] + self.operand
        self.require_operands(P + dP, Q + dQ)
        each = self.factor * (2 * self.precision.spacing + self.precision.spacing_out)
        lost = dP @ Q + P @ dQ + dP @ dQ + P.shape[-1] * each
        size = P @ Q
        self.require_results(size + lost)
        return size, lost


def _addition(precision: Precision) -> tuple[float, float]:
    """What a sum that is stored may lose: a share of itself; and, where it underflows, so much."""
    unit, unit_out = precision.unit, precision.unit_out
    return unit + unit_out + unit * unit_out, precision.spacing + precision.spacing_out


def _change(W0: Array, adapter: SoRA, precision: Precision) -> tuple[Array, Array]:
    """|s|·(|B| ⊙ |g|)|A|, the magnitudes of ΔW's products, and how far the computed ΔW may be from the exact one.

    Its last addition, that of W0, is counted, and refused where it may overflow.
    """
    sizes = _sized(adapter)
    carry = _Underflow(precision, _Path(adapter.rank + 4, 1, 4).relative(precision), adapter)
    carry.require_operands(_gated(sizes.B.T, sizes))
    size = delta(sizes)
    carry.require_results(_size(W0) + size)
    return size, carry.bound(size, carry.chain(sizes.B, _gated(sizes.A, sizes)))


def _magnitudes(
    x: Array, W0: Array, b: Array | None, adapter: SoRA | None, keep: Array | None, p: Any
) -> tuple[Array, LinearCache]:
    """The forward of the magnitudes: S of y, and the magnitudes as float64."""
    bias = None if b is None else _size(b)
    sized = None if adapter is None else _sized(adapter)
    return sora_linear_forward(_size(x), _size(W0), bias, sized, keep=keep, p=p)


def _sized(adapter: SoRA) -> SoRA:
    return SoRA(_size(adapter.A), _size(adapter.g), _size(adapter.B), abs(adapter.s))


def _drops(keep: Array | None, p: Any, precision: Precision) -> bool:
    """Whether there is dropout; 1/(1 − p) has to be a number of the precision, and 1 − p one it rounds with error u."""
    if keep is None:
        return False
    require(precision.largest * (1 - p) >= 1, _overflow(precision))
    stored = precision.spacing_out / (2 * precision.unit_out) if precision.unit_out else 0.0
    least = max(precision.spacing / (2 * precision.unit), stored)
    expected = f"expected at least {least}, below which {precision.name} may lose half of it"
    require(1 - p >= least, f"1 − p is {1 - p}: {expected}")
    return True


def _overflow(precision: Precision) -> str:
    return f"an intermediate number may overflow {precision.name}, or is NaN: expected smaller magnitudes"


def _gated(M: Array, sizes: SoRA) -> Array:
    """The rows of M (r, ·) with s and the gates, each raised to at least 1, for either may stand elsewhere."""
    return array_namespace(M).expand_dims(max(sizes.s, 1.0) * _size(sizes.g, 1.0), axis=1) * M


def _diagonal(square: Array) -> Array:
    xp = array_namespace(square)
    return xp.sum(square * xp.eye(square.shape[0], device=device(square)), axis=1)


def _size(t: Array, least: float = 0.0) -> Array:
    """|t| in float64, raised to at least `least`."""
    xp = array_namespace(t)
    return xp.maximum(xp.abs(xp.astype(t, xp.float64)), least)


def _rank(adapter: SoRA | None) -> int:
    return 0 if adapter is None else adapter.rank
