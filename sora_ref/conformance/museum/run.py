"""Running the museum: the kit checks every mistake, and a verdict says by which check it was refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sora_ref.conformance.checks.catalogue import select
from sora_ref.conformance.engine.check import Check
from sora_ref.conformance.engine.declarations import subject_of
from sora_ref.conformance.engine.outcome import Outcome
from sora_ref.conformance.engine.runner import EXAMPLES, run_check
from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import BASELINES
from sora_ref.conformance.museum.catalogue import MISTAKES
from sora_ref.conformance.museum.mistake import Mistake


@dataclass(frozen=True)
class Verdict:
    """What became of a mistake: the first outcome that failed, or None where every check let it pass."""

    mistake: Mistake
    outcome: Outcome | None

    @property
    def right(self) -> bool:
        """Whether it is refused, and for the clause that is there for it."""
        if self.outcome is None:
            return False
        return self.mistake.refused_by in (self.outcome.check.id, self.outcome.check.clause)

    def __str__(self) -> str:
        found = "not refused" if self.outcome is None else f"refused by {self.outcome.check.id}"
        return f"{self.mistake.name}: {found}" + ("" if self.right else f", expected {self.mistake.refused_by}")


def run_mistake(mistake: Mistake, *, seed: int = 0, max_examples: int = EXAMPLES, shortcut: bool = True) -> Verdict:
    """Run the checks in their order up to the first that fails, without making its counterexample small.

    shortcut: A mistake changes some attributes of its baseline.  A check that looks up none of them runs the same
              program on both.  With the shortcut, the baseline's outcome stands for such a check.
    """
    subject, _ = subject_of(mistake.implementation())
    for each in select("full"):
        outcome, names = _baseline_outcome(BASELINES.index(mistake.base), each, seed, max_examples)
        if not shortcut or names & mistake.changed:
            outcome = run_check(subject, each, seed_=seed, max_examples=max_examples, shrink=False)
        if outcome.status == "failed":
            return Verdict(mistake, outcome)
    return Verdict(mistake, None)


def run_all(
    say: Callable[[Verdict], None] = lambda verdict: None,
    *,
    mistakes: Sequence[Mistake] = MISTAKES,
    seed: int = 0,
    max_examples: int = EXAMPLES,
) -> tuple[Verdict, ...]:
    """The verdict on every mistake, said as it is found."""
    verdicts = []
    for each in mistakes:
        verdict = run_mistake(each, seed=seed, max_examples=max_examples)
        say(verdict)
        verdicts.append(verdict)
    return tuple(verdicts)


def last_line(verdicts: Sequence[Verdict]) -> str:
    """How many were refused for the right clause."""
    return f"refused {sum(each.right for each in verdicts)}/{len(verdicts)} for the right clause"


def table(mistakes: Sequence[Mistake] = MISTAKES) -> str:
    """The museum in Markdown: a row a mistake."""
    lines = ["| mistake | what goes wrong | seen in | refused by |", "|---|---|---|---|"]
    for each in mistakes:
        cells = (each.name, each.says, each.seen or "–", each.refused_by)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


@cache  # of the checks there are forty, of the bases two
def _baseline_outcome(place: int, each: Check, seed: int, max_examples: int) -> tuple[Outcome, frozenset[str]]:
    """The outcome of a check for a baseline, and the name of every attribute of it that the check looks up."""
    names: set[str] = set()

    def recorded(self: PlainSoRA, name: str) -> Any:
        names.add(name)
        return object.__getattribute__(self, name)

    subject, _ = subject_of(type("Recorded", (BASELINES[place],), {"__getattribute__": recorded})())
    names.clear()  # the subject has asked for everything once, to see what there is
    outcome = run_check(subject, each, seed_=seed, max_examples=max_examples, shrink=False)
    return outcome, frozenset(names)
