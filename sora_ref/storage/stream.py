"""A new file that is written as it comes, and is there whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sora_ref.errors import SoRAError, printable
from sora_ref.preconditions import require
from sora_ref.storage.flock import flock
from sora_ref.storage.folder import flush_folder


def require_new(path: Path) -> None:
    """SoRAError where something, a broken link included, is at `path` already."""
    require(not os.path.lexists(path), f"{printable(str(path))}: exists already: expected the name of a new file")


@contextmanager
def new_text(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes text in UTF-8 into a hidden sibling, which gets its name when the block ends well.

    Raises SoRAError where `path` exists, before or after, or cannot be written; then nothing is left behind.  A killed
    process leaves its sibling, which the next call for the same path removes; that of a living one is locked.
    """
    require_new(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _in_a_sentence(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            file = temporary.open("x", encoding="utf-8", newline="\n")
            with suppress(OSError):  # a system, or a file system, without locks
                flock(file.fileno(), wait=False)

        def write(text: str) -> None:
            with _in_a_sentence(path):
                file.write(text)

        try:
            yield write
            with _in_a_sentence(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # a full disk again, said already
                file.close()
        require_new(path)
        with _in_a_sentence(path):
            os.rename(temporary, path)
            flush_folder(path.parent)
    finally:
        with suppress(OSError, ValueError):  # renamed, where all went well
            os.unlink(temporary)


def _sweep(path: Path) -> None:
    """Remove the siblings that killed processes left."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError):  # a folder that may be written and not be listed
        for left in [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]:
            with suppress(OSError):  # a link, or locked
                descriptor = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    flock(descriptor, wait=False)
                    left.unlink()
                finally:
                    os.close(descriptor)


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: what no file can be called
        reason = getattr(error, "strerror", None) or error
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({reason}): expected a writable folder with room"
        ) from error
