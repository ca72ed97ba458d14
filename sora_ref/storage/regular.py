"""Opening a file only where it is one: nothing waits for a pipe, or reads a device for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sora_ref.errors import SoRAError, brief, printable
from sora_ref.preconditions import require

_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def absolute(path: str | Path) -> Path:
    """The path from the root, ~ and links resolved; SoRAError for the home of nobody, or a circle of links."""
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:
        said = brief(getattr(error, "strerror", None) or str(error))
        raise SoRAError(f"{printable(str(path))}: leads nowhere ({said}): expected a file or a folder") from error


def require_regular(path: Path, expected: str) -> None:
    """SoRAError, "… expected {expected}", unless `path` leads to a file that can be opened and read to its end.

    Refused by name: what is missing, a folder, a named pipe, a socket, a device (which could wait for ever), a circle
    of links, what may not be read, and what no file can be called.  Nothing but a regular file is ever opened.
    """
    os.close(_open_regular(path, expected))


def read_regular(path: Path, expected: str) -> bytes:
    """The bytes of a regular file; SoRAError as `require_regular` says, or where the disk fails."""
    descriptor = _open_regular(path, expected)
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be read ({error.strerror or error}): expected {expected}"
        ) from error


def open_regular(path: Path, expected: str) -> BinaryIO:
    """A regular file, open to be read; SoRAError as `require_regular` says."""
    return os.fdopen(_open_regular(path, expected), "rb")


def _open_regular(path: Path, expected: str) -> int:
    name = printable(str(path))
    try:
        _require_regular(name, os.stat(path), expected)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise SoRAError(f"{name}: no such file: expected {expected}") from error
    except OSError as error:
        raise SoRAError(f"{name}: cannot be read ({error.strerror or error}): expected {expected}") from error
    except SoRAError:
        raise
    except ValueError as error:  # a zero character, or half of a character's code, is in no file's name
        raise SoRAError(f"{name}: no file can be called that ({error}): expected {expected}") from error
    try:
        _require_regular(name, os.fstat(descriptor), expected)  # it may have been exchanged meanwhile
    except SoRAError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(name: str, found: os.stat_result, expected: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    require(kind == stat.S_IFREG, f"{name}: {_NO_FILES.get(kind, 'no file')}: expected {expected}")
