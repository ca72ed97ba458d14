"""What holds for every compiled activation: it has the specification's infinities, and cares for no element's place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS, SIZES, normal
from places import PLACES, check_nan, check_places
from same_bits import same_bits

from sora_ref.kernels.numba.gelu import gelu_forward, gelu_value
from sora_ref.kernels.numba.silu import silu_forward, silu_value
from sora_ref.models import layers

Floats = npt.NDArray[Any]


class Activation(NamedTuple):
    """One activation's functions."""

    forward: Callable[[Floats], tuple[Floats, Floats]]
    value: Callable[[Floats], tuple[Floats, None]]
    specified: Callable[[Floats], tuple[Floats, Floats]]


GELU = Activation(gelu_forward, gelu_value, layers.gelu_forward)
SILU = Activation(silu_forward, silu_value, layers.silu_forward)
BOTH = pytest.mark.parametrize("activation", [GELU, SILU], ids=["gelu", "silu"])


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", PLACES)
def test_the_results_depend_on_the_values_and_not_on_their_place_in_memory(
    place: str, dtype: str, activation: Activation
) -> None:
    check_places(activation.forward, place, dtype)
    check_places(lambda x: (activation.value(x)[0],) * 2, place, dtype)


@BOTH
def test_an_element_has_the_same_bits_wherever_it_stands(activation: Activation) -> None:
    """In the vectorised part of the loop, and in its rest."""
    x = np.linspace(-15, 15, 75, dtype=np.float32)
    for whole, alone in zip(
        activation.forward(x), zip(*(activation.forward(x[i : i + 1]) for i in range(75)), strict=True), strict=True
    ):
        assert same_bits(whole, np.concatenate(alone))


@BOTH
@pytest.mark.parametrize("where", [0, 2])
def test_nan_stays_where_it_is(where: int, activation: Activation) -> None:
    check_nan(activation.forward, where)


@BOTH
def test_infinities_are_what_the_specification_makes_of_them(activation: Activation) -> None:
    x = np.array([np.inf, -np.inf], np.float32)
    with np.errstate(invalid="ignore"):
        expected = activation.specified(x)
    for found, right in zip(activation.forward(x), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@BOTH
@pytest.mark.parametrize("value", [100.0, 1e19, 1e36, float(np.finfo(np.float32).max)])
def test_of_huge_values_it_is_the_value_or_zero_without_a_warning(value: float, activation: Activation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, derivative = activation.forward(np.array([value, -value, 1 / value], np.float32))
    assert y[:2].tolist() == [np.float32(value), 0]
    assert derivative[:2].tolist() == [1, 0]


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_evaluation_gets_the_same_values_and_nothing_to_keep(dtype: str, activation: Activation) -> None:
    x = np.linspace(-20, 20, 4001, dtype=dtype)
    y, kept = activation.value(x)
    assert kept is None
    assert same_bits(y, activation.forward(x)[0])


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, n=st.integers(0, 4), d=st.integers(0, 40), wider=st.integers(0, 3), size=SIZES)
def test_rows_that_lie_apart_give_the_bits_of_a_copy(
    dtype: str, activation: Activation, seed: int, n: int, d: int, wider: int, size: float
) -> None:
    x = normal(np.random.default_rng(seed), dtype, n, d + wider, size=size).copy()[:, :d]
    y, derivative = activation.forward(x)
    for found, expected in zip((y, derivative), activation.forward(x.copy()), strict=True):
        assert same_bits(found, expected)
    assert same_bits(activation.value(x)[0], y)
