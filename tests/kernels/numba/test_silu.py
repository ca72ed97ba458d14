"""The compiled SiLU beside SciPy's logistic function in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from same_bits import same_bits
from scipy.special import expit

from sora_ref.kernels.numba.silu import silu_forward
from sora_ref.models import layers

Floats = npt.NDArray[Any]

U = 2.0**-24
LEAST = 2.0**-126  # below it, the exponential is 0


def grid() -> Floats:
    """[-40, 40] in steps of 2⁻¹⁴, and coarser to where the exponential ends."""
    fine = np.arange(-40 * 2**14, 40 * 2**14 + 1) / 2**14
    return np.concatenate([fine, np.linspace(-120, 120, 2401)]).astype(np.float32)


@pytest.mark.bounded
def test_float32_silu_and_derivative_are_within_their_roundings() -> None:
    """e is right to 2u.  σ(a) = 1/(1 + e) has half of that, e being at most 1, and two roundings; σ(−a) = e·σ(a) has 2u
    of e, 3u of σ(a), and one: at most 6u.  y has one more; y·σ(−x) then 7u + 6u, and one; the sum one of each term.
    """
    x = grid()
    wide = x.astype(np.float64)
    sigmoid, other = expit(wide), expit(-wide)
    exact = wide * sigmoid, sigmoid + wide * sigmoid * other
    lost = (1 + np.abs(wide)) * 2 * LEAST
    product = np.abs(wide) * sigmoid * other
    bounds = 7 * U * np.abs(exact[0]), 7 * U * sigmoid + 15 * U * product
    for found, expected, bound in zip(silu_forward(x), exact, bounds, strict=True):
        assert found.dtype == np.float32
        error = np.abs(found.astype(np.float64) - expected)
        assert np.all(error <= (1 + 2.0**-18) * bound + lost)  # terms of second order


def test_float64_silu_is_the_specifications_bit_for_bit() -> None:
    x = grid().astype(np.float64)
    for found, expected in zip(silu_forward(x), layers.silu_forward(x), strict=True):
        assert same_bits(found, expected)
