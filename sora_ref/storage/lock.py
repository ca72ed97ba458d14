"""One writer at a time in a folder: a lock that the system releases when its process dies, however it dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sora_ref.errors import SoRAError

LOCK = ".lock"  # hidden in the folder, where it stays: taking it away would let two processes lock two files
_WIDTH = 20  # a process id is written over the one before it in one piece


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, against every other process that writes there.

    The lock file names the process, but on Windows.  Who only reads takes no notice of it.  A folder that was made here
    and in which nothing was written is gone afterwards.  Raises SoRAError at once, with the other's process id, where
    another process (or another thread of this one) holds the folder, and where the folder cannot be written.
    """
    path = folder / LOCK
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
        _write_owner(path)
    except Timeout as error:
        raise SoRAError(f"{folder}: {_owner(path)} is writing there: expected one process at a time") from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SoRAError(
            f"{folder}: cannot be locked ({reason}): expected a writable folder with room for {LOCK}"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # the folder is gone, or not to be read; what went wrong in it is what counts
            if made and [entry.name for entry in folder.iterdir()] == [LOCK]:
                path.unlink()
                for place in made:
                    place.rmdir()
        lock.release()


def _write_owner(path: Path) -> None:
    """Name this process in the lock file, but not on Windows, where a locked file cannot be written a second time."""
    if not hasattr(os, "pwrite"):
        return
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, f"{os.getpid()}".ljust(_WIDTH - 1).encode() + b"\n", 0)
    finally:
        os.close(descriptor)


def _owner(path: Path) -> str:
    try:
        number = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        number = ""
    return f"process {number}" if number.isdecimal() else "another process"
