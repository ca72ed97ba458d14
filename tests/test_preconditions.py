"""Preconditions: what passes, and the whole sentence of what does not."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from strategies import Space

from sora_ref import SoRAError
from sora_ref.preconditions import require, require_finite_number, require_one_dtype, require_shape


def whole(sentence: str) -> str:
    """The pattern of this sentence and no other."""
    return rf"\A{re.escape(sentence)}\Z"


def test_requirement_that_does_not_hold_is_refused_in_its_own_words() -> None:
    require(True, "x is (3,): expected less")
    with pytest.raises(SoRAError, match=whole("x is (3,): expected less")):
        require(False, "x is (3,): expected less")


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shape_that_is_expected_passes_as_tuple_or_list(floats: Space, shape: tuple[int, ...]) -> None:
    x = floats.asarray(np.ones(shape))
    require_shape("x", x, shape)
    require_shape("x", x, list(shape))


@pytest.mark.parametrize("expected", [(), (6,), (3, 2), (2, 3, 1), (2,)])
def test_shape_that_is_not_expected_is_refused_with_both_shapes(floats: Space, expected: tuple[int, ...]) -> None:
    for given in (expected, list(expected)):
        with pytest.raises(SoRAError, match=whole(f"W0 has shape (2, 3): expected {expected}")):
            require_shape("W0", floats.asarray(np.ones((2, 3))), given)


def test_arrays_of_one_dtype_pass_whatever_is_absent(floats: Space) -> None:
    x, y = floats.asarray([1.0], "float32"), floats.asarray([[2.0]], "float32")
    require_one_dtype({})
    require_one_dtype({"b": None})
    require_one_dtype({"x": x, "b": None, "y": y})


def test_mixed_dtypes_are_refused_by_the_names_of_those_present(floats: Space) -> None:
    x, y = floats.asarray([1.0], "float32"), floats.asarray([1.0], "float64")
    sentence = f"mixed dtypes (x {x.dtype}, y {y.dtype}, z {x.dtype}): expected one dtype for all"
    with pytest.raises(SoRAError, match=whole(sentence)):
        require_one_dtype({"x": x, "b": None, "y": y, "z": x})


@pytest.mark.parametrize("value", [0, -1, 2.5, -1e308, 10**400, -(10**400), Fraction(10**400), Fraction(1, 10**400)])
def test_finite_numbers_of_any_size_pass(value: Any) -> None:
    require_finite_number("xi", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("least", [None, 0])
def test_numbers_that_are_not_finite_are_refused(value: float, least: float | None) -> None:
    with pytest.raises(SoRAError, match=whole(f"xi is {value}: expected a finite number")):
        require_finite_number("xi", value, least=least)


@pytest.mark.parametrize("scalar", [np.float64(0.5), np.float32(0.5), np.int64(1), np.bool_(True), np.array(0.5)])
def test_numpy_scalars_are_refused(scalar: Any) -> None:
    sentence = f"xi is a scalar array {scalar!r}: expected a Python number, without dtype"
    with pytest.raises(SoRAError, match=whole(sentence)):
        require_finite_number("xi", scalar)


@pytest.mark.parametrize(
    ("least", "below"),
    [(0, -5e-324), (0, Fraction(-1, 10**400)), (1, math.nextafter(1, 0)), (-2.5, -3), (1, 0)],
)
def test_least_is_the_smallest_number_that_passes(least: float, below: Any) -> None:
    require_finite_number("xi", least, least=least)
    require_finite_number("xi", least + 1, least=least)
    with pytest.raises(SoRAError, match=whole(f"xi is {below}: expected at least {least}")):
        require_finite_number("xi", below, least=least)
