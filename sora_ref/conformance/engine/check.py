"""What a check is: plain data.  A module of checks makes them by `@check` and lists them; nothing is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import Choices

Level = Literal["core", "full"]


@dataclass(frozen=True)
class Check:
    """One property of one clause.

    id:        the clause's, with a word after a dot where a clause has several checks.
    title:     what is checked, in a few words.
    formula:   what has to hold.
    source:    where the clause comes from.
    function:  the specification's function that states the clause.
    since:     the version of the specification in which the clause appeared.
    requires:  the capabilities that it needs, all of them.
    level:     whether "core" asks for it already.
    examples:  (subject) -> strategy of the arguments of `body`, a dict; or a strategy of one empty dict.
    always:    (subject) -> cases that are looked at whatever is drawn: corners that draws may miss.
    body:      (subject, **arguments); raises Refusal.
    deviation: what the declared choices do otherwise, or None; the check then verifies the declaration instead.
    applies:   why the check does not apply to this subject, or None.
    """

    id: str
    title: str
    formula: str
    source: str
    function: Callable[..., Any]
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

    @property
    def stated_by(self) -> str:
        """The specification's function by its full name."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


def once(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    """The strategy of a check that draws nothing: one case without arguments."""
    return st.just({})


def check(
    id: str,
    title: str,
    *,
    formula: str,
    source: str,
    function: Callable[..., Any],
    since: str = "0.1",
    requires: str | tuple[str, ...] = (),
    level: Level = "full",
    examples: Callable[[Subject], st.SearchStrategy[dict[str, Any]]] = once,
    always: Callable[[Subject], Sequence[dict[str, Any]]] = lambda subject: (),
    deviation: Callable[[Choices], str | None] = lambda choices: None,
    applies: Callable[[Subject], str | None] = lambda subject: None,
) -> Callable[[Callable[..., None]], Check]:
    """A decorator that makes a function the body of a check."""

    def made(body: Callable[..., None]) -> Check:
        needs = (requires,) if isinstance(requires, str) else requires
        return Check(
            id, title, formula, source, function, since, needs, level, examples, always, body, deviation, applies
        )

    return made
