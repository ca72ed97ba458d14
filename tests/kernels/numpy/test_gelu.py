"""NumPy's faster GELU beside the specification's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fitted_gelu import CLAIM, U, allowed, grid, in_float64
from places import PLACES, check_nan, check_places

from sora_ref.kernels.numpy.gelu import gelu_forward, gelu_value
from sora_ref.models import layers

EXP = 4 * 2 * U  # NumPy tests its float32 loops to 4 ulp, and an ulp is at most 2u of the number


def test_float32_gelu_and_derivative_are_within_the_fit_and_its_roundings() -> None:
    x = grid()
    for found, expected, bound in zip(gelu_forward(x), in_float64(x), allowed(x, EXP), strict=True):
        assert np.all(np.abs(found.astype(np.float64) - expected) <= bound)


def test_float32_gelu_and_derivative_are_as_near_as_the_docstring_claims() -> None:
    x = grid()
    for found, expected in zip(gelu_forward(x), in_float64(x), strict=True):
        assert found.dtype == np.float32
        assert np.max(np.abs(found.astype(np.float64) - expected)) <= CLAIM


def test_float32_gelu_of_a_large_number_is_the_number_or_zero_and_of_zero_zero() -> None:
    x = np.array([15, 100, 1e10, 1e30], np.float32)  # from 15 on, x·φ(x) underflows
    y, derivative = gelu_forward(x)
    assert y.tolist() == x.tolist()
    assert derivative.tolist() == [1.0] * 4
    y, derivative = gelu_forward(-x)
    assert np.all(np.abs(y) == 0)
    assert np.all(derivative == 0)
    assert gelu_forward(np.array([0.0], np.float32))[0].tolist() == [0.0]


@pytest.mark.parametrize("value", [1e19, 1e30, 1e36, 1e38, float(np.finfo(np.float32).max)])
def test_huge_values_and_tiny_ones_warn_of_nothing(value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (value, -value, 1 / value):
            gelu_forward(np.full(3, x, np.float32))


@pytest.mark.parametrize("where", [0, 2])
def test_nan_stays_where_it_is(where: int) -> None:
    check_nan(gelu_forward, where)


def test_float64_gelu_is_the_specifications_bit_for_bit() -> None:
    x = grid().astype(np.float64)
    for found, expected in zip(gelu_forward(x), layers.gelu_forward(x), strict=True):
        assert found.tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", PLACES)
def test_gelu_depends_on_the_values_and_not_on_their_place_in_memory(place: str, dtype: str) -> None:
    check_places(gelu_forward, place, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_evaluation_gets_the_same_values_and_nothing_to_keep(dtype: str) -> None:
    x = grid().astype(dtype)
    y, kept = gelu_value(x)
    assert kept is None
    assert y.tobytes() == gelu_forward(x)[0].tobytes()
