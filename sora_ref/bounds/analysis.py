"""The running error analysis behind every bound: relative errors on a path, and what underflow may take beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.bounds.precision import Precision, gamma
from sora_ref.linear import SoRA
from sora_ref.preconditions import require

INFLATION = 1 + 2.0**-20


class Path(NamedTuple):
    """The longest way of a product into a result: its roundings N, matrix products, stored intermediate results."""

    roundings: int
    products: int
    stored: int

    def relative(self, precision: Precision, *, dropout: bool = False) -> float:
        """K/(1 − K), K the sum of all relative errors on the way: γ_N where nothing but operations rounds."""
        roundings, stored = self.roundings + 3 * dropout, self.stored + 2 * dropout
        K = roundings * precision.unit + 2 * self.products * precision.unit_in + stored * precision.unit_out
        return gamma(1, K)


class Underflow:
    """Ω of a result: what underflow may take from its matrix products, carried along beside their magnitudes.

    Losses are absolute errors, in multiples of the precision's spacings:

    - An operand loses spacing_in when it is rounded, spacing/2 in each multiplication by a gate, by s and by 1/(1 − p),
      and spacing_out when it is stored.
    - A sum of n products loses n·spacing, additions that are flushed to zero included; and n·spacing_out where every
      product is stored before it is added, as those of dg are.
    - s loses spacing/2 when it is rounded, and a gate as much when s multiplies it; spacing_out/2 each when they are
      stored.

    Gates and s may multiply the first two losses: `factor` is the most they can.  All other factors of the product may
    multiply the third.  Of spacing every loss is counted twice, since float64, in which the bound is evaluated,
    underflows too.

    precision: that of the computation.  relative: K/(1 − K) of the result.  adapter: its magnitudes' gates and s count.
    """

    def __init__(self, precision: Precision, relative: float, adapter: SoRA | None) -> None:
        self.precision, self.relative, self.scale = precision, relative, 1.0
        self.factor: Any = 1.0  # what may follow a loss: s and a gate
        if adapter is not None and rank_of(adapter):
            self.scale = max(abs(adapter.s), 1.0)
            self.factor = self.scale * array_namespace(adapter.g).max(size_of(adapter.g, 1.0))
            self.require_results(self.factor)
        self.operand = self.factor * (precision.spacing_in + precision.spacing_out + 4 * precision.spacing)

    def chain(self, *sizes: Array) -> Array:
        """What a product of these magnitudes loses at most, in whatever association, as an array of its shape."""
        size, lost = self._chain(sizes)
        return lost + (2 * self.precision.spacing + self.precision.spacing_out) * size

    def bound(self, S: Array, lost: Any) -> Array:
        """K/(1 − K)·S + (1 + K/(1 − K))·Ω, inflated; `lost` and the last operations of the result make Ω."""
        self.require_results(S)
        return INFLATION * (self.relative * S + (1 + self.relative) * (lost + self.operand))

    def require_operands(self, *sizes: Array) -> None:
        """SoRAError where an operand of a matrix product, in whatever association, may be more than it can hold."""
        for size in sizes:
            self._require_at_most(min(self.precision.largest_in, self.precision.largest), size)

    def require_results(self, size: Array) -> None:
        """SoRAError where a number that an operation gives may be more than the precision can hold."""
        self._require_at_most(self.precision.largest, size)

    def _require_at_most(self, largest: float, size: Array) -> None:
        held = backends.to_host(array_namespace(size).all((1 + self.relative) * size <= largest))
        require(bool(held), overflow_sentence(self.precision))

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


def sizes_of(adapter: SoRA) -> SoRA:
    """The magnitudes of an adapter, in float64."""
    return SoRA(size_of(adapter.A), size_of(adapter.g), size_of(adapter.B), abs(adapter.s))


def overflow_sentence(precision: Precision) -> str:
    """Why there is no bound where a number may be larger than the precision can hold."""
    return f"an intermediate number may overflow {precision.name}, or is NaN: expected smaller magnitudes"


def gated(M: Array, sizes: SoRA) -> Array:
    """The rows of M (r, ·) with s and the gates, each raised to at least 1, for either may stand elsewhere."""
    return array_namespace(M).expand_dims(max(sizes.s, 1.0) * size_of(sizes.g, 1.0), axis=1) * M


def size_of(t: Array, least: float = 0.0) -> Array:
    """|t| in float64, raised to at least `least`."""
    xp = array_namespace(t)
    return xp.maximum(xp.abs(xp.astype(t, xp.float64)), least)


def rank_of(adapter: SoRA | None) -> int:
    """The rank; 0 where there is no adapter."""
    return 0 if adapter is None else adapter.rank
