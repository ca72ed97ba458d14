"""The one list of checks, in the order from what is basic to what is built on it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sora_ref.conformance.checks import dropout, gate, initialisation, linear, prox, prune, schedules, step
from sora_ref.conformance.engine.check import Check, Level
from sora_ref.errors import SoRAError, shown

MODULES = (linear, dropout, prox, gate, step, schedules, initialisation, prune)
ALL: tuple[Check, ...] = tuple(each for module in MODULES for each in module.CHECKS)
assert len({each.id for each in ALL}) == len(ALL), "two checks have one id"


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order of the list."""
    return ALL


def select(level: Level = "full", only: Iterable[str] = ()) -> tuple[Check, ...]:
    """The checks of a level, or those whose id or clause is named; SoRAError for a name that is none."""
    found = all_checks()
    names = list(only)
    known_ids(names)
    if names:
        return tuple(each for each in found if each.id in names or each.clause in names)
    return tuple(each for each in found if level == "full" or each.level == "core")


def known_ids(names: Iterable[str]) -> None:
    """SoRAError for a name that is neither a check nor a clause with checks."""
    known = {name for each in all_checks() for name in (each.id, each.clause)}
    unknown = sorted(set(names) - known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(known), 3) or sorted({each.clause for each in all_checks()})
        some = ", ".join(near)
        raise SoRAError(f"unknown check {shown(unknown[0])}: expected {some}, or another that `--list` shows")
