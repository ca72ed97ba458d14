"""What a label may be: one of the classes, by its name, or a real number."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal

from sora_ref.errors import SoRAError, shown
from sora_ref.preconditions import require

UNKNOWN = -1  # the index of a label that is none of the classes; no prediction equals it

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_MOST = 10  # values that a sentence lists


def some(values: Collection[str]) -> str:
    """How a sentence lists values that came from outside: the first ten, and how many more there are."""
    listed = ", ".join(shown(value) for _, value in zip(range(_MOST), values, strict=False))
    more = len(values) - _MOST
    return f"{listed} and {more:,} more" if more > 0 else listed


def in_class_order(values: Iterable[str]) -> tuple[str, ...]:
    """The names sorted; as numbers, however long, when all are whole numbers."""
    names = set(values)
    if all(_WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


def class_indices(names: tuple[str, ...]) -> dict[str, int]:
    """Index of every class by its name; a `SoRAError` for a blank name or one that occurs twice."""
    indices: dict[str, int] = {}
    for name in names:
        require(bool(name.strip()), f"task.labels has {shown(name)}: expected names that are not blank")
        require(name not in indices, f"task.labels has {shown(name)} twice: expected every class once")
        indices[name] = len(indices)
    return indices


def class_index(where: str, value: str, indices: Mapping[str, int]) -> int:
    """Index of a label; a `SoRAError` that begins with `where` when it is none of the classes."""
    if value not in indices:
        raise SoRAError(f"{where}: {not_a_class(value, indices)}")
    return indices[value]


def not_a_class(value: str, names: Collection[str]) -> str:
    """Why a label is refused that is none of the classes."""
    return f"the label {shown(value)} is not in the set: expected one of {some(names)}"


def real_number(where: str, value: str) -> float:
    """Regression label; a `SoRAError` that begins with `where` unless it is a finite decimal number."""
    number = parsed_number(value)
    if number is None:
        raise SoRAError(f"{where}: {not_a_number(value)}")
    return number


def parsed_number(value: str) -> float | None:
    """The number that a label spells; None unless it is a finite decimal one."""
    try:
        number = math.nan if "_" in value else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def not_a_number(value: str) -> str:
    """Why a regression label is refused."""
    return f"the label {shown(value)} is not a finite number: expected one, such as 2.5"


def look_alikes(names: Iterable[str]) -> Iterator[str]:
    """A sentence for each group of class names that may be meant to be one: `1` and `1.0`, `Yes` and `yes `.

    Of more than ten groups, the first ten and how many more there are.
    """
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(_likeness(name), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    for group in alike[:_MOST]:
        yield f"the labels {some(group)} are counted as {len(group)} classes, though they look alike"
    if len(alike) > _MOST:
        yield f"{len(alike) - _MOST:,} more groups of labels look alike"


def _likeness(name: str) -> object:
    """The same for names that differ in case, in surrounding or doubled spaces, or in how they spell one number."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return Decimal(plain) if _DECIMAL.fullmatch(plain) else plain
