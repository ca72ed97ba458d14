"""Failures that are expected: how they are written, and what they make of an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sora_ref.conformance.checks.catalogue import known_ids
from sora_ref.conformance.engine.outcome import Outcome, Status
from sora_ref.errors import SoRAError, shown


def expected_failures(words: Iterable[str]) -> dict[str, str]:
    """Reasons by check or clause id, from ID=REASON; SoRAError for what is none, and for unknown ids."""
    found = {}
    for each in words:
        name, _, reason = each.partition("=")
        if not (name.strip() and reason.strip()):
            raise SoRAError(f"{shown(each)} is no expected failure: expected ID=REASON, such as SORA-PROX-3='known'")
        found[name.strip()] = reason.strip()
    known_ids(found)
    return found


def as_expected(outcome: Outcome, expected: Mapping[str, str]) -> Outcome:
    """The outcome with what was expected of it: strict, so a pass where a failure was expected is wrong."""
    reason = expected.get(outcome.check.id, expected.get(outcome.check.clause))
    if reason is None or outcome.status == "skipped":
        return outcome
    status: Status = "xpassed" if outcome.status == "passed" else "xfailed"
    return Outcome(outcome.check, status, reason, outcome.refusal, outcome.seconds)
