"""Logs: files of JSON lines that grow by appending, are cut back where a run goes on, and read one line at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sora_ref.errors import SoRAError, printable
from sora_ref.preconditions import require
from sora_ref.storage.documents import Whole, damaged
from sora_ref.storage.json_text import to_json
from sora_ref.storage.regular import open_regular


class Stepped(msgspec.Struct):
    """A record of a log: what it says more is not looked at."""

    step: Whole


def json_lines(path: Path, kind: Any, expected: str) -> Iterator[tuple[int, int, Any]]:
    """The whole JSON lines of a file, without a last one that a kill cut short; none where there is no file.

    Yields the line's number from 1, the bytes of the file up to its end, and what it holds; one line at a time is in
    memory.  kind: a type, or a union of tagged ones.  Raises SoRAError, naming file and line, where a whole line is
    none of it.
    """
    if not path.exists():
        return
    decode, number, end = msgspec.json.Decoder(kind).decode, 0, 0
    with open_regular(path, expected) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            number += 1
            end += len(line)
            try:
                record = decode(line[:-1])
            except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise damaged(error, "JSON", line_of(path, number), expected) from error
            yield number, end, record


def line_of(path: Path, number: int) -> str:
    """How a sentence names a line of a file."""
    return f"{printable(str(path))}, line {number}"


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines; a line cut short by a kill is dropped when they are read.

    Raises SoRAError where the file cannot be written, or is a link: it would lead out of the run's folder.
    """
    try:
        with os.fdopen(_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(to_json(record) + "\n")
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({error.strerror}): expected a writable folder with room"
        ) from error


def keep_lines(
    path: Path, last_step: int, kind: Any = Stepped, see: Callable[[int, Any], None] = lambda number, record: None
) -> None:
    """Cut off the records of steps after `last_step`, and a line cut short: what a resumed run will write again.

    kind: the records' type, with an int `step`.  see: called with the number and the record of every line that stays;
    what it raises leaves the file as it is.  Lines that stay keep their bytes; where all stay, so does the file.  The
    whole log is looked at, one line at a time.  Raises SoRAError, naming file and line, where a whole line is no such
    record, or steps go back.
    """
    keep, before = 0, None
    for number, end, record in json_lines(path, kind, "a log of a run"):
        step = record.step
        if before is not None and step < before:
            where = line_of(path, number)
            raise SoRAError(f"{where}: damaged (step {step} after step {before}): expected a log of a run")
        before = step
        if step <= last_step:
            see(number, record)
            keep = end
    try:
        if path.exists() and path.stat().st_size > keep:
            with os.fdopen(_own(path, os.O_RDWR), "r+b") as file:
                file.truncate(keep)
                os.fsync(file.fileno())
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({error.strerror}): expected a writable log"
        ) from error


def _own(path: Path, flags: int) -> int:
    """A log of ours, open to be written; SoRAError where a link stands there."""
    require(not path.is_symlink(), f"{printable(str(path))}: a link: expected a log of the run's own")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)
