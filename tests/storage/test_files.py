"""Files that are never half-written."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage import files as module
from sora_ref.storage.files import file_digest, name_being_written, write_bytes, write_json, write_text

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
CALLS = ("mkdir", "open", "fdopen", "write", "fsync", "chmod", "replace", "folder open", "folder fsync")


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
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask


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


def test_file_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180


def test_what_a_killed_write_left_is_told_from_other_hidden_files() -> None:
    for name, meant in ((".a.b.0123abcd", "a.b"), (".a.0123abc", None), ("a.b.0123abcd", None), (".0123abcd", None)):
        assert name_being_written(Path("folder", name)) == meant
