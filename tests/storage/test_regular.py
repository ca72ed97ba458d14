"""Only a file is opened as a file: whatever else lies there is named, and nothing waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage.regular import absolute, read_regular, require_regular


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def link(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def bound(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))  # the name of a socket has at most some hundred characters
    return path


def through_a_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path / "below"


OTHERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda path: path, "no such file"),
    "a link to nothing": (link("nowhere"), "no such file"),
    "a folder": (folder, "a folder"),
    "a pipe": (fifo, "a named pipe"),
    "a socket": (bound, "a socket"),
    "a device": (lambda path: Path("/dev/zero"), "a device"),
    "a link to a device": (link("/dev/zero"), "a device"),
    "a circle of links": (link("it"), "Too many levels of symbolic links"),
    "below a file": (through_a_file, "Not a directory"),
    "a name too long": (lambda path: path.with_name("x" * 300), "File name too long"),
    "a zero character": (lambda path: path.with_name("a\0b"), "no file can be called that"),
    "half a character": (lambda path: path.with_name("a\ud800b"), "no file can be called that"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("act", [read_regular, require_regular])
def test_what_is_no_file_is_named_and_never_waited_for(
    kind: str, act: Callable[[Path, str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = OTHERS[kind]
    path = make(tmp_path / "it")
    with pytest.raises(SoRAError) as refused:
        act(path, "a configuration")
    sentence = str(refused.value)
    assert said in sentence
    assert sentence.endswith(": expected a configuration")
    assert sentence.isprintable()


def test_what_may_not_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked"
    path.write_bytes(b"secret")
    opened = os.open

    def refuse(name: Path, *rest: int) -> int:
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SoRAError, match=r"locked: cannot be read \(Permission denied\): expected a table"):
        read_regular(path, "a table")
    monkeypatch.setattr(os, "open", opened)


def test_a_pipe_that_takes_the_files_place_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pipe = tmp_path / "file", fifo(tmp_path / "pipe")
    path.write_bytes(b"")
    opened = os.open
    monkeypatch.setattr(os, "open", lambda name, flags: opened(pipe, flags))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(SoRAError, match="a named pipe"):
        read_regular(path, "a table")
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0), "its descriptor is closed"


def test_a_file_is_read_whole_through_links_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\0b\n" * 1000)
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", "a table") == b"a\0b\n" * 1000
    require_regular(tmp_path / "file", "a table")


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "it/x", "a\0b", "x" * 5000])
def test_a_path_that_leads_nowhere_is_a_sentence_or_is_left_to_who_opens_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it").symlink_to("it")
    try:
        found = absolute(path)
    except SoRAError as error:
        said = str(error)
    else:
        with pytest.raises(SoRAError) as refused:
            read_regular(found, "a table")
        said = str(refused.value)
    assert said.isprintable()
    assert ": expected a" in said


def test_a_path_is_spelled_out_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("x", "~/x", "./y/../x", Path("x")):
        assert absolute(path) == tmp_path.resolve() / "x"
