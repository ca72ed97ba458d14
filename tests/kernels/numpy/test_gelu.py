"""NumPy's faster GELU beside the specification's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sora_ref.bounds import gamma
from sora_ref.kernels.numpy.gelu import BLOCK, P, Q, gelu_forward, gelu_value
from sora_ref.models import layers

Floats = npt.NDArray[Any]

U = 2.0**-24
CLAIM = 3e-7  # the kernel's docstring
EXP = 4 * 2 * U  # NumPy tests its float32 loops to 4 ulp, and an ulp is at most 2u of the number
SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "transposed": lambda x: x.T,
    "column by column": np.asfortranarray,
    "every second": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1],
    "three axes": lambda x: np.moveaxis(np.stack([x, -x]), 0, 2),
    "broadcast": lambda x: np.broadcast_to(x[0], (4, *x[0].shape)),
    "empty": lambda x: x[:0],
    "a number": lambda x: x[0, 0, ...],
    "more than a block": lambda x: np.resize(x, (3, BLOCK)),
}


def in_float64(x: Floats) -> tuple[Floats, Floats]:
    """The specification's GELU and derivative."""
    y, derivative = layers.gelu_forward(x.astype(np.float64))
    return np.asarray(y), np.asarray(derivative)


def grid() -> Floats:
    """[-40, 40] in steps of 2⁻¹⁴, and every float32 around the largest error."""
    steps = (np.arange(-40 * 2**14, 40 * 2**14 + 1) / 2**14).astype(np.float32)
    first, last = (np.float32(end).view(np.int32) for end in (4.75, 5.25))
    near = np.arange(first, last, dtype=np.int32).view(np.float32)
    return np.concatenate([steps, near, -near])


def allowed(x: Floats) -> Floats:
    """Largest |ŷ − y|: what the fit leaves, and what float32 adds to it.

    t = 1/(1 + P·a) meets 4 roundings, P's own among them, and Horner's sum γ₃₁ of its magnitudes: 10 for its 5 steps, 1
    for a coefficient, 4 for each of 5 factors t.  exp meets x²·u/2 for its rounded argument, and its own.  Two products
    more, and the last difference.
    """
    wide = x.astype(np.float64)
    a = np.abs(wide)
    t, density = 1 / (1 + P * a), np.exp(-0.5 * a * a)
    sizes = t * np.polynomial.polynomial.polyval(t, np.abs(Q))
    tail = density * t * np.polynomial.polynomial.polyval(t, Q)
    expected = in_float64(x)[0]
    fitted = np.maximum(wide, 0) - a * tail
    rounded = density * gamma(31, U) * sizes + tail * (a * a * U / 2 + EXP + 3 * U)
    lost = (2 + 2 * a) * float(np.finfo(np.float32).smallest_subnormal)  # where exp or a product underflows
    return np.asarray(np.abs(fitted - expected) + 1.01 * a * rounded + U * np.abs(expected) + lost)


def test_float32_gelu_is_within_its_fit_and_its_roundings() -> None:
    x = grid()
    error = np.abs(gelu_forward(x)[0].astype(np.float64) - in_float64(x)[0])
    assert np.all(error <= allowed(x))


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
    x = np.array([0.5, -0.25, 3.0], np.float32)
    x[where] = np.nan
    for part, clean in zip(gelu_forward(x), gelu_forward(np.nan_to_num(x)), strict=True):
        assert np.isnan(part[where])
        others = np.arange(3) != where
        assert part[others].tolist() == clean[others].tolist()


def test_float64_gelu_is_the_specifications_bit_for_bit() -> None:
    x = grid().astype(np.float64)
    for found, expected in zip(gelu_forward(x), layers.gelu_forward(x), strict=True):
        assert found.tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_depends_on_the_values_and_not_on_their_place_in_memory(shape: str, dtype: str) -> None:
    x = SHAPES[shape](np.linspace(-3, 3, 20, dtype=dtype).reshape(4, 5))
    before = x.copy()
    whole = np.ascontiguousarray(x).reshape(x.shape)
    for found, expected in zip(gelu_forward(x), gelu_forward(whole), strict=True):
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_evaluation_gets_the_same_values_and_nothing_to_keep(dtype: str) -> None:
    x = grid().astype(dtype)
    y, kept = gelu_value(x)
    assert kept is None
    assert y.tobytes() == gelu_forward(x)[0].tobytes()
