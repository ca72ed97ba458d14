"""How far a floating-point result may lie from the exact one: bounds derived, never chosen (clause SORA-BOUND).

Every entry of every result here is a sum of products of the arguments' entries, such as s·B_oi·g_i·A_ik·x_k.  On its
way into the result a product meets one relative error of at most u for every addition and multiplication, and one more
for every number that is rounded before it is used.  If K is the sum of all those on the longest way, then, whatever
the association of (s, g, A, B) and the order of the sums,

    |ŷ − y| ≤ K/(1 − K)·S + ω·S₁            K = N·u for N roundings in one dtype: γ_N

with S the same sum of the magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1).  The
second term is underflow: what one operation loses, the factors that follow can at most scale, so S₁ is S with every
magnitude raised to at least 1 (§2.1).  In a low `Precision` every matrix product also rounds its two inputs.

    y   N = in + r + 5        products, s, and the sums over in, over r, with W0's part, with b
    dB  N = in + n + 3        n is the number of rows of x
    dA  N = out + n + 3
    dg  N = in + out + n + 2
    dx  N = out + r + 4
    W   N = r + 4             the merged weight; |W0| itself meets one rounding, the last

Dropout adds three: 1 − p, its rounding to the dtype, the quotient.  Bounds are evaluated in float64 and inflated by
1 + 2⁻²⁰, which covers that evaluation for any N below 2³².
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.checks import require
from sora_ref.linear import LinearGrads, SoRA, sora_linear_backward, sora_linear_forward

_INFLATION = 1 + 2.0**-20


@dataclass(frozen=True)
class Precision:
    """An arithmetic: what one operation, one matrix product's input and one stored result may lose (SORA-BOUND-5).

    unit, spacing:         of every operation: relative error u, and absolute error ω = spacing/2 where it underflows.
    unit_in, spacing_in:   of rounding an input of a matrix product; 0 where inputs are used as they are.
    unit_out, spacing_out: of rounding a result to be stored, beyond that of its last operation; 0 where it is none.
    largest:               the largest number that can be an operand or a result.

    The spacing is that of the subnormal numbers (ω itself is no float64); twice the smallest normal number where
    results that underflow are flushed to zero.
    """

    name: str
    unit: float
    spacing: float
    largest: float
    unit_in: float = 0.0
    spacing_in: float = 0.0
    unit_out: float = 0.0
    spacing_out: float = 0.0

    def stored(self) -> Precision:
        """This precision with every result rounded to the format of the inputs when it is stored, as pure bf16 does."""
        return dataclasses.replace(
            self, name=f"{self.name}, stored", unit_out=self.unit_in, spacing_out=self.spacing_in
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
FP16 = dataclasses.replace(_MATRIX_UNIT, name="fp16", unit_in=2.0**-11, spacing_in=2.0**-24, largest=65504.0)


def gamma(n: int, u: float) -> float:
    """γ_n = n·u/(1 − n·u); SoRAError where n·u ≥ 1 and no bound holds (SORA-BOUND-1)."""
    require(n * u < 1, f"{n} roundings of unit roundoff {u}: expected n*u < 1, beyond which no bound holds")
    return n * u / (1 - n * u)


@dataclass(frozen=True)
class _Path:
    """The longest way of a product into a result: its roundings N, multiplications, matrix products, stored results."""

    roundings: int
    multiplications: int
    products: int
    stored: int

    def dropping(self, keep: Array | None) -> _Path:
        """This way through inverted dropout: 1 − p, that number in the dtype, and the quotient, which may underflow."""
        if keep is None:
            return self
        return dataclasses.replace(self, roundings=self.roundings + 3, multiplications=self.multiplications + 1)

    def relative(self, precision: Precision) -> float:
        """K/(1 − K), K the sum of all relative errors on the way; γ_N where nothing but operations rounds."""
        K = self.roundings * precision.unit
        K += 2 * self.products * precision.unit_in + self.stored * precision.unit_out
        require(
            K < 1, f"relative errors in {precision.name} add up to {K}: expected less than 1, no bound holds beyond"
        )
        return K / (1 - K)

    def absolute(self, precision: Precision) -> float:
        """What underflow may cost: ω for each multiplication and for rounding s, and those of inputs and results.

        Halves are rounded up, and up from an even number too: near its own smallest numbers float64 rounds the bound.
        """
        own = ((self.multiplications + 1) // 2 + 1) * precision.spacing
        return own + self.products * precision.spacing_in + (self.stored // 2 + 1) * precision.spacing_out


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
    Raises SoRAError where some partial product may overflow, for then no bound holds.
    """
    precision = precision or precision_of(x)
    rank = adapter.rank if adapter is not None else 0
    path = _Path(W0.shape[1] + rank + 5, 4, 2, 6).dropping(keep)
    S, S1 = (_forward(x, W0, b, adapter, keep, p, least)[0] for least in (0.0, 1.0))
    return _evaluated(path, S, S1, precision)


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
    precision and errors as in `linear_bound`.
    """
    precision = precision or precision_of(x)
    out, in_ = W0.shape
    n, rank = math.prod(x.shape[:-1]), adapter.rank if adapter is not None else 0
    paths = (
        _Path(out + rank + 4, 4, 2, 5).dropping(keep),  # dx
        _Path(out + n + 3, 4, 2, 4).dropping(keep),  # dA
        _Path(in_ + out + n + 2, 4, 3, 5).dropping(keep),  # dg
        _Path(in_ + n + 3, 4, 2, 4).dropping(keep),  # dB
        _Path(n, 1, 1, 1),  # dW0
        _Path(n, 0, 0, 1),  # db
    )
    S, S1 = (_backward(dy, x, W0, adapter, keep, p, least) for least in (0.0, 1.0))
    of_each = zip(paths, S, S1, strict=True)
    return LinearGrads(*(None if s is None else _evaluated(path, s, s1, precision) for path, s, s1 in of_each))


def merge_bound(W0: Array, adapter: SoRA, *, precision: Precision | None = None) -> Array:
    """Largest |Ŵ − (W0 + ΔW)| of `merge`, for any association of ΔW; (out, in), float64 (SORA-BOUND-6)."""
    precision = precision or precision_of(W0)
    path = _Path(adapter.rank + 4, 3, 1, 4)
    size = _size(W0, 0.0)
    change, change1 = (_change(adapter, least) for least in (0.0, 1.0))
    kept = (precision.unit + precision.unit_out) * size
    return kept * _INFLATION + _evaluated(path, change, size + change1, precision)


def unmerge_bound(W0: Array, adapter: SoRA) -> Array:
    """Largest |(W0 ⊕ ΔW) ⊖ ΔW − W0| of an unmerge that kept no W0; (out, in), float64 (SORA-BOUND-3).

    Both ΔW are computed alike and cancel, so only the two additions round: u(|W0| + |ΔW|) and u(|W0| + 2|ΔW|) at most,
    to first order; the computed |ΔW| is bounded from its factors, underflow included.  Additions do not underflow.
    """
    precision = precision_of(W0)
    u, size = precision.unit, _size(W0, 0.0)
    path = _Path(adapter.rank + 4, 3, 1, 4)
    C, C1 = (_change(adapter, least) for least in (0.0, 1.0))
    change = C + _evaluated(path, C, size + C1, precision)
    return (1 + u) ** 2 * u * (2 * size + 3 * change) * _INFLATION


def _forward(
    x: Array, W0: Array, b: Array | None, adapter: SoRA | None, keep: Array | None, p: Any, least: float
) -> tuple[Array, Any]:
    """The forward of the magnitudes, each raised to at least `least`."""
    bias = None if b is None else _size(b, least)
    return sora_linear_forward(_size(x, least), _size(W0, least), bias, _sized(adapter, least), keep=keep, p=p)


def _backward(
    dy: Array, x: Array, W0: Array, adapter: SoRA | None, keep: Array | None, p: Any, least: float
) -> LinearGrads:
    """The backward of the magnitudes, each raised to at least `least`."""
    _, cache = _forward(x, W0, None, adapter, keep, p, least)
    return sora_linear_backward(_size(dy, least), cache, dW0=True, db=True)


def _change(adapter: SoRA, least: float) -> Array:
    """|s|·(|B| ⊙ |g|)|A|, every magnitude raised to at least `least`."""
    A, g, B, s = _raised(adapter, least)
    return (s * (B * g)) @ A


def _sized(adapter: SoRA | None, least: float) -> SoRA | None:
    return None if adapter is None else _raised(adapter, least)


def _raised(adapter: SoRA, least: float) -> SoRA:
    A, g, B = (_size(part, least) for part in (adapter.A, adapter.g, adapter.B))
    return SoRA(A, g, B, max(abs(adapter.s), least))


def _size(t: Array, least: float) -> Array:
    xp = array_namespace(t)
    return xp.maximum(xp.abs(xp.astype(t, xp.float64)), least)


def _evaluated(path: _Path, S: Array, S1: Array, precision: Precision) -> Array:
    """The bound, inflated.  S₁ also bounds every intermediate number, which the precision has to hold."""
    xp = array_namespace(S)
    relative = path.relative(precision)
    held = backends.to_host(xp.all((1 + relative) * S1 <= precision.largest))
    require(
        bool(held),
        f"an intermediate number may overflow {precision.name}: expected smaller magnitudes for a bound to hold",
    )
    return (relative * S + (1 + relative) * path.absolute(precision) * S1) * _INFLATION
