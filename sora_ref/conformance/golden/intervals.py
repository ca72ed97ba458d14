"""Numbers known to lie in an interval: the specification's steps run on them, as they run on rationals and on symbols.

Two kinds matter.  With U = 0 the ends are a few 2⁻³²⁰ apart, and what comes out rounds to one number: the correctly
rounded result, roots included, on every machine.  With U > 0 every operation widens its result by U, and every number
that is no integer (a β, a learning rate) is widened by U where it enters; what comes out encloses all that an
arithmetic can give whose operations lose U at most, over several steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np

from sora_ref.backends.exact_backend import Rational
from sora_ref.conformance.protocol.layer import Floats
from sora_ref.preconditions import require

SHIFT = 320  # ends are whole multiples of 2⁻³²⁰, rounded outwards


class Interval:
    """[low, high], in units of 2⁻³²⁰; U is 2^−unit_bits, or 0 where that is None."""

    __slots__ = ("high", "low")
    unit_bits: ClassVar[int | None] = None

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @classmethod
    def around(cls, low: int, high: int) -> Self:
        """This interval after one operation."""
        if cls.unit_bits is None:
            return cls(low, high)
        return cls(low - _up(abs(low), cls.unit_bits), high + _up(abs(high), cls.unit_bits))

    @classmethod
    def of(cls, value: Any) -> Interval:
        """A number as it enters an operation: integers are exact, others are rounded to the arithmetic."""
        if isinstance(value, Interval):
            return value
        exact = cls.exactly(value)
        return exact if isinstance(value, int) else cls.around(exact.low, exact.high)

    @classmethod
    def exactly(cls, value: Any) -> Self:
        """A number that is in the arithmetic already."""
        x = Fraction(value)
        scaled = x.numerator << SHIFT
        return cls(scaled // x.denominator, -(-scaled // x.denominator))

    def sqrt(self) -> Self:
        """√, by this name because NumPy calls it on the objects of an array."""
        low, high = math.isqrt(self.low << SHIFT), math.isqrt(self.high << SHIFT)
        return self.around(low, high + (high * high != self.high << SHIFT))

    def __pow__(self, exponent: float) -> Interval:
        """Of a whole number t ≥ 1, t − 1 products; of 0.5, the root."""
        if exponent == 0.5:
            return self.sqrt()
        result: Interval = self
        for _ in range(int(exponent) - 1):
            result = result * self
        return result

    def __neg__(self) -> Self:
        return type(self)(-self.high, -self.low)

    def __lt__(self, other: Any) -> bool:
        other = self.of(other)
        return _surely(self.high < other.low, self.low >= other.high)

    def __gt__(self, other: Any) -> bool:
        other = self.of(other)
        return _surely(self.low > other.high, self.high <= other.low)

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __eq__(self, other: object) -> bool:
        known = self.of(other)
        return self.low == self.high == known.low == known.high

    __hash__ = None  # type: ignore[assignment]  # intervals are compared, never looked up

    __add__: Any
    __radd__: Any
    __sub__: Any
    __rsub__: Any
    __mul__: Any
    __rmul__: Any
    __truediv__: Any
    __rtruediv__: Any


def _operation(hull: Callable[[Interval, Interval], tuple[int, int]]) -> tuple[Any, Any]:
    """The operator and its reflection, from the hull of the exact results."""

    def known(other: Any) -> bool:
        return isinstance(other, Interval | int | float | Fraction)  # an array goes through its elements

    def operator(self: Interval, other: Any) -> Any:
        return self.around(*hull(self, self.of(other))) if known(other) else NotImplemented

    def reflected(self: Interval, other: Any) -> Any:
        return self.around(*hull(self.of(other), self)) if known(other) else NotImplemented

    return operator, reflected


def _product(a: Interval, b: Interval) -> tuple[int, int]:
    corners = a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high
    return min(corners) >> SHIFT, _up(max(corners), SHIFT)


def _quotient(a: Interval, b: Interval) -> tuple[int, int]:
    require(b.low > 0 or b.high < 0, "a divisor may be 0: expected an interval without it")
    corners = [Fraction(x << SHIFT, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return math.floor(min(corners)), math.ceil(max(corners))


Interval.__add__, Interval.__radd__ = _operation(lambda a, b: (a.low + b.low, a.high + b.high))
Interval.__sub__, Interval.__rsub__ = _operation(lambda a, b: (a.low - b.high, a.high - b.low))
Interval.__mul__, Interval.__rmul__ = _operation(_product)
Interval.__truediv__, Interval.__rtruediv__ = _operation(_quotient)


class Sharp(Interval):
    """Without any rounding but that of the ends."""

    __slots__ = ()


class Float64(Interval):
    """Of float64, U = 4u: four roundings in another association for each operation of the specification's formulas."""

    __slots__ = ()
    unit_bits = 51


class Float32(Interval):
    """Of float32, U = 4u."""

    __slots__ = ()
    unit_bits = 22


ROUNDED: dict[str, type[Interval]] = {"float64": Float64, "float32": Float32}


def intervals(kind: type[Interval], x: Floats) -> Any:
    """The numbers of an array, exactly, as an object array of this kind."""
    return _zipped(kind.exactly, x)


def ends(x: Any) -> tuple[Any, Any]:
    """Low and high ends of an object array of intervals, as arrays of rationals."""
    return _zipped(lambda each: Rational(each.low, 1 << SHIFT), x), _zipped(
        lambda each: Rational(each.high, 1 << SHIFT), x
    )


def cut(threshold: Callable[[Any, Any], Any], v: Any, amount: Any) -> Any:
    """The specification's threshold map on intervals, after one rounding; SoRAError where it may jump in between.

    v: an object array of intervals of one kind; amount: the like, or a number.
    T is monotone in both arguments on either side of zero, and so is the released map between its jumps: so the hull
    of the four corners encloses it.
    """
    kind = type(v.ravel()[0])
    amounts = _zipped(kind.of, np.broadcast_to(np.asarray(amount, object), v.shape))
    corners = [threshold(value, a) for value in ends(v) for a in ends(amounts)]
    for value, a, *cuts in zip(v.ravel(), amounts.ravel(), *(each.ravel() for each in corners), strict=True):
        outside = value.high < -a.high or value.low > a.high
        settled = outside or value == 0 or (-a.low < value.low and value.high < a.low)
        one_support = len({corner == 0 for corner in cuts}) == 1
        require(settled and one_support, "a value lies on the threshold, or on a jump: expected numbers away from it")

    def hull(*cuts: Rational) -> Any:
        found = [kind.exactly(each) for each in cuts]
        return kind.around(min(each.low for each in found), max(each.high for each in found))

    return _zipped(hull, *corners)


def _zipped(function: Callable[..., Any], *arrays: Any) -> Any:
    """The function, entry by entry, as an object array."""
    result = np.empty(arrays[0].shape, object)
    result.ravel()[:] = [function(*values) for values in zip(*(each.ravel().tolist() for each in arrays), strict=True)]
    return result


def _surely(yes: bool, no: bool) -> bool:
    require(yes or no, "two intervals overlap, and were to be compared: expected numbers further apart")
    return yes


def _up(x: int, bits: int) -> int:
    """x/2^bits, rounded up."""
    return -(-x >> bits)
