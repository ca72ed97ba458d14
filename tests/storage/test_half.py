"""Half precision is the nearest number there is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sora_ref.storage.half import HALVES, Half, rounded, words

halves = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)


def nearest(x: float, half: Half) -> Fraction | float:
    """The nearest number of the format by search over the integers: an independent way."""
    exact = abs(Fraction(x))
    lowest = Fraction(2) ** (half.e_min + 1 - half.significand)
    while exact >= lowest * 2**half.significand:
        lowest *= 2
    below = int(exact / lowest)
    rest = exact / lowest - below
    steps = below + (1 if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2) else 0)
    value = steps * lowest
    return float("inf") if value > Fraction(half.largest) else value


@halves
@given(x=st.floats(allow_nan=False, allow_infinity=False))
@example(x=65519.99)
@example(x=65520.0)
@example(x=2.0**-25)
@example(x=1 + 2.0**-8 + 2.0**-40)  # by way of float32 it would be a tie, and go to 1
@example(x=3.4e38)
@example(x=1.794182015458288e308)  # rounds to what is beyond float64 as well
@example(x=5e-324)
def test_rounding_to_half_precision_gives_the_nearest_number(half: Half, x: float) -> None:
    with np.errstate(all="raise"):
        found = float(rounded(np.array([x]), half)[0])
    assert abs(found) == nearest(x, half)
    assert np.signbit(found) == np.signbit(x)


@given(x=st.floats(allow_nan=False, width=32))
def test_float16_is_numpys(x: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.array([x], np.float32).astype(np.float16)
    assert words(rounded(np.array([x], np.float32), HALVES["float16"]), HALVES["float16"]) == expected.view(np.uint16)


@pytest.mark.independent
def test_bfloat16_is_ml_dtypes_for_every_bit_pattern() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    patterns = np.arange(2**16, dtype=np.uint16)
    values = patterns.view(ml_dtypes.bfloat16).astype(np.float32)
    finite = np.isfinite(values)
    half = HALVES["bfloat16"]
    np.testing.assert_array_equal(words(rounded(values[finite], half), half), patterns[finite])
    ordered = np.unique(values[finite]).astype(np.float64)
    ties = (ordered[:-1] + ordered[1:]) / 2  # exact in float32, too
    np.testing.assert_array_equal(rounded(ties, half), ties.astype(ml_dtypes.bfloat16).astype(np.float32))
