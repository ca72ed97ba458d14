"""Sealed files come back bit for bit, and are never believed when they are damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sora_ref.errors import SoRAError
from sora_ref.storage.sealed import read_sealed, sealed_bytes

TENSORS = {"b": np.arange(3, dtype=np.float32), "a": np.array([[1.5, -0.0]]), "none": np.zeros((0, 4), np.float32)}
FACTS = {"step": 3, "name": "ü", "scales": {"m": 0.1}}
EXPECTED = "a sealed one"
FAULTS = r"small\.safetensors( is|:) (damaged|no sha256|a header of|.* is there twice|.* is stored as)"


@given(
    arrays=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["float32", "float64"]), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 9)),
        max_size=4,
    ),
    facts=st.dictionaries(
        st.text().filter(lambda key: key != "sha256"),
        st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none(),
        max_size=3,
    ),
)
def test_tensors_and_facts_come_back_bit_for_bit(
    arrays: dict[str, tuple[str, list[int], int]], facts: dict[str, Any]
) -> None:
    made = {
        name: np.random.default_rng(seed).standard_normal(shape).astype(dtype)
        for name, (dtype, shape, seed) in arrays.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(sealed_bytes(made, facts))
        tensors, found = read_sealed(path, EXPECTED)
    assert found == facts
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in made.items()
    }


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"transposed": x.T, "columns": np.asfortranarray(x), "sliced": x[::2, 1::2], "backwards": x[::-1]}
    (tmp_path / "file").write_bytes(sealed_bytes(views, {}))
    tensors, _ = read_sealed(tmp_path / "file", EXPECTED)
    for name, view in views.items():
        np.testing.assert_array_equal(tensors[name], view)


def small(folder: Path) -> tuple[Path, bytes]:
    path = folder / "small.safetensors"
    path.write_bytes(sealed_bytes(TENSORS, FACTS))
    return path, path.read_bytes()


@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_flipped_bit_of_any_byte_is_noticed(tmp_path: Path, bit: int) -> None:
    path, whole = small(tmp_path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with pytest.raises(
            SoRAError,
            match=FAULTS,
        ):
            read_sealed(path, EXPECTED)


def test_file_cut_at_any_length_is_noticed(tmp_path: Path) -> None:
    path, whole = small(tmp_path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SoRAError, match=r"small\.safetensors is damaged or truncated, .*: expected a sealed one"):
            read_sealed(path, EXPECTED)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SoRAError, match="is damaged or truncated, no safetensors"):
        read_sealed(path, EXPECTED)


def test_another_file_of_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(SoRAError, match="file: no sha256 in its metadata: expected a sealed one"):
        read_sealed(path, EXPECTED)
    save_file({"x": np.zeros(2)}, path, {"sha256": "0" * 64})
    with pytest.raises(SoRAError, match="damaged, its sha256 does not match"):
        read_sealed(path, EXPECTED)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(SoRAError, match=f"{path}: {said}: expected a sealed one"):
            read_sealed(path, EXPECTED)


def test_digest_covers_names_dtypes_shapes_values_and_facts() -> None:
    base = sealed_bytes({"x": np.zeros(4, np.float32)}, {"a": 1})

    def digest(data: bytes) -> str:
        return data.decode("latin-1").partition('"sha256":"')[2][:64]

    others = [
        sealed_bytes({"y": np.zeros(4, np.float32)}, {"a": 1}),
        sealed_bytes({"x": np.zeros(4, np.float64)}, {"a": 1}),
        sealed_bytes({"x": np.zeros((2, 2), np.float32)}, {"a": 1}),
        sealed_bytes({"x": -np.zeros(4, np.float32)}, {"a": 1}),
        sealed_bytes({"x": np.zeros(4, np.float32)}, {"a": 2}),
        sealed_bytes({"x": np.zeros(4, np.float32)}, {"b": 1}),
    ]
    assert len({digest(base), *map(digest, others)}) == 7


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool"])
def test_a_tensor_of_other_numbers_is_refused_though_the_digest_is_right(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "file").write_bytes(sealed_bytes({"x": np.zeros(2, dtype)}, {}))
    with pytest.raises(SoRAError, match=r"file: x is stored as (I64|F16|BOOL): expected F64 or F32$"):
        read_sealed(tmp_path / "file", EXPECTED)
