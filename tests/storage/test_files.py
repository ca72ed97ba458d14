"""Files that are never half-written, and never believed when they are damaged."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sora_ref.errors import SoRAError
from sora_ref.storage import files as module
from sora_ref.storage.documents import json_lines
from sora_ref.storage.files import (
    append_lines,
    file_digest,
    keep_lines,
    read_tensors,
    sweep,
    tensor_bytes,
    write_bytes,
    write_json,
    write_text,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
CALLS = ("mkdir", "open", "fdopen", "write", "fsync", "chmod", "replace", "folder open", "folder fsync")
TENSORS = {"b": np.arange(3, dtype=np.float32), "a": np.array([[1.5, -0.0]]), "none": np.zeros((0, 4), np.float32)}
FACTS = {"step": 3, "name": "ü", "scales": {"m": 0.1}}


class FullDisk(io.BytesIO):
    """A file that takes no bytes."""

    def write(self, data: Any) -> int:
        raise FULL


def fail_at(patch: pytest.MonkeyPatch, call: str, stop: BaseException) -> None:
    """Let one call of `write_bytes` raise; of `os.open` and `os.fsync`, the file's or the folder's."""

    def fail(*_: Any, **__: Any) -> Any:
        raise stop

    name = call.removeprefix("folder ")
    if call == "write":
        disk = FullDisk()
        disk.write = fail  # type: ignore[method-assign]

        def full(handle: int, mode: str) -> FullDisk:
            os.close(handle)
            return disk

        patch.setattr(os, "fdopen", full)
        return
    if call == "mkdir":
        patch.setattr(Path, "mkdir", fail)
        return
    if call == "open":
        patch.setattr(module.os, "open", fail)
        return
    if call.startswith("folder"):
        patch.setattr(module, "flush_folder", fail)
        return
    if call == "fdopen":

        def broken(handle: int, mode: str) -> None:
            os.close(handle)
            fail()

        patch.setattr(os, name, broken)
        return
    patch.setattr(os, name, fail)


def test_written_file_holds_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    write_text(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"
    write_json(path, {"ü": [1]})
    assert path.read_text(encoding="utf-8") == '{\n  "ü": [\n    1\n  ]\n}\n'


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the process's, and puts back what was there."""
    before = os.umask(0)
    os.umask(before)

    def put(mask: int) -> None:
        os.umask(mask)

    yield put
    os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_a_new_file_is_open_to_whom_the_umask_lets(tmp_path: Path, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    write_bytes(tmp_path / "new", b"one")
    append_lines(tmp_path / "log", [{}])
    for name in ("new", "log"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o400])
def test_a_file_that_replaces_another_keeps_its_permissions(
    tmp_path: Path, umask: Callable[[int], None], mode: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    path.chmod(mode)
    umask(0o022)
    write_bytes(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", mode)


def test_a_file_that_replaces_a_link_has_no_permissions_of_what_it_led_to(
    tmp_path: Path, umask: Callable[[int], None]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o777)
    (tmp_path / "link").symlink_to(secret)
    umask(0o077)
    write_bytes(tmp_path / "link", b"two")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o600
    assert secret.read_bytes() == b""


def test_no_file_is_ever_more_open_than_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    path.chmod(0o600)
    opened, modes = os.open, []

    def watch(name: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        modes.append(mode)
        return opened(name, flags, mode, **rest)

    monkeypatch.setattr(os, "open", watch)
    write_bytes(path, b"two")
    assert modes[0] == 0o600


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 300])
def test_a_name_that_no_file_can_have_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SoRAError, match=r"cannot be written \(.*\): expected a writable folder") as refused:
        write_bytes(tmp_path / name, b"")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("call", "before"),
    [(call, before) for call in CALLS for before in (None, b"old") if (call, before) != ("chmod", None)],
)
def test_disk_that_refuses_at_any_call_loses_nothing_and_leaves_no_scrap(
    tmp_path: Path, call: str, before: bytes | None
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, FULL)
        with pytest.raises(SoRAError, match=r"file: cannot be written \(No space left on device\): expected") as caught:
            write_bytes(path, b"new")
    assert "\n" not in str(caught.value)
    after = b"new" if call.startswith("folder") else before
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if after is None else {"file": after})


@pytest.mark.parametrize("call", ["write", "fsync", "chmod", "replace"])
def test_interruption_at_any_call_keeps_the_old_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_interruption_at_any_call_leaves_no_scrap(tmp_path: Path, call: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SoRAError, match=r"file/below/x: cannot be written \(.+\): expected a writable folder"):
        write_bytes(tmp_path / "file" / "below" / "x", b"")
    with pytest.raises(SoRAError, match="cannot be written"):
        append_lines(tmp_path / "file" / "x", [{}])


@given(
    arrays=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["float32", "float64", "int64"]), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 9)
        ),
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
        path.write_bytes(tensor_bytes(made, facts))
        tensors, found = read_tensors(path)
    assert found == facts
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in made.items()
    }


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"transposed": x.T, "columns": np.asfortranarray(x), "sliced": x[::2, 1::2], "backwards": x[::-1]}
    (tmp_path / "file").write_bytes(tensor_bytes(views, {}))
    tensors, _ = read_tensors(tmp_path / "file")
    for name, view in views.items():
        np.testing.assert_array_equal(tensors[name], view)


def small(folder: Path) -> tuple[Path, bytes]:
    path = folder / "small.safetensors"
    path.write_bytes(tensor_bytes(TENSORS, FACTS))
    return path, path.read_bytes()


