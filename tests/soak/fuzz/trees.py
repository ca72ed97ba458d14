"""Documents (JSON, TOML) taken apart, changed in their structure, and written again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

_RAW = "@raw:{}@"  # a string that stands for text which no value can be written as
_PIECES: dict[str, str] = {
    "deep list": "[" * 3_000 + "]" * 3_000,
    "deep object": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "long number": "9" * 5_001,
    "endless float": "1e999",
    "tiny": "1e-300",
    "minus zero": "-0.0",
    "surrogate": '"\\ud800"',
    "twice": '{"a": 1, "a": 2}',
}


def odd(rng: random.Random) -> Any:
    """A value that nobody expects."""
    return (
        copy.deepcopy(rng.choice(_NUMBERS + _TEXTS + _OTHERS))
        if rng.random() < 0.9
        else _RAW.format(rng.choice([*_PIECES]))
    )


_NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    3,
    7,
    10**9,
    2**31,
    2**53 + 1,
    2**62,
    2**63,
    2**64,
    10**30,
    0.5,
    -0.5,
    1e-300,
    1e308,
]
_NUMBERS += [float("nan"), float("inf"), float("-inf"), 1.0, True, False]
_TEXTS: list[Any] = [
    "",
    " ",
    "a",
    "\0",
    "\x1b[31mred",
    "\u202e",
    "é" * 90,
    "x" * 100_000,
    "a\nb",
    "none",
    "../..",
    "~nosuch",
]
_TEXTS += ["/dev/zero", "1", "nan", "(a+)+$", "(", ".*", "{0}", "%s", "cls", "encoder.layer.0.output.dense"]
_OTHERS: list[Any] = [
    None,
    [],
    {},
    [[]],
    [None],
    ["a", "a"],
    {"": ""},
    {"a": {"a": {"a": []}}},
    [0] * 1_000,
    list(range(20)),
]


def changed(rng: random.Random, tree: Any) -> Any:
    """A copy of the tree with one thing done to one of its nodes."""
    tree = copy.deepcopy(tree)
    holders = [node for node in _nodes(tree) if node]
    if not holders:
        return odd(rng)
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match rng.randrange(9):
        case 0 | 1 | 2:
            holder[key] = odd(rng)
        case 3:
            del holder[key]
        case 4:  # a value from elsewhere
            other = rng.choice(holders)
            holder[key] = copy.deepcopy(rng.choice(list(other.values()) if isinstance(other, dict) else other))
        case 5:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        case 6:  # a key more
            if isinstance(holder, dict):
                holder[rng.choice(("", "a", "\x1b[2J", "é", "k" * 500, *map(str, holder)))] = odd(rng)
            else:
                holder.insert(key, odd(rng))
        case 7:  # a key is called otherwise
            if isinstance(holder, dict):
                holder[rng.choice((f"{key}_", str(key).upper(), f"_{key}", "", str(key)[1:]))] = holder.pop(key)
            else:
                holder.reverse()
        case _:
            holder[key] = _nearby(rng, holder[key])
    return tree


def _nearby(rng: random.Random, value: Any) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value * 1_000_003, float(value), value / 3, str(value))
        )
    if isinstance(value, str):
        return rng.choice((value + "x", value[1:], value * 50, value.upper(), f" {value}", value[::-1], f"{value}\0"))
    if isinstance(value, list):
        return rng.choice(
            (
                value * 2,
                value[1:],
                value * 300 if len(value) < 50 else value[:1],
                {str(k): v for k, v in enumerate(value)},
            )
        )
    return [*value] if isinstance(value, dict) else value


def _nodes(tree: Any) -> list[Any]:
    """Every dict and list, the tree itself first."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict | list):
            found.append(node)
            todo += node.values() if isinstance(node, dict) else node
    return found


def to_json(tree: Any) -> bytes:
    """JSON, with the pieces that no value can be written as."""
    return _with_pieces(json.dumps(tree, ensure_ascii=False)).encode("utf-8", "surrogatepass")


def with_pieces(dump: Callable[[Any], str], tree: Any) -> bytes:
    """The same in another language."""
    return _with_pieces(dump(tree)).encode("utf-8", "surrogatepass")


def _with_pieces(text: str) -> str:
    for name, piece in _PIECES.items():
        text = text.replace(f'"{_RAW.format(name)}"', piece)
    return text
