"""Documents that are read back: JSON, JSON lines and TOML become values of a type, or one sentence on what is wrong.

The type is anything msgspec knows: a `Struct`, a dataclass, `dict[str, float]`, `Any`.  A sentence names the file, the
line where lines are counted, and the field.  A document that is nested more deeply than the parsers go, or would take
them for ever, is refused like any other that is wrong.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from sora_ref.errors import SoRAError, brief, printable
from sora_ref.storage.regular import open_regular, read_regular

T = TypeVar("T")

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # beyond that JSON's readers differ

# A key with a hundred parts.  tomllib's time grows with the square of the parts, and no configuration has ten.
_ENDLESS_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


class Stepped(msgspec.Struct):
    """A record of a log: what it says more is not looked at."""

    step: Whole


def decode_json(data: bytes | str, kind: type[T], where: str, expected: str) -> T:
    """One JSON value of this type; SoRAError "{where}: …: expected {expected}" for anything else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error, "JSON", where, expected) from error


def decode_toml(text: str, where: str, expected: str) -> dict[str, Any]:
    """The tables of a TOML document; SoRAError "{where}: …: expected {expected}" where it is none."""
    if _ENDLESS_KEY.search(text):
        raise SoRAError(f"{where}: a key in it has a hundred parts or more: expected {expected}")
    try:
        tree = tomllib.loads(text)
        _require_shallow(tree)
        return tree
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and an int of too many digits
        raise _refusal(error, "TOML", where, expected) from error


def convert(value: Any, kind: type[T], where: str, expected: str) -> T:
    """A value that was parsed already, as this type; SoRAError like that of `decode_json`."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _refusal(error, "JSON", where, expected) from error


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """The JSON document in a file, as this type; SoRAError where there is no such file, or it holds something else."""
    return decode_json(read_regular(path, expected), kind, printable(str(path)), expected)


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
                raise _refusal(error, "JSON", line_of(path, number), expected) from error
            yield number, end, record


def line_of(path: Path, number: int) -> str:
    """How a sentence names a line of a file."""
    return f"{printable(str(path))}, line {number}"


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The tables of a TOML file; SoRAError where there is no such file, or it is no TOML in UTF-8."""
    try:
        text = read_regular(path, expected).decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise _refusal(error, "TOML", printable(str(path)), expected) from error
    return decode_toml(text, printable(str(path)), expected)


def _require_shallow(tree: Any) -> None:
    """RecursionError where a value lies below a hundred others: each of a few hundred tables may have a key of many."""
    level = [tree]
    for _ in range(100):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise RecursionError


def _refusal(error: Exception, language: str, where: str, expected: str) -> SoRAError:
    if isinstance(error, RecursionError):
        return SoRAError(f"{where}: nested too deeply: expected {expected}")
    if isinstance(error, msgspec.ValidationError):
        field, said = field_and_fault(error)
        return SoRAError(f"{where}: {f'{field}: ' if field else ''}damaged ({said}): expected {expected}")
    return SoRAError(f"{where}: damaged, not {language} ({brief(str(error))}): expected {expected}")


def field_and_fault(error: msgspec.ValidationError) -> tuple[str, str]:
    """The dotted field that msgspec complains about, "" for the whole document, and what it says of it."""
    said, _, place = str(error).partition(" - at `")
    return brief(place.rstrip("`").removeprefix("$").lstrip(".").replace("[...]", "")), brief(said)
