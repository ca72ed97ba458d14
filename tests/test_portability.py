"""macOS and Windows, by imitation: what they lack is taken away, and their rules on files and names are applied.

Only Linux is run.  These tests hold what can be known from there.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from click.testing import CliRunner, Result
from tiny_run import interrupted, make_keys, outcome, run_once, tree
from windows import imitate, open_files

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.run.config import dump_config, load_config
from sora_ref.run.hub import repository
from sora_ref.run.keys import parse_override
from sora_ref.run.workers import available_cores
from sora_ref.storage import flock
from sora_ref.storage.files import write_bytes
from sora_ref.storage.folder import write_folder
from sora_ref.storage.lock import only_writer
from sora_ref.storage.stream import new_text

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="imitates other systems on Linux")

ROOT = Path(__file__).resolve().parent.parent
# What no file of Windows can be called; the last dot and blank would be dropped.
FORBIDDEN = re.compile(r'.*[<>:"|?*\\\x00-\x1f].*|.*[ .]|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?', re.IGNORECASE)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    imitate(monkeypatch)


def command(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that was interrupted and resumed, and all that is made of it, where the system is Windows."""
    here = tmp_path_factory.mktemp("windows")
    keys = make_keys(here) | {"train.epochs": 1, "gate.strength": 0.1}
    run_once(here / "linux", keys)
    with pytest.MonkeyPatch.context() as patch:
        imitate(patch)
        run_once(interrupted(here / "run", keys), keys, resume=True)
        for name in ("prune", "merge", "export"):
            command(name, here / "run", "--out", here / name, "--quiet")
        command("predict", here / "prune", "a good film", "--out", here / "said.jsonl", "--quiet")
    return {path.name: path for path in here.iterdir()}


def test_a_run_on_windows_has_the_bits_of_one_on_linux(folders: dict[str, Path]) -> None:
    assert outcome(folders["run"]) == outcome(folders["linux"])
    assert folders["said.jsonl"].read_bytes().count(b"\n") == 1


def test_nothing_is_left_behind_on_windows(folders: dict[str, Path]) -> None:
    assert not [name for name in folders if name.startswith(".")]
    assert [path.name for path in folders["run"].rglob(".*")] == [".lock"]


def test_what_is_written_has_names_that_windows_allows_and_tells_apart(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        if folder.is_dir():
            require_names_of_windows(list(tree(folder)))


def test_files_of_the_repository_have_names_that_windows_allows_and_tells_apart() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    require_names_of_windows(done.stdout.splitlines())


def require_names_of_windows(paths: list[str]) -> None:
    assert [path for path in paths if any(map(FORBIDDEN.fullmatch, path.split("/")))] == []
    assert len({path.lower() for path in paths}) == len(paths) > 0


def test_the_imitation_refuses_what_windows_refuses(tmp_path: Path, windows: None) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "file").open("w", encoding="utf-8"):
        assert str(tmp_path / "folder" / "file") in open_files()
        with pytest.raises(PermissionError):
            (tmp_path / "folder").rename(tmp_path / "other")
        with pytest.raises(PermissionError):
            (tmp_path / "folder" / "file").unlink()
    (tmp_path / "other").touch()
    with pytest.raises(FileExistsError):
        (tmp_path / "folder" / "file").rename(tmp_path / "other")
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        flock.flock(0, wait=True)


def test_a_file_that_another_program_holds_open_is_one_sentence(tmp_path: Path, windows: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb"), pytest.raises(SoRAError, match=r"file: cannot be written \(Permission denied\): expected"):
        write_bytes(path, b"new")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_without_locks_what_a_living_process_writes_is_not_swept(tmp_path: Path, windows: None) -> None:
    (tmp_path / ".out.writing-0123abcd").mkdir()
    (tmp_path / ".text.0123abcd").touch()
    write_folder(tmp_path / "out", {"a": b"1"}, overwrite=False, replaceable=(), check=lambda folder: None)
    write_folder(tmp_path / "out", {"a": b"2"}, overwrite=True, replaceable=("a",), check=lambda folder: None)
    with new_text(tmp_path / "text") as write:
        write("line\n")
    assert {path.name for path in tmp_path.iterdir()} == {".out.writing-0123abcd", ".text.0123abcd", "out", "text"}
    assert (tmp_path / "out" / "a").read_bytes() == b"2"


def test_a_second_writer_is_refused_where_the_lock_names_nobody(tmp_path: Path, windows: None) -> None:
    with (
        only_writer(tmp_path / "run"),
        pytest.raises(SoRAError, match="run: another process is writing there"),
        only_writer(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize(("said", "cores"), [(6, 6), (None, 1)])
def test_cores_are_the_machines_where_the_system_says_no_more(
    monkeypatch: pytest.MonkeyPatch, said: int | None, cores: int
) -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: said)
    assert available_cores() == cores


def test_a_drive_that_is_absent_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(SoRAError, match=r"report.json: cannot be written: expected a writable folder, and / is none"):
        command("check", "module:Adapter", "--json", "/nowhere/report.json")


@pytest.mark.parametrize("path", [r"C:\models\bert", r"models\bert", r"\\server\share\bert", r"..\new bert"])
def test_a_path_of_windows_is_no_name_on_a_hub_and_passes_through_flags_and_files(path: str, tmp_path: Path) -> None:
    assert repository(str(PureWindowsPath(path))) is None
    assert parse_override(f"model.path={path}") == ("model.path", path)
    config = load_config(None, {"model.path": path})
    (tmp_path / "config.toml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "config.toml", {}).model.path == path


WRITING = re.compile(r"[\"'](w|x|a|wt|xt|at)\+?[\"']")


def test_text_is_written_with_the_same_line_ends_everywhere() -> None:
    """On Windows, text files have others unless `newline` is given."""
    for path in [
        *(ROOT / "sora_ref").rglob("*.py"),
        *(ROOT / "backends").rglob("*.py"),
        *(ROOT / "models").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of_path = name == "write_text" and isinstance(node.func, ast.Attribute)
            opens = name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile") and any(
                WRITING.fullmatch(ast.unparse(argument)) for argument in node.args
            )
            null = "os.devnull" in ast.unparse(node)
            given = {keyword.arg for keyword in node.keywords}
            assert null or not (of_path or opens) or "newline" in given, f"{path}:{node.lineno}: no newline="
