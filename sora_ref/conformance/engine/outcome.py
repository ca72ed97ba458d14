"""What became of one check, and of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sora_ref.conformance.engine.check import Check, Level
from sora_ref.conformance.engine.refusal import Refusal

Status = Literal["passed", "failed", "skipped", "deviates", "xfailed", "xpassed"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "deviates", "skipped", "xfailed", "xpassed")


@dataclass(frozen=True)
class Outcome:
    """What became of one check.

    passed:   the clause holds.                          failed:  it does not; `refusal` says how.
    skipped:  it was not looked at; `reason` says why.   deviates: the declared choice departs from the clause, and is
                                                                  what the implementation does; `reason` says which.
    xfailed:  it was expected not to hold, with `reason`, and does not.    xpassed: so it was, but it holds.
    """

    check: Check
    status: Status
    reason: str = ""
    refusal: Refusal | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """A run of the kit over one implementation.

    holds: every required check passed; what is optional and was looked at did too.
    """

    name: str
    level: Level
    dtype: str
    precision: str
    spec_version: str
    targets: str
    choices: str
    seed: int
    max_examples: int
    capabilities: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether the run succeeds; the exit status is 0 then."""
        return not self.shortcomings()

    def shortcomings(self) -> list[Outcome]:
        """The outcomes for which the run does not succeed: wrong ones, and required ones that were not looked at."""
        return [
            each
            for each in self.outcomes
            if each.status in ("failed", "deviates", "xpassed")
            or (each.status == "skipped" and each.check.level == "core" and not excused(each))
        ]

    def counts(self) -> dict[str, int]:
        """How many outcomes there are of each status."""
        return {status: sum(each.status == status for each in self.outcomes) for status in STATUSES}


def excused(outcome: Outcome) -> bool:
    """Whether a required check was skipped for a good reason: not because a capability is missing."""
    return not outcome.reason.startswith("needs ")
