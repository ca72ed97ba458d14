"""The exponentials for compiled loops, beside NumPy's in float64."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from sora_ref.kernels.numba.exp import SMALLEST, exp32, exp32_of_nonpositive

Floats = npt.NDArray[Any]

RELATIVE = 2.0**-23 + 2.0**-50  # the module's derivation, and float64's own error
LOST = 2.0**-150  # half of the smallest subnormal
NORMAL = float(np.finfo(np.float32).smallest_normal)
OVERFLOW = 2.0**128 - 2.0**103  # what is nearer to 2¹²⁸ than to the largest float32
STRIDE = 4099  # a prime, so that the grid has all kinds of last bits
BLOCK = 2**16


@numba.njit
def exp_of_all(x: Floats, y: Floats) -> None:
    for i in range(x.size):
        y[i] = exp32(x[i])


@numba.njit
def exp_of_all_nonpositive(x: Floats, y: Floats) -> None:
    for i in range(x.size):
        y[i] = exp32_of_nonpositive(x[i])


def found(x: Floats, kernel: Any = exp_of_all) -> Floats:
    y = np.empty_like(x)
    kernel(x, y)
    return y


def check(x: Floats) -> None:
    """Both functions on these numbers, of which none is NaN."""
    y = found(x)
    exact = np.exp(x.astype(np.float64))
    finite = np.isfinite(y)
    assert np.all(np.abs(y[finite] - exact[finite]) <= RELATIVE * exact[finite] + LOST)
    assert np.all(y[~finite] == np.inf)
    assert np.all(exact[~finite] * (1 + RELATIVE) >= OVERFLOW)
    negative = x[np.signbit(x) | (x == 0)]
    kept = negative >= SMALLEST
    y = found(negative, exp_of_all_nonpositive)
    assert np.array_equal(y[kept], found(negative[kept]))
    assert not np.any(y[~kept])
    assert np.all(np.exp(negative[~kept].astype(np.float64)) < NORMAL)


def floats(first: int, last: int, step: int = 1) -> Floats:
    """Those with the bits first, first + step … below last."""
    return np.arange(first, last, step, dtype=np.uint32).view(np.float32)


@pytest.mark.bounded
def test_exp_is_right_to_two_units_of_roundoff_on_a_grid_of_all_floats() -> None:
    x = floats(0, 2**32, STRIDE)
    with np.errstate(over="ignore"):
        check(x[~np.isnan(x)])


@pytest.mark.deep
@pytest.mark.bounded
@pytest.mark.parametrize(
    ("sign", "beyond", "kernels"),
    [(0, np.inf, (exp_of_all,)), (2**31, 0.0, (exp_of_all, exp_of_all_nonpositive))],
)
def test_exp_is_right_to_two_units_of_roundoff_for_every_float(sign: int, beyond: float, kernels: Any) -> None:
    """Below 2⁻²⁵ exp x is 1 to a quarter of the bound, and from 128 on out of range: nothing need be computed there."""
    tiny, large, end = (int(np.float32(limit).view(np.int32)) for limit in (2.0**-25, 128, np.inf))
    for first in range(sign, sign + end, BLOCK):
        x = floats(first, first + BLOCK)
        if tiny <= first - sign < large:
            check(x)
        else:
            expected = 1.0 if first - sign < tiny else beyond
            assert all(np.all(found(x, kernel) == expected) for kernel in kernels)


def test_exp_of_the_first_floats_beyond_the_range_is_infinite_or_zero() -> None:
    x = np.array([88.7228394, 88.722846, 1e3, 3e38, np.inf, -103.972084, -104.0, -1e3, -3e38, -np.inf, 0.0], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        assert found(x).tolist() == np.exp(x).tolist()
    assert found(x[5:], exp_of_all_nonpositive).tolist() == [0.0] * 5 + [1.0]


def test_exp_of_every_kind_of_nan_is_nan() -> None:
    for first in (0x7F800001, 0xFF800001):
        nans = np.concatenate([floats(first, first + 2**23 - 1, STRIDE), floats(first, first + 600)])
        for kernel in (exp_of_all, exp_of_all_nonpositive):
            assert np.all(np.isnan(found(nans, kernel)))


@pytest.mark.parametrize("kernel", [exp_of_all, exp_of_all_nonpositive])
def test_exp_is_the_same_in_the_vectorised_part_of_a_loop_and_in_its_rest(kernel: Any) -> None:
    x = -np.geomspace(1e-3, 100, 75, dtype=np.float32)
    alone = [found(x[i : i + 1], kernel)[0] for i in range(75)]
    assert found(x, kernel).tolist() == alone
