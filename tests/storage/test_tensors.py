"""safetensors: what reading costs, every way a file can be wrong, and that equal contents are equal bytes."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, load_file, save, save_file
from tiny_run import CONFIG, change_weights, write_model

from sora_ref.errors import SoRAError
from sora_ref.models import load_model
from sora_ref.models.bert import BERT
from sora_ref.storage.half import HALVES, Half, rounded
from sora_ref.storage.sealed import sealed_bytes
from sora_ref.storage.tensors import canonical, open_tensors, read_tensors, tensor_bytes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"


def store(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[Any], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


BOMBS: dict[str, Any] = {
    "shape overflows": {"a": entry([2**62, 2**62], 0, 4)},
    "shape is huge": {"a": entry([2**40], 0, 4)},
    "shape is negative": {"a": entry([-1], 0, 4)},
    "shape is no list": {"a": entry(7, 0, 4)},  # type: ignore[arg-type]
    "offset beyond the end": {"a": entry([1], 2**60, 2**60 + 4)},
    "offsets backwards": {"a": entry([1], 4, 0)},
    "overlap": {"a": entry([1], 0, 4), "b": entry([1], 0, 4)},
    "hole": {"a": entry([1], 4, 8)},
    "unknown dtype": {"a": entry([1], 0, 4, "F33")},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "entry is no object": {"a": 7},
    "notes are no texts": {"__metadata__": {"a": 7}},
    "no object": [1],
    "deep": b"[" * 100_000,
    "deep notes": b'{"__metadata__":' + b'{"a":' * 100_000,
    "no JSON": b"{",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_is_not_sound_is_refused_before_anything_is_read(path: Path, name: str) -> None:
    tracemalloc.start()
    refused(store(path, BOMBS[name], b"\0" * 8), "model.safetensors is damaged or truncated, no safetensors file: ")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8, 100])
def test_a_header_longer_than_the_file_is_not_read(path: Path, length: int) -> None:
    refused(store(path, {}, length=length), f"a header of {length} bytes where there are 2: expected tensors")


def test_a_header_of_absurd_length_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**25))
        file.truncate(2**26)
    refused(path, f"a header of {2**25} bytes: expected at most {2**24}")


def test_a_key_that_is_there_twice_is_named(path: Path) -> None:
    one = json.dumps(entry([1], 0, 4))
    refused(store(path, f'{{"a": {one}, "a": {one}}}'.encode(), b"\0" * 4), "'a' is there twice in its header")


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "I64", "BOOL", "F8_E4M3"])
def test_what_is_no_float_is_refused_by_name_and_dtype(path: Path, dtype: str) -> None:
    size = {"I32": 4, "I64": 8}.get(dtype, 1)
    store(path, {"x.weight": entry([2], 0, 2 * size, dtype)}, b"\0" * 2 * size)
    refused(path, f"x.weight is stored as {dtype}: expected F64, F32, F16 or BF16")


@pytest.mark.parametrize(("shape", "size"), [([1] * 70, 4), ([0, 2**62, 2], 0)])
def test_a_shape_that_numpy_has_not_is_refused_by_name(path: Path, shape: list[int], size: int) -> None:
    store(path, {"x.weight": entry(shape, 0, size)}, b"\0" * size)
    refused(path, "x.weight has a shape that NumPy has not .*: expected a vector or a matrix")


@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    kind=st.sampled_from(["float64", "float32", "float16"]),
    dtype=st.sampled_from([None, "float32", "float64"]),
)
def test_a_tensor_is_read_as_the_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], kind: str, dtype: str | None
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file"
    array = np.random.default_rng(0).standard_normal(shape).astype(kind)
    save_file({"b": array, "a": np.ones(3, "float32")}, path)
    with open_tensors(path) as file:
        found = file.read("b", dtype)
        assert list(file.entries) == ["a", "b"]
    assert found.dtype == (dtype or ("float64" if kind == "float64" else "float32"))
    assert np.array_equal(found, load_file(path)["b"].astype(found.dtype))


def test_a_tensor_of_several_pieces_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora_ref.storage.tensors._CHUNK", 5)
    for size in (1, 5, 6, 23):
        array = np.arange(size, dtype="float32")
        save_file({"a": array}, path)
        assert np.array_equal(read_tensors(path).arrays["a"], array)


def read_one(path: Path, key: str) -> np.ndarray:
    with open_tensors(path) as file:
        return file.read(key)


def peak(work: Any) -> int:
    tracemalloc.start()
    kept = work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept is not None
    return found


@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
def test_reading_takes_the_memory_of_what_is_read(path: Path, kind: str) -> None:
    large, small = np.ones((2000, 5000), kind), np.ones(2500, kind)
    save_file({"large": large, "small": small}, path)
    del large
    used = 2500 * (8 if kind == "float64" else 4)
    piece = 2**18 * 12 + 2**16  # a piece as stored and as cast, and the header
    assert peak(lambda: read_one(path, "small")) < used + 2**17
    assert peak(lambda: read_tensors(path)) < 1.1 * (10_000_000 * used / 2500) + piece


def test_loading_a_model_takes_the_memory_of_its_parameters(tmp_path: Path) -> None:
    sizes = replace(CONFIG, vocab_size=30_000, hidden_size=128, intermediate_size=512)
    folder = write_model(tmp_path / "model", config=sizes)
    change_weights(folder, {"cls.predictions.decoder.weight": np.ones((30_000, 128), "float32")})
    used = 4 * sum(math.prod(shape) for shape in BERT.shapes(sizes).values())
    assert peak(lambda: load_model(folder)) < 1.1 * used + 2**21


@pytest.mark.parametrize(("name", "pickle"), [("model", "pytorch_model"), ("adapter_model", "adapter_model")])
def test_a_pickle_is_not_opened_and_gets_the_command_that_converts_it(tmp_path: Path, name: str, pickle: str) -> None:
    path = tmp_path / f"{name}.safetensors"
    (tmp_path / f"{pickle}.bin").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    refusal(
        path,
        rf"only {pickle}.bin, a pickle, which may hold code: .*load\(piece, weights_only=True, map_location='cpu'\)",
    )
    assert not (tmp_path / "run").exists()


def test_pieces_of_a_model_get_the_command_that_joins_them(path: Path) -> None:
    path.with_name("model.safetensors.index.json").write_text("{}")
    refusal(path, r"only pieces of it and their index: .* with PyTorch: python -c .*glob\('model-\*\.safetensors'\)")


def refusal(path: Path, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        read_tensors(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_gets_the_command_that_fetches_the_file(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(SoRAError, match=rf"{name}: a Git LFS pointer, not the file itself: .*`git lfs pull`"):
        load_model(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    refused(path, "a named pipe: expected tensors")


def test_pytorch_files_of_other_names_are_not_opened_either(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.pt").write_bytes(b"x")
    refusal(tmp_path / "adapter_model.safetensors", r"only adapter_model.pt, in PyTorch's own format")


# Writing.

ARRAYS = {"b": np.arange(3, dtype=np.float32), "a": np.array([[1.5, -0.0]]), "none": np.zeros((0, 4), np.float32)}
NOTES = {name: f"ü{name}" for name in "zyxwvuts"}


def test_same_contents_are_the_same_bytes_in_every_process() -> None:
    code = (
        "import sys, numpy, hashlib\n"
        "from sora_ref.storage.tensors import tensor_bytes\n"
        "from sora_ref.storage.sealed import sealed_bytes\n"
        "a, notes = {'x': numpy.ones(3, numpy.float32)}, {k: k for k in 'zyxwvuts'}\n"
        "print(hashlib.sha256(tensor_bytes(a, notes) + sealed_bytes(a, notes)).hexdigest())\n"
    )
    seen = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(seen) == 1
    assert len({tensor_bytes(ARRAYS, NOTES) for _ in range(8)}) == 1
    assert len({sealed_bytes(ARRAYS, NOTES) for _ in range(8)}) == 1


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


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_half_precision_is_stored_under_its_name_and_read_back_the_same(half: Half, tmp_path: Path) -> None:
    values = rounded(np.asfortranarray(np.linspace(-3, 3, 12).reshape(3, 4)), half)
    data = tensor_bytes({"x": values, "y": values}, {}, {"x": half.name})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (header["x"]["dtype"], header["y"]["dtype"]) == ({"float16": "F16", "bfloat16": "BF16"}[half.name], "F32")
    assert header["x"]["shape"] == [3, 4]
    (tmp_path / "file").write_bytes(data)
    read = read_tensors(tmp_path / "file")
    assert read.cast == {"x": half.stored}
    np.testing.assert_array_equal(read.arrays["x"], values)
    np.testing.assert_array_equal(read.arrays["y"], values)
