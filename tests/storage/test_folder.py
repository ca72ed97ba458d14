"""What killed writers leave is swept at the next write beside the same target; what living ones hold is not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage.folder import write_folder

FILES = {"a": b"1", "b": b"2"}

# A writer that stops while it holds its scratch folder (`check`), or between the two renames of an overwrite.
WRITER = """
import os, pathlib, sys
from sora_ref.storage.folder import write_folder
target, how = pathlib.Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    print("there", flush=True)
    sys.stdin.read()  # until the test closes it, or kills us
if how == "renames":
    rename = pathlib.Path.rename
    def slow(self, other):
        if ".writing-" in self.name: stop()
        return rename(self, other)
    pathlib.Path.rename = slow
write_folder(target, {"a": b"theirs"}, overwrite=True, replaceable=["a", "b"],
             check=stop if how == "check" else lambda folder: None)
"""


def write(target: Path, *, overwrite: bool = False) -> None:
    write_folder(target, FILES, overwrite=overwrite, replaceable=FILES, check=lambda folder: None)


def writer(target: Path, how: str) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "there\n"
    return started


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def names(folder: Path) -> list[str]:
    """The names in a folder, without the letters drawn at random."""
    return sorted(path.name.partition("ing-")[0].partition("replaced-")[0] for path in folder.iterdir())


def test_leftovers_of_killed_writers_are_swept_at_the_next_write_of_the_same_name(tmp_path: Path) -> None:
    for _ in range(2):
        kill(writer(tmp_path / "out", "check"))
    kill(writer(tmp_path / "other", "check"))
    assert names(tmp_path) == [".other.writ", ".out.writ"]
    write(tmp_path / "out")
    assert names(tmp_path) == [".other.writ", "out"]


def test_scratch_of_a_living_writer_is_never_swept(tmp_path: Path) -> None:
    living = writer(tmp_path / "out", "check")
    write(tmp_path / "out")
    assert names(tmp_path) == [".out.writ", "out"]
    living.communicate("")
    assert living.returncode == 0
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_bytes() == b"theirs"


def test_folder_set_aside_by_a_killed_writer_goes_once_there_is_a_whole_new_one(tmp_path: Path) -> None:
    write(tmp_path / "out")
    kill(writer(tmp_path / "out", "renames"))
    assert names(tmp_path) == [".out.", ".out.writ"]
    aside = next(tmp_path.glob(".out.replaced-*"))

    def fail(folder: Path) -> None:
        raise SoRAError("not good")

    with pytest.raises(SoRAError, match="not good"):
        write_folder(tmp_path / "out", FILES, overwrite=False, replaceable=(), check=fail)
    assert {path.name for path in aside.iterdir()} == set(FILES)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_folder_set_aside_by_a_living_writer_is_not_swept(tmp_path: Path) -> None:
    write(tmp_path / "out")
    living = writer(tmp_path / "out", "renames")
    write(tmp_path / "out")
    assert names(tmp_path) == [".out.", ".out.writ", "out"]
    kill(living)
    write(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]


def test_only_exact_names_of_folders_are_ours(tmp_path: Path) -> None:
    mine = [".out.writing-notes", ".out.writing-0123456", ".out.writing-0123456z", "out.writing-01234567"]
    for name in mine:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.writing-01234567").write_text("a file")
    (tmp_path / ".out.writing-76543210").symlink_to(tmp_path / mine[0])
    before = {path.name for path in tmp_path.iterdir()}
    write(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}


def test_file_system_without_locks_is_written_to_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".out.writing-01234567").mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == [".out.writ", "out"]


def test_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out", *(tmp_path / "out").iterdir())]
    assert modes == [0o700, 0o600, 0o600]
