"""Documents that are read back: JSON and TOML become values of a type, or one sentence on what is wrong.

The type is anything msgspec knows: a `Struct`, a dataclass, `dict[str, float]`, `Any`.  A sentence names the file
and the field.  A document that is nested more deeply than the parsers go, or would take
them for ever, is refused like any other that is wrong.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from sora_ref.errors import SoRAError, brief, printable
from sora_ref.storage.regular import read_regular

T = TypeVar("T")

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # beyond that JSON's readers differ

# A key with a hundred parts.  tomllib's time grows with the square of the parts, and no configuration has ten.
_ENDLESS_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")


def decode_json(data: bytes | str, kind: type[T], where: str, expected: str) -> T:
    """One JSON value of this type; SoRAError "{where}: …: expected {expected}" for anything else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(error, "JSON", where, expected) from error


def decode_toml(text: str, where: str, expected: str) -> dict[str, Any]:
    """The tables of a TOML document; SoRAError "{where}: …: expected {expected}" where it is none."""
    if _ENDLESS_KEY.search(text):
        raise SoRAError(f"{where}: a key in it has a hundred parts or more: expected {expected}")
    try:
        tree = tomllib.loads(text)
        _require_shallow(tree)
        return tree
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and an int of too many digits
        raise damaged(error, "TOML", where, expected) from error


def convert(value: Any, kind: type[T], where: str, expected: str) -> T:
    """A value that was parsed already, as this type; SoRAError like that of `decode_json`."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise damaged(error, "JSON", where, expected) from error


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """The JSON document in a file, as this type; SoRAError where there is no such file, or it holds something else."""
    return decode_json(read_regular(path, expected), kind, printable(str(path)), expected)


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The tables of a TOML file; SoRAError where there is no such file, or it is no TOML in UTF-8."""
    try:
        text = read_regular(path, expected).decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise damaged(error, "TOML", printable(str(path)), expected) from error
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


def damaged(error: Exception, language: str, where: str, expected: str) -> SoRAError:
    """What msgspec, tomllib or a decoder of text raised, as "{where}: …: expected {expected}"."""
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
