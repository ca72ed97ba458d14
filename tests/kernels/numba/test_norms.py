"""The compiled LayerNorm and RMSNorm beside the specification's, over shapes and places in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS, SIZES, normal
from norm_cases import LEADING, check_layer_norm, check_rms_norm, draw
from places import read_only
from same_bits import same_bits

from sora_ref.kernels.numba.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    layer_norm_value,
)
from sora_ref.kernels.numba.rms_norm import rms_norm_backward, rms_norm_forward, rms_norm_value
from sora_ref.models import layers

Floats = npt.NDArray[Any]
EPS = 1e-5


class Norm(NamedTuple):
    """One norm's functions, each of x (..., d) with a weight that is not 1 and, if there is one, a bias."""

    forward: Callable[[Floats], Any]
    value: Callable[[Floats], Any]
    backward: Callable[..., Any]
    specified: Callable[[Floats], Any]


def parameters(x: Floats) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    return normal(rng, str(x.dtype), x.shape[-1]), normal(rng, str(x.dtype), x.shape[-1])


LAYER = Norm(
    lambda x: layer_norm_forward(x, *parameters(x), EPS),
    lambda x: layer_norm_value(x, *parameters(x), EPS),
    layer_norm_backward,
    lambda x: layers.layer_norm_forward(x, *parameters(x), EPS),
)
RMS = Norm(
    lambda x: rms_norm_forward(x, parameters(x)[0], EPS),
    lambda x: rms_norm_value(x, parameters(x)[0], EPS),
    rms_norm_backward,
    lambda x: layers.rms_norm_forward(x, parameters(x)[0], EPS),
)
BOTH = pytest.mark.parametrize("norm", [LAYER, RMS], ids=["layer", "rms"])


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, leading=LEADING, d=st.integers(1, 70), size=SIZES)
def test_layer_norm_is_the_specifications(dtype: str, seed: int, leading: tuple[int, ...], d: int, size: float) -> None:
    check_layer_norm(draw(seed, dtype, leading, d, size), layer_norm_forward, layer_norm_backward)


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, leading=LEADING, d=st.integers(1, 70), size=SIZES)
def test_rms_norm_is_the_specifications(dtype: str, seed: int, leading: tuple[int, ...], d: int, size: float) -> None:
    check_rms_norm(draw(seed, dtype, leading, d, size), rms_norm_forward, rms_norm_backward)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, n=st.integers(0, 4), d=st.integers(1, 40), wider=st.integers(0, 3))
def test_the_norm_of_what_is_added_up_is_the_norm_of_the_sum(dtype: str, seed: int, n: int, d: int, wider: int) -> None:
    rng = np.random.default_rng(seed)
    x, residual = normal(rng, dtype, n, d + wider).copy()[:, :d], normal(rng, dtype, n, d)
    weight, bias = normal(rng, dtype, d), normal(rng, dtype, d)
    y, kept = layer_norm_forward(x, weight, bias, EPS, residual)
    right, kept_of_it = layer_norm_forward(x + residual, weight, bias, EPS)
    assert all(same_bits(a, b) for a, b in zip((y, *kept), (right, *kept_of_it), strict=True))
    assert same_bits(
        layer_norm_value(x, weight, bias, EPS, residual)[0], layer_norm_value(x + residual, weight, bias, EPS)[0]
    )


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 8, 100])
def test_an_evaluation_gets_the_same_values_and_nothing_to_keep(dtype: str, d: int, norm: Norm) -> None:
    x = normal(np.random.default_rng(0), dtype, 5, d)
    y, kept = norm.value(x)
    assert kept is None
    assert same_bits(y, norm.forward(x)[0])


@BOTH
@pytest.mark.parametrize("d", [1, 7, 8, 100])
def test_a_row_has_the_same_bits_alone_and_among_others(d: int, norm: Norm) -> None:
    rng = np.random.default_rng(1)
    x, dy = normal(rng, "float32", 6, d), normal(rng, "float32", 6, d)
    y, cache = norm.forward(x)
    dx = norm.backward(dy, cache)[0]
    for k in range(6):
        alone, of_row = norm.forward(x[k])
        assert same_bits(alone, y[k])
        assert same_bits(norm.backward(dy[k], of_row, parameters=False)[0], dx[k])


