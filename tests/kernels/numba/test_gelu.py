"""The compiled GELU beside the specification's."""

from __future__ import annotations

import numpy as np
import pytest
from fitted_gelu import CLAIM, U, allowed, grid, in_float64

from sora_ref.kernels.numba.gelu import gelu_forward
from sora_ref.kernels.numpy.gelu import gelu_forward as in_numpy

EXP, LEAST = 2 * U, 2.0**-126  # the derivation of `exp32_of_nonpositive`


@pytest.mark.bounded
def test_float32_gelu_and_derivative_are_within_the_fit_and_its_roundings() -> None:
    x = grid()
    for found, expected, bound in zip(gelu_forward(x), in_float64(x), allowed(x, EXP, LEAST), strict=True):
        assert found.dtype == np.float32
        error = np.abs(found.astype(np.float64) - expected)
        assert np.all(error <= bound)
        assert np.max(error) <= CLAIM


def test_float64_gelu_is_the_numpy_kernels_bit_for_bit() -> None:
    x = grid().astype(np.float64)
    for found, expected in zip(gelu_forward(x), in_numpy(x), strict=True):
        assert found.tobytes() == expected.tobytes()
