"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from sora_ref.checks import require
from sora_ref.errors import SoRAError

Checked = TypeVar("Checked")


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
    folder whole as `.NAME.replaced-…`.  Raises SoRAError where the folder exists, or the disk refuses.
    """
    folder = Path(os.path.abspath(folder))
    tag = secrets.token_hex(4)
    scratch, old = (folder.with_name(f".{folder.name}.{word}-{tag}") for word in ("writing", "replaced"))
    try:
        _require_free(folder, overwrite, replaceable)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        for name, data in files.items():
            _write(scratch / name, data)
        flush_folder(scratch)
        checked = check(scratch)
        _move_into_place(scratch, folder, old if overwrite and folder.exists() else None)
    except OSError as error:
        raise SoRAError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return checked


def _require_free(folder: Path, overwrite: bool, replaceable: Collection[str]) -> None:
    above = folder.parent
    require(above.is_dir() or not os.path.lexists(above), f"{above} is not a folder: expected one for {folder.name}")
    if not os.path.lexists(folder):
        return
    require(overwrite, f"{folder} exists already: expected a new folder, or to be told to overwrite it")
    require(folder.is_dir() and not folder.is_symlink(), f"{folder} is not a folder: expected one to overwrite")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in replaceable)
    require(not foreign, f"{folder} holds {', '.join(foreign)}: expected only files of an export, to overwrite them")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move_into_place(scratch: Path, folder: Path, old: Path | None) -> None:
    """Sets the present folder aside as `old`, if any, and renames; where that fails, what was set aside comes back."""
    try:
        if old is not None:
            folder.rename(old)
        scratch.rename(folder)
    except BaseException:
        if old is not None and old.exists():
            old.rename(folder)
        raise
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Flushes the folder's own entries, the names in it, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
