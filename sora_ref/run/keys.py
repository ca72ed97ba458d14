"""Dotted keys of a configuration: put on top of a file, known or unknown, right or wrong in words."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from sora_ref.errors import SoRAError, shown
from sora_ref.preconditions import require
from sora_ref.storage.documents import decode_toml, field_and_fault

_MOST = 16  # values of a list that a sentence shows
_WORDS = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "array": "a list"}
_WORDS |= {"object": "a table", "null": "nothing"}


def parse_override(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE into key and value, the value as TOML would read it, else as a plain string."""
    key, equals, value = (part.strip() for part in text.partition("="))
    require(bool(equals and key), f"--set {shown(text)}: expected KEY=VALUE, as in train.lr=1e-3")
    try:
        read = decode_toml(f"value = {value}", "--set", "KEY=VALUE")
    except SoRAError:
        return key, value
    return key, read["value"] if len(read) == 1 else value  # a line break would begin another key


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key of nested tables; SoRAError for an empty part, a value on the way, or a table in its place."""
    require(dotted.count(".") < 10, f"{shown(dotted)}: a key of more than ten parts: expected one like train.lr")
    *tables, key = dotted.split(".")
    require(all([*tables, key]), f"{word(dotted)}: a part of the key is empty: expected one like train.lr")
    for depth, table in enumerate(tables):
        tree = tree.setdefault(table, {})
        above = ".".join(tables[: depth + 1])
        require(isinstance(tree, dict), f"{word(dotted)}: {word(above)} is a value: expected a table")
    covers = isinstance(tree.get(key), dict) and not isinstance(value, dict)
    require(not covers, f"{word(dotted)}: this is a table: expected one of its keys")
    tree[key] = value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key; task.files, whose keys are the user's, is one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key != "files":
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def known_keys(schema: type[Struct]) -> list[str]:
    """Every dotted key that a file may set, in the order of the schema."""
    return list(_types(schema))


def require_known(tree: Mapping[str, Any], schema: type[Struct]) -> None:
    """SoRAError for the first key that the schema has not, with those it has and those that look like it."""
    known = known_keys(schema)
    for dotted in flat(tree):
        if not any(dotted == key or _inside(dotted, key) or _inside(key, dotted) for key in known):
            table = dotted.rpartition(".")[0]
            beside = [key for key in known if key.rpartition(".")[0] == table] or _tables(known)
            raise SoRAError(f"{word(dotted)} is no key{_meant(dotted, known)}: expected one of {', '.join(beside)}")


def in_words(error: msgspec.ValidationError, tree: Mapping[str, Any], schema: type[Struct]) -> str:
    """msgspec's sentence with key and value: "train.epochs is 0: expected an integer >= 1"."""
    place, text = field_and_fault(error)
    key = place.partition("[")[0]
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    expected = re.sub(r"`([^`]+)`", lambda found: " or ".join(map(_word_of, found[1].split(" | "))), text)
    if text.startswith("Invalid enum value"):
        expected = f"Expected one of {', '.join(_choices(_types(schema).get(key)))}"
    if text == "Number out of range":
        expected = "Expected a number that a float can hold"
    found = f"a list of {len(value):,}" if isinstance(value, list) and len(value) > _MOST else shown(value)
    return f"{key} is {found}: {expected[:1].lower()}{expected[1:]}"


def word(key: str) -> str:
    """A key as a sentence names it: bare where it is an ordinary one."""
    return key if re.fullmatch(r"[\w.-]{1,80}", key, re.ASCII) else shown(key)


@functools.cache
def _types(section: type[Struct], prefix: str = "") -> dict[str, Any]:
    """The type of every dotted key; for reading alone, since it is worked out once."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        parts = (field.type, *get_args(field.type))
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, Struct)), None)
        name = prefix + field.name
        found |= _types(inner, f"{name}.") if inner else {name: field.type}
    return found


def _choices(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from (repr(choice) for choice in get_args(kind))
    elif get_args(kind):
        for part in get_args(kind):
            yield from _choices(part)
    elif isinstance(kind, type) and kind is not NoneType:
        yield _word_of(kind.__name__)


def _word_of(name: str) -> str:
    return _WORDS.get(name, name)


def _inside(key: str, table: str) -> bool:
    return key.startswith(f"{table}.")


def _tables(known: list[str]) -> list[str]:
    """What the top of a file may hold."""
    return list(dict.fromkeys(key.partition(".")[0] for key in known))


def _meant(dotted: str, known: list[str]) -> str:
    """The keys that look like this one, or have its last part."""
    last = dotted.rpartition(".")[2]
    close = difflib.get_close_matches(dotted[:80], known, n=2, cutoff=0.75)
    close += [key for key in known if key.rpartition(".")[2] == last]
    return f" (did you mean {' or '.join(dict.fromkeys(close))}?)" if close else ""