PLACES: dict[str, Callable[[Floats], Floats]] = {
    "rows apart": lambda x: np.pad(x, ((0, 0), (0, 3)))[:, :-3],
    "column by column": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "not to be written": read_only,
    "three axes": lambda x: np.pad(x, ((0, 0), (0, 3)))[:, :-3].reshape(2, 3, -1),
}


@BOTH
@pytest.mark.parametrize("place", PLACES)
def test_the_results_depend_on_the_values_and_not_on_their_place_in_memory(place: str, norm: Norm) -> None:
    rng = np.random.default_rng(2)
    x, dy = normal(rng, "float32", 6, 19), normal(rng, "float32", 6, 19)
    moved, dmoved = PLACES[place](x), PLACES[place](dy)
    y, cache = norm.forward(x)
    found, of_moved = norm.forward(moved)
    assert found.shape == moved.shape
    assert same_bits(found, y.reshape(moved.shape))
    assert same_bits(norm.value(moved)[0], found)
    for a, b in zip(norm.backward(dmoved, of_moved), norm.backward(dy, cache), strict=True):
        assert same_bits(a, b.reshape(a.shape))
    assert np.array_equal(moved, x.reshape(moved.shape))
    assert np.array_equal(dmoved, dy.reshape(moved.shape))


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_gives_what_the_specification_gives_in_its_row_alone(value: float, norm: Norm) -> None:
    x = normal(np.random.default_rng(4), "float32", 3, 11).copy()
    clean = norm.forward(x)[0]
    x[1, 4] = value
    with np.errstate(invalid="ignore"):
        expected = norm.specified(x)[0]
    for y in (norm.forward(x)[0], norm.value(x)[0]):
        np.testing.assert_array_equal(y[1], expected[1])
        assert same_bits(y[::2], clean[::2])


@BOTH
@pytest.mark.parametrize("value", [0.0, 0.25, 1e30, -8e37])
@pytest.mark.parametrize("d", [1, 4])
def test_constant_rows_and_huge_ones_give_what_the_specification_gives(value: float, d: int, norm: Norm) -> None:
    """d is a power of two, so that the mean of a constant row is exact; squares of 10³⁰ are infinite.

    Sums of magnitudes are not: where they are, it depends on the order what becomes of a sum.
    """
    x = np.full((2, d), value, np.float32)
    x[1] *= np.resize([1, -1], d)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = norm.specified(x)[0]
    y = norm.forward(x)[0]
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    # of the root 1 rounding may differ, the product and the sum with a bias may be one
    spread = 4 * 2.0**-24 * (np.abs(expected) + np.abs(parameters(x)[1]))
    assert np.all((np.abs(y - expected) <= spread) | np.isnan(expected))


@BOTH
def test_shapes_that_do_not_fit_are_refused(norm: Norm) -> None:
    """Compiled code would read beyond the end."""
    x = normal(np.random.default_rng(5), "float32", 2, 6)
    cache = norm.forward(x)[1]
    short = x[0, :5]
    with pytest.raises(ValueError, match="broadcast"):
        norm.backward(x[:, :5], cache)
    for refused in (
        lambda: layer_norm_forward(x, short, x[0], EPS),
        lambda: layer_norm_value(x, x[0], short, EPS),
        lambda: layer_norm_forward(x, x[0], x[0], EPS, x[:, :5]),
        lambda: rms_norm_forward(x, short, EPS),
        lambda: rms_norm_value(x, short, EPS),
        lambda: norm.backward(x, cache._replace(**{cache._fields[1]: np.ones((3, 1), np.float32)})),
    ):
        with pytest.raises(ValueError, match="broadcast"):
            refused()


@BOTH
def test_a_scale_for_all_rows_is_one_as_in_the_specification(norm: Norm) -> None:
    """Compiled code would look for one for each row.  Of small whole numbers, eight in a row, every sum is exact."""
    rng = np.random.default_rng(5)
    x, xhat, weight = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((64, 8), (64, 8), 8))
    cache = norm.forward(x)[1]._replace(xhat=xhat, weight=weight)
    of_rows, of_all = (cache._replace(**{cache._fields[1]: np.full(n, 0.5, np.float32)}) for n in ((64, 1), (1, 1)))
    for found, right in zip(norm.backward(x, of_all), norm.backward(x, of_rows), strict=True):
        np.testing.assert_array_equal(found, right)