@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_flipped_bit_of_any_byte_is_noticed(tmp_path: Path, bit: int) -> None:
    path, whole = small(tmp_path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        with pytest.raises(SoRAError, match=r"small\.safetensors: (truncated or no safetensors|damaged|no sha256)"):
            read_tensors(path)


def test_file_cut_at_any_length_is_noticed(tmp_path: Path) -> None:
    path, whole = small(tmp_path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SoRAError, match=r"small\.safetensors: truncated or no safetensors file"):
            read_tensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SoRAError, match="truncated or no safetensors"):
        read_tensors(path)


def test_another_file_of_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(SoRAError, match="file: no sha256 in its metadata: expected a checkpoint of sora-ref"):
        read_tensors(path)
    save_file({"x": np.zeros(2)}, path, {"sha256": "0" * 64})
    with pytest.raises(SoRAError, match="damaged, its sha256 does not match"):
        read_tensors(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(SoRAError, match=f"{path}: {said}: expected a checkpoint of sora-ref"):
            read_tensors(path)


def test_digest_covers_names_dtypes_shapes_values_and_facts() -> None:
    base = tensor_bytes({"x": np.zeros(4, np.float32)}, {"a": 1})

    def digest(data: bytes) -> str:
        return data.decode("latin-1").partition('"sha256":"')[2][:64]

    others = [
        tensor_bytes({"y": np.zeros(4, np.float32)}, {"a": 1}),
        tensor_bytes({"x": np.zeros(4, np.int32)}, {"a": 1}),
        tensor_bytes({"x": np.zeros((2, 2), np.float32)}, {"a": 1}),
        tensor_bytes({"x": -np.zeros(4, np.float32)}, {"a": 1}),
        tensor_bytes({"x": np.zeros(4, np.float32)}, {"a": 2}),
        tensor_bytes({"x": np.zeros(4, np.float32)}, {"b": 1}),
    ]
    assert len({digest(base), *map(digest, others)}) == 7


def test_file_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180


def read_lines(path: Path) -> list[Any]:
    return [record for _, _, record in json_lines(path, dict[str, Any], "a log")]


RECORDS: list[dict[str, Any]] = [{"step": k, "loss": 0.1 * k, "text": "ü\n"} for k in range(4)]


def test_lines_come_back_and_those_of_later_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_lines(path) == []
    keep_lines(path, 1)
    assert not path.exists()
    append_lines(path, RECORDS[:2])
    append_lines(path, RECORDS[2:])
    assert read_lines(path) == RECORDS
    before = path.read_bytes()
    keep_lines(path, 3)
    assert path.read_bytes() == before
    keep_lines(path, 1)
    assert read_lines(path) == RECORDS[:2]
    keep_lines(path, -1)
    assert path.read_bytes() == b""


def test_log_whose_steps_go_back_is_refused_and_stays(tmp_path: Path) -> None:
    """A damaged step would else cut off what is sound."""
    path = tmp_path / "log"
    append_lines(path, [{"step": 0}, {"step": 900}, {"step": 2}])
    before = path.read_bytes()
    for last_step in (0, 5, 1000):
        with pytest.raises(SoRAError, match=r"log, line 3: damaged \(step 2 after step 900\): expected a log of a run"):
            keep_lines(path, last_step)
        assert path.read_bytes() == before


def test_cutting_a_log_takes_the_memory_of_a_line(tmp_path: Path) -> None:
    path, long = tmp_path / "log", "x" * 1000
    append_lines(path, ({"step": step, "more": long} for step in range(20_000)))
    tracemalloc.start()
    keep_lines(path, 10_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000 < 10_000_000 < path.stat().st_size
    assert path.read_bytes().count(b"\n") == 10_001


def test_file_cut_anywhere_keeps_its_whole_lines_and_is_mended(tmp_path: Path) -> None:
    path, whole = tmp_path / "log", tmp_path / "whole"
    append_lines(whole, RECORDS)
    data = whole.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        complete = data[:length].count(b"}\n")  # a line ends with its line feed, not before
        assert read_lines(path) == RECORDS[:complete]
        keep_lines(path, 99)
        append_lines(path, RECORDS[complete:])
        assert path.read_bytes() == data


def test_log_that_is_a_link_is_neither_written_nor_cut(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs.txt", tmp_path / "metrics.jsonl"
    theirs.write_text('{"step": 9}\n')
    link.symlink_to(theirs)
    with pytest.raises(SoRAError, match=r"metrics\.jsonl: a link: expected a log of the run's own"):
        append_lines(link, [{"step": 1}])
    with pytest.raises(SoRAError, match="a link"):
        keep_lines(link, 0)
    assert theirs.read_text() == '{"step": 9}\n'


def test_log_that_is_no_text_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 0}\n\xff\xfe\n{"step": 1}\n')
    with pytest.raises(SoRAError, match="log"):
        read_lines(path)


@pytest.mark.parametrize("name", ["config.toml", "inputs.json", "mlflow.json", "best.safetensors", "gates.png"])
def test_scraps_of_what_a_run_writes_are_swept_and_others_are_not(tmp_path: Path, name: str) -> None:
    for kept in (name, f".{name}", f".{name}.notes", f".my-{name}.0123abcd", f".{name}.0123abcd"):
        (tmp_path / kept).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [name, f".{name}", f".{name}.notes", f".my-{name}.0123abcd"]
    )
