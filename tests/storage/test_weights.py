"""Tensors as bytes: the same contents are the same file, and half precision is the nearest number there is."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from sora_ref.storage.files import tensor_bytes
from sora_ref.storage.half import HALVES, Half, rounded, words
from sora_ref.storage.tensors import read_tensors
from sora_ref.storage.weights import canonical, to_bytes

ARRAYS = {"b": np.arange(3, dtype=np.float32), "a": np.array([[1.5, -0.0]]), "none": np.zeros((0, 4), np.float32)}
NOTES = {name: f"ü{name}" for name in "zyxwvuts"}
halves = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)


def test_same_contents_are_the_same_bytes_in_every_process() -> None:
    code = (
        "import sys, numpy, hashlib\n"
        "from sora_ref.storage.weights import to_bytes\n"
        "from sora_ref.storage.files import tensor_bytes\n"
        "a, notes = {'x': numpy.ones(3, numpy.float32)}, {k: k for k in 'zyxwvuts'}\n"
        "print(hashlib.sha256(to_bytes(a, notes) + tensor_bytes(a, notes)).hexdigest())\n"
    )
    seen = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(seen) == 1
    assert len({to_bytes(ARRAYS, NOTES) for _ in range(8)}) == 1
    assert len({tensor_bytes(ARRAYS, NOTES) for _ in range(8)}) == 1


def test_putting_the_notes_in_order_changes_nothing_else() -> None:
    before = save(ARRAYS, NOTES)
    after = canonical(before)
    assert canonical(after) == after
    length = int.from_bytes(after[:8], "little")
    assert length % 8 == 0
    header = json.loads(after[8 : 8 + length])
    assert list(header["__metadata__"]) == sorted(NOTES)
    assert header["__metadata__"] == NOTES
    for name, array in load(after).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert canonical(save(ARRAYS)) == canonical(canonical(save(ARRAYS)))


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


@halves
def test_half_precision_is_stored_under_its_name_and_read_back_the_same(half: Half, tmp_path: Path) -> None:
    values = rounded(np.asfortranarray(np.linspace(-3, 3, 12).reshape(3, 4)), half)
    data = to_bytes({"x": values, "y": values}, {}, {"x": half.name})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (header["x"]["dtype"], header["y"]["dtype"]) == ({"float16": "F16", "bfloat16": "BF16"}[half.name], "F32")
    assert header["x"]["shape"] == [3, 4]
    (tmp_path / "file").write_bytes(data)
    read = read_tensors(tmp_path / "file")
    assert read.cast == {"x": half.stored}
    np.testing.assert_array_equal(read.arrays["x"], values)
    np.testing.assert_array_equal(read.arrays["y"], values)
