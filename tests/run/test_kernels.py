"""NumPy's faster GELU beside the specification's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_run import make_config, make_keys, run_once

from sora_ref.backends import get
from sora_ref.backends.numpy_kernels import _BLOCK, _LARGEST, _P, KERNELS, gelu_forward
from sora_ref.bounds import gamma
from sora_ref.models import MODEL_SPEC, layers
from sora_ref.run.setup import Labels, make_setup

Floats = npt.NDArray[Any]

U = 2.0**-24
CLAIM = 6e-7  # the kernel's docstring
TANH = 4 * 2 * U  # NumPy tests its float32 loops to 4 ulp, and an ulp of a number below 1 is at most 2u of it
SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "transposed": lambda x: x.T,
    "column by column": np.asfortranarray,
    "every second": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1],
    "three axes": lambda x: np.moveaxis(np.stack([x, -x]), 0, 2),
    "broadcast": lambda x: np.broadcast_to(x[0], (4, *x[0].shape)),
    "empty": lambda x: x[:0],
    "a number": lambda x: x[0, 0, ...],
    "more than a block": lambda x: np.resize(x, (3, _BLOCK)),
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

    p = x·P(x²) by Horner: γ₂₀ of the sum of magnitudes (12 for Horner's 6 steps, 6 for x² in them, 1 for a coefficient,
    1 for the last product).  Then tanh, which damps by sech²; ½·tanh + ½, one rounding; x·Φ, another.
    """
    wide = x.astype(np.float64)
    square = np.minimum(wide * wide, _LARGEST)
    p = np.abs(wide) * np.polynomial.polynomial.polyval(square, _P)
    error = gamma(20, U) * np.abs(wide) * np.polynomial.polynomial.polyval(square, np.abs(_P))
    fitted = wide * (0.5 + 0.5 * np.copysign(np.tanh(p), wide))
    expected = in_float64(x)[0]
    least = np.minimum(np.maximum(p - error, 0), 350)  # beyond, cosh² overflows and sech² is 0
    tanh = np.where(p - error > 20, 0, error / np.cosh(least) ** 2 + TANH)  # beyond 20 it is 1, however it is rounded
    cdf = 0.5 * tanh + U * np.minimum(0.5 + 0.5 * tanh + np.abs(expected / np.where(x == 0, 1, wide)), 1)
    cdf = np.where((p - error > 20) & (wide > 0), 0, cdf)  # ½·1 + ½ is exact
    return np.asarray(np.abs(fitted - expected) + (1 + U) * np.abs(wide) * cdf + U * np.abs(expected))


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
    assert [part.tolist() for part in gelu_forward(np.array([0.0], np.float32))] == [[0.0], [0.5]]


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


def test_a_run_uses_the_backends_kernels_unless_it_asks_for_the_reference(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    labels = Labels("classification", ("bad", "good"), ("accuracy",))
    assert dict(get("numpy").kernels) == KERNELS
    assert make_setup(make_config(keys), labels).ops.gelu_forward is gelu_forward
    assert make_setup(make_config(keys, kernels="reference"), labels).ops == MODEL_SPEC


def test_a_run_on_reference_kernels_never_calls_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Any) -> Any:
        raise AssertionError("the backend's kernel")

    keys = make_keys(tmp_path)
    monkeypatch.setitem(KERNELS, "gelu_forward", refuse)
    run_once(tmp_path / "run", keys, kernels="reference", train__epochs=1)
    with pytest.raises(AssertionError, match="the backend's kernel"):
        run_once(tmp_path / "other", keys, train__epochs=1)
