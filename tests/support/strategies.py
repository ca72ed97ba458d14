"""Hypothesis strategies, exact loops and the array spaces that the tests of the specification share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from sora_ref import SoRA
from sora_ref.backends.exact_backend import Rational

Exact = npt.NDArray[Any]  # object array of rationals
Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Space:
    """One way to hold arrays: its name, and the roads in from nested lists and out to NumPy.

    asarray:  (values, dtype="float64"); "bool" and "int64" are legal too.  The exact space has rationals for every
              float dtype.
    to_numpy: NumPy array of the same values; the exact backend raises where a float has crept in.
    """

    name: str
    asarray: Callable[..., Any]
    to_numpy: Callable[[Any], npt.NDArray[Any]]

    @property
    def exact(self) -> bool:
        return self.name == "exact"

    def number(self, value: Any) -> Any:
        """A scalar argument: a Fraction in the exact space, a float elsewhere."""
        return Rational(value) if self.exact else float(value)

    def adapter(self, A: Any, g: Any, B: Any, s: Any, dtype: str = "float64") -> SoRA:
        return SoRA(self.asarray(A, dtype), self.asarray(g, dtype), self.asarray(B, dtype), self.number(s))

    def fractions(self, x: Any) -> Exact:
        """The values of an array of this space, exactly."""
        return exact(self.to_numpy(x))


def exact(values: Any) -> Exact:
    """Object array of the rationals these finite numbers are: of the backend `exact`, which lets no float near."""
    given = np.asarray(values)
    return np.reshape(np.array([Rational(value) for value in given.ravel().tolist()] or [], object), given.shape)


def all_equal(a: Any, b: Any) -> bool:
    """Same shape, and every element equal: exact, no tolerance."""
    x, y = np.asarray(a), np.asarray(b)
    return x.shape == y.shape and all(p == q for p, q in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True))


def inner(a: Exact, b: Exact) -> Fraction:
    """⟨a, b⟩ over the rationals."""
    assert a.shape == b.shape
    return sum((Fraction(p) * Fraction(q) for p, q in zip(a.ravel(), b.ravel(), strict=True)), Fraction(0))


def gamma(n: int, u: Fraction) -> Fraction:
    """γ_n = n·u/(1 − n·u), exactly."""
    assert n * u < 1
    return n * u / (1 - n * u)


def unit_roundoff(dtype: Any) -> Fraction:
    return Fraction(float(np.finfo(dtype).eps)) / 2


def half_subnormal(dtype: Any) -> Fraction:
    """ω, what one multiplication may lose to gradual underflow; below the range of its own dtype."""
    return Fraction(float(np.finfo(dtype).smallest_subnormal)) / 2


def rounded(value: Fraction, dtype: Any) -> Any:
    """The number of `dtype` nearest to `value`, ties to even: correct rounding, by comparison with the neighbours."""
    kind = np.dtype(dtype).type
    middle = kind(float(value))
    near = [np.nextafter(middle, kind(-np.inf)), middle, np.nextafter(middle, kind(np.inf))]
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]
    return min(near, key=lambda c: (abs(Fraction(float(c)) - value), int(np.asarray(c).view(bits)) % 2))


def loop_forward(
    x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any, s: Any, keep: Any = None, p: Any = 0, base: bool = True
) -> Exact:
    """The SoRA linear, element by element over the rationals; x is (..., in).  base: whether to add x W0ᵀ + b."""
    rows = exact(np.reshape(np.asarray(x), (math.prod(np.shape(x)[:-1]), np.shape(x)[-1])))
    mask = np.ones(rows.shape, bool) if keep is None else np.reshape(np.asarray(keep), rows.shape)
    W, down, gate, up, scale = exact(W0), exact(A), exact(g), exact(B), Fraction(s)
    bias = None if b is None else exact(b)
    out = np.empty((rows.shape[0], W.shape[0]), object)
    for n in range(out.shape[0]):
        for o in range(out.shape[1]):
            total = Fraction(0)
            if base:
                for k in range(W.shape[1]):
                    total += rows[n, k] * W[o, k]
                total += 0 if bias is None else bias[o]
            for i in range(gate.shape[0]):
                z = Fraction(0)
                for k in range(W.shape[1]):
                    z += down[i, k] * (rows[n, k] / (1 - Fraction(p)) if mask[n, k] else 0)
                total += scale * up[o, i] * gate[i] * z
            out[n, o] = total
    return np.reshape(out, (*np.shape(x)[:-1], W.shape[0]))


# Dyadic rationals so short that every product of five of them, and every sum the tests form, fits float64 exactly:
# one expected value then serves the exact space and the float spaces alike, with ==.
dyadics = st.integers(-8, 8).map(lambda k: Fraction(k, 4))
rationals = st.fractions(min_value=-5, max_value=5, max_denominator=12)
thresholds = st.fractions(min_value=0, max_value=4, max_denominator=8)
sizes = st.integers(1, 4)
ranks = st.integers(0, 6)  # above min(in, out) more often than not
batches: st.SearchStrategy[tuple[int, ...]] = st.sampled_from([(), (1,), (3,), (2, 2), (0,), (2, 0), (0, 3), (1, 2, 1)])
dropouts = st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(3, 4)])
keys = st.integers(0, 2**31 - 1)


def array_of(shape: Sequence[int], elements: st.SearchStrategy[Fraction] = dyadics) -> st.SearchStrategy[Exact]:
    """Object arrays of this shape."""
    count = math.prod(shape)

    def build(values: list[Fraction]) -> Exact:
        out = np.empty(count, object)
        out[:] = values
        return out.reshape(tuple(shape))

    return st.lists(elements, min_size=count, max_size=count).map(build)


def gates(rank: int, elements: st.SearchStrategy[Fraction] = dyadics) -> st.SearchStrategy[Exact]:
    """Gates whose zeros follow an arbitrary pattern; the others are open."""
    open_gate = elements.filter(bool)
    return array_of((rank,), st.one_of(st.just(Fraction(0)), open_gate, open_gate))


class LinearCase(NamedTuple):
    """Arguments of one SoRA linear, exactly."""

    x: Exact
    W0: Exact
    b: Exact | None
    A: Exact
    g: Exact
    B: Exact
    s: Fraction

    @property
    def open(self) -> tuple[int, ...]:
        return tuple(i for i, gate in enumerate(self.g) if gate != 0)


@st.composite
def linear_cases(draw: st.DrawFn, elements: st.SearchStrategy[Fraction] = dyadics) -> LinearCase:
    in_, out, r, batch = draw(sizes), draw(sizes), draw(ranks), draw(batches)
    b = draw(st.none() | array_of((out,), elements))
    shapes = ((*batch, in_), (out, in_), (r, in_), (out, r))
    x, W0, A, B = (draw(array_of(shape, elements)) for shape in shapes)
    return LinearCase(x, W0, b, A, draw(gates(r, elements)), B, draw(elements))


def spread(shape: Iterable[int], kind: str, dtype: Any, rng: np.random.Generator) -> Floats:
    """Floats of one kind of magnitude; any product of five and its sums stay inside the range of `dtype`."""
    shape = tuple(shape)
    normal = rng.standard_normal(shape)
    wide = 6 if np.dtype(dtype) == np.float32 else 50  # 5·(6 + 1) < 38, 5·(50 + 1) < 308
    deep = 45 if np.dtype(dtype) == np.float32 else 323  # the last decade of the subnormals
    if kind == "plain":
        out = normal
    elif kind == "huge":
        out = normal * 10.0**wide
    elif kind == "tiny":
        out = normal * 10.0 ** rng.integers(-deep, -deep // 5, shape)
    elif kind == "cancelling":
        signs = np.where(np.arange(math.prod(shape)).reshape(shape) % 2 == 0, 1.0, -1.0)
        out = signs * (1 + rng.integers(-3, 4, shape) * float(np.finfo(dtype).eps))
    else:
        assert kind == "mixed"
        out = normal * 10.0 ** rng.uniform(-deep, wide, shape)
    return np.clip(out, -(10.0 ** (wide + 1)), 10.0 ** (wide + 1)).astype(dtype)


MAGNITUDES = ("plain", "huge", "tiny", "cancelling", "mixed")


class FloatCase(NamedTuple):
    """Arguments of one SoRA linear in a float dtype; s is a Python float."""

    x: Floats
    W0: Floats
    b: Floats | None
    A: Floats
    g: Floats
    B: Floats
    s: float

    @property
    def adapter(self) -> SoRA:
        return SoRA(self.A, self.g, self.B, self.s)


@st.composite
def float_cases(draw: st.DrawFn, dtype: Any) -> FloatCase:
    in_, out, r, rng = draw(st.integers(1, 5)), draw(sizes), draw(ranks), np.random.default_rng(draw(keys))
    shapes = {"x": (draw(st.integers(0, 2)), in_), "W0": (out, in_), "b": (out,), "A": (r, in_), "g": (r,)}
    shapes["B"], shapes["s"] = (out, r), (1,)
    same = draw(st.none() | st.sampled_from(MAGNITUDES))
    kinds = {name: same or draw(st.sampled_from(MAGNITUDES)) for name in shapes}
    found = {name: spread(shape, kinds[name], dtype, rng) for name, shape in shapes.items()}
    found["g"][rng.random(r) < draw(st.sampled_from([0.0, 0.5]))] = 0
    least = float(np.finfo(dtype).smallest_subnormal)
    s = draw(st.sampled_from([0.1, 2.0, 16 / 3, float(found["s"][0]), 1e4 / 3 * least, 0.4 * least]))
    b = found["b"] if draw(st.booleans()) else None
    return FloatCase(found["x"], found["W0"], b, found["A"], found["g"], found["B"], s)
