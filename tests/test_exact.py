"""The backend `exact`: rationals in, rationals out, and no float in between."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import rationals

from sora_ref.backends import get, of
from sora_ref.backends.exact_backend import Rational

EXACT = get("exact")


@given(rationals, rationals.filter(bool))
def test_arithmetic_is_that_of_fractions_and_stays_rational(a: Fraction, b: Fraction) -> None:
    p, q = Rational(a), Rational(b)
    found = (p + q, p - q, p * q, p / q, a + q, a - q, a * q, a / q, -p, abs(p), +p, p**2, 1 / q, 2 - p)
    expected = (a + b, a - b, a * b, a / b, a + b, a - b, a * b, a / b, -a, abs(a), a, a**2, 1 / b, 2 - a)
    assert found == expected
    assert {type(value) for value in found} == {Rational}


@pytest.mark.parametrize("stray", [0.5, np.float32(0.5), np.float64(0.5), 1j])
def test_a_float_that_meets_a_rational_is_an_error(stray: object) -> None:
    array = EXACT.from_host(np.array([1.0, 2.0]))
    for meet in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__"):
        with pytest.raises(TypeError, match="met exact arithmetic"):
            getattr(Rational(1, 3), meet)(stray)
    with pytest.raises(TypeError, match="met exact arithmetic"):
        array * stray
    with pytest.raises(TypeError, match="met exact arithmetic"):
        array @ np.array([0.5, 0.5])


def test_roots_and_other_irrational_functions_are_errors() -> None:
    array = EXACT.from_host(np.array([2.0]))
    with pytest.raises(TypeError, match="irrational"):
        array ** Rational(1, 2)
    with pytest.raises(TypeError):
        np.sqrt(array)
    with pytest.raises(TypeError, match="erf is no rational function"):
        EXACT.erf(array)


def test_what_comes_back_to_the_host_has_been_looked_through() -> None:
    assert EXACT.to_host(np.array([Rational(1, 3), 0], object)).tolist() == [Fraction(1, 3), 0]
    for strayed in (np.array([Rational(1, 3), 0.5], object), np.array([0.5]), 0.5):
        with pytest.raises(TypeError, match=r"0\.5 crept into an exact array"):
            EXACT.to_host(strayed)


def test_host_arrays_become_the_rationals_they_are() -> None:
    there = EXACT.from_host(np.array([[0.1, -3.0]]))
    assert (there.shape, there[0, 0]) == ((1, 2), Fraction(3602879701896397, 2**55))
    assert {type(value) for value in there.ravel()} == {Rational}
    mask = np.array([True])
    assert EXACT.from_host(mask) is mask
    for bad in (np.nan, np.inf):
        with pytest.raises((ValueError, OverflowError)):
            EXACT.from_host(np.array([bad]))


@pytest.mark.parametrize("stray", [0.5, np.float64(0.5), np.float32(0.5), 0.5j, "1/2", None])
def test_a_float_among_objects_does_not_become_a_rational(stray: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{stray!r} crept into an exact array")):
        EXACT.from_host(np.array([Fraction(1, 3), 1, stray], object))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_of_every_width_become_rationals(dtype: type[np.floating[Any]]) -> None:
    there = EXACT.from_host(np.array([0.1, -3.0], dtype))
    assert there.tolist() == [Fraction(float(dtype(0.1))), -3]
    assert {type(value) for value in there} == {Rational}


@pytest.mark.parametrize("whole", [np.array([2, 0]), np.array([], np.int32), np.array([True, False]), np.int64(3)])
def test_indices_counts_and_masks_come_back_to_the_host_as_they_are(whole: Any) -> None:
    back = EXACT.to_host(whole)
    assert (back.dtype, back.tolist()) == (whole.dtype, whole.tolist())


def test_arrays_of_rationals_are_recognised_and_those_of_numpy_are_not() -> None:
    exact, plain = EXACT.from_host(np.ones(2)), np.ones(2)
    assert (of(exact).name, of(plain).name) == ("exact", "numpy")
    assert of(exact, np.array([True, False]), np.array([0])).name == "exact"
    assert EXACT.shares_memory(exact, exact[:1])
    assert not EXACT.shares_memory(exact, exact.copy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128"])
def test_rationals_beside_floats_are_of_no_backend(dtype: str) -> None:
    exact, floats = EXACT.from_host(np.ones(2)), np.ones(2, dtype)
    for mixture in ((exact, floats), (floats, exact), (exact, np.array([True]), floats)):
        with pytest.raises(TypeError, match=f"an array of {dtype} beside one of objects"):
            of(*mixture)


def test_scatter_add_sums_duplicates_exactly() -> None:
    updates = EXACT.from_host(np.array([[1.0], [2.0], [4.0]]))
    out = EXACT.scatter_add(3, np.array([2, 0, 2]), updates)
    assert out.tolist() == [[2], [0], [5]]
    assert {type(value) for value in out.ravel()} == {Rational}
