"""The one list of checks, in the order from what is basic to what is built on it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from sora_ref.conformance.choices import Choices
from sora_ref.conformance.subject import Subject
from sora_ref.errors import SoRAError, shown

Level = Literal["core", "full"]


@dataclass(frozen=True)
class Check:
    """One property of one clause.

    id:        the clause's, with a word after a dot where a clause has several checks.
    title:     what is checked, in a few words.
    formula:   what has to hold.
    source:    where the clause comes from.
    since:     the version of the specification that brought it.
    requires:  the capabilities that it needs, all of them.
    level:     whether "core" asks for it already.
    examples:  (subject) -> strategy of the arguments of `body`, a dict; or a strategy of one empty dict.
    always:    (subject) -> cases that are looked at whatever is drawn: corners that draws may miss.
    body:      (subject, **arguments); raises Refusal.
    deviation: what the declared choices do otherwise, or None; the check then verifies the declaration instead.
    applies:   why the check has nothing to say about this subject, or None.
    """

    id: str
    title: str
    formula: str
    source: str
    since: str
    requires: tuple[str, ...]
    level: Level
    examples: Callable[[Subject], st.SearchStrategy[dict[str, Any]]]
    always: Callable[[Subject], Sequence[dict[str, Any]]]
    body: Callable[..., None]
    deviation: Callable[[Choices], str | None]
    applies: Callable[[Subject], str | None]

    @property
    def clause(self) -> str:
        """The id of the clause."""
        return self.id.partition(".")[0]


def once(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    """No arguments: a check with nothing to draw."""
    return st.just({})


_CHECKS: dict[str, Check] = {}


def check(
    id: str,
    title: str,
    *,
    formula: str,
    source: str,
    since: str = "0.1",
    requires: str | tuple[str, ...] = (),
    level: Level = "full",
    examples: Callable[[Subject], st.SearchStrategy[dict[str, Any]]] = once,
    always: Callable[[Subject], Sequence[dict[str, Any]]] = lambda subject: (),
    deviation: Callable[[Choices], str | None] = lambda choices: None,
    applies: Callable[[Subject], str | None] = lambda subject: None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the body of a check."""

    def register(body: Callable[..., None]) -> Callable[..., None]:
        needs = (requires,) if isinstance(requires, str) else requires
        assert id not in _CHECKS, f"two checks are called {id}"
        _CHECKS[id] = Check(id, title, formula, source, since, needs, level, examples, always, body, deviation, applies)
        return body

    return register


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order of the list."""
    from sora_ref.conformance import checks  # the modules register what they hold

    assert checks.MODULES
    return tuple(_CHECKS.values())


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
