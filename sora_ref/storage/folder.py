"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal, TypeVar

from sora_ref.errors import SoRAError
from sora_ref.preconditions import require
from sora_ref.storage.flock import flock

Checked = TypeVar("Checked")

_NONE = -1  # no descriptor


def write_folder(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    overwrite: bool,
    replaceable: Collection[str],
    check: Callable[[Path], Checked],
) -> Checked:
    """Writes `files` into a hidden sibling, flushes them to the disk, checks them there, and renames it into place.

    overwrite:   replace an existing folder, provided it holds nothing but files named in `replaceable`.
    check:       called with the sibling; what it returns is returned, what it raises leaves the target untouched.
    A kill leaves at worst a hidden sibling `.NAME.writing-…`, or, between the two renames of an overwrite, the old
    folder whole as `.NAME.replaced-…`; the next call for the same target removes them.  Files and folders get the
    permissions that the process's umask leaves.  Raises SoRAError where the folder exists, or the disk refuses.
    """
    folder = Path(os.path.abspath(folder))
    with ExitStack() as held:
        try:
            _require_free(folder, overwrite, replaceable)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder, "writing")
            scratch = _new_sibling(folder, held)
            for name, data in files.items():
                _write(scratch / name, data)
            flush_folder(scratch)
            checked = check(scratch)
            old = scratch.with_name(scratch.name.replace(".writing-", ".replaced-"))
            _move_into_place(scratch, folder, old if overwrite and folder.exists() else None, held)
            _sweep(folder, "replaced")
        except OSError as error:
            raise SoRAError(f"{folder} cannot be written: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)
    return checked


def _new_sibling(folder: Path, held: ExitStack) -> Path:
    """A new hidden folder beside `folder`, locked until `held` closes, and removed then if it is still there."""
    while True:
        scratch = folder.with_name(f".{folder.name}.writing-{secrets.token_hex(4)}")
        scratch.mkdir()
        held.callback(shutil.rmtree, scratch, ignore_errors=True)
        with suppress(FileNotFoundError):  # swept away by another process, before it was locked
            held.enter_context(_lock(scratch))
            if scratch.exists():
                return scratch


def _sweep(folder: Path, word: Literal["writing", "replaced"]) -> None:
    """Removes the siblings of this kind that killed processes left; those of living ones are locked."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.{word}-[0-9a-f]{{8}}")
    for path in folder.parent.iterdir():
        if left.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError), _lock(path, wait=False):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a folder's own lock, which its renames do not end and the death of its process does.

    OSError where the folder is gone, or, unless told to `wait`, another process holds it or there are no locks; a
    process that waits goes on without one there, for nobody else can have one either.  So on Windows what killed
    processes left stays, for nobody can tell it from what a living one writes.
    """
    descriptor = _opened(folder)
    try:
        with suppress(OSError) if wait else nullcontext():
            flock(descriptor, wait=wait)
        yield
    finally:
        if descriptor != _NONE:
            os.close(descriptor)


def _opened(folder: Path) -> int:
    """The folder, open to be locked or flushed; `_NONE` on Windows, which opens none."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if hasattr(os, "O_DIRECTORY") else _NONE


def _require_free(folder: Path, overwrite: bool, replaceable: Collection[str]) -> None:
    above = folder.parent
    require(above.is_dir() or not os.path.lexists(above), f"{above} is not a folder: expected one for {folder.name}")
    if not os.path.lexists(folder):
        return
    require(overwrite, f"{folder} exists already: expected the name of a new folder")
    require(folder.is_dir() and not folder.is_symlink(), f"{folder} is not a folder: expected one to overwrite")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in replaceable)
    require(not foreign, f"{folder} holds {', '.join(foreign)}: expected only files of an export, to overwrite them")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move_into_place(scratch: Path, folder: Path, old: Path | None, held: ExitStack) -> None:
    """Sets the present folder aside as `old`, if any, and renames; where that fails, what was set aside comes back."""
    try:
        if old is not None:
            held.enter_context(_lock(folder))  # until it is removed, or back
            folder.rename(old)
        scratch.rename(folder)
    except BaseException:
        if old is not None and old.exists():
            old.rename(folder)
        raise
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Flushes the folder's own entries, the names in it, to the disk; on Windows the file system sees to that."""
    descriptor = _opened(folder)
    if descriptor != _NONE:
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
