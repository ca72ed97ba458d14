"""Files that are whole or as they were before: written beside themselves, flushed to the disk, renamed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.storage.folder import flush_folder
from sora_ref.storage.json_text import to_json

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_SCRAP = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or leave what was there: a temporary sibling, flushed to disk, then renamed over `path`.

    A new file may be read by whom the process's umask lets read it; one that replaces another keeps its permissions.
    Raises SoRAError where the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _permissions(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, _NEW, 0o666 if before is None else before), "wb") as file:
            if before is not None:
                os.chmod(temporary, before)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except (OSError, ValueError) as error:  # ValueError: what no file can be called
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({getattr(error, 'strerror', None) or error}): "
            "expected a writable folder with room"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError, ValueError):  # renamed, where all went well
                os.unlink(temporary)


def _permissions(path: Path) -> int | None:
    """Those of the file that stands there, links not followed; None where there is none."""
    with suppress(FileNotFoundError):
        found = os.lstat(path).st_mode
        return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None
    return None


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; SoRAError, too, for half of a character's code, which UTF-8 has no bytes for."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        part = shown(text[max(error.start - 20, 0) : error.end + 20])
        raise SoRAError(f"{printable(str(path))}: {part} is no text that UTF-8 could hold: expected one") from error
    write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, to_json(value, indent=2) + "\n")


def name_being_written(scrap: Path) -> str | None:
    """The name of the file that a killed `write_bytes` was about to write, where `scrap` could be what it left."""
    found = _SCRAP.fullmatch(scrap.name)
    return found[1] if found else None


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
