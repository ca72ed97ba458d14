"""The kit as a function call: all checks of a level, or those named, and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sora_ref import SPEC_VERSION
from sora_ref.conformance.checks.catalogue import known_ids, select
from sora_ref.conformance.engine.check import Level
from sora_ref.conformance.engine.declarations import subject_of
from sora_ref.conformance.engine.outcome import Outcome, Report
from sora_ref.conformance.engine.runner import EXAMPLES, run_check
from sora_ref.conformance.frontends.expected import as_expected
from sora_ref.conformance.protocol.implementation import Implementation, capabilities


def check_implementation(
    implementation: Implementation | type[Implementation],
    *,
    level: Level = "full",
    dtype: str | None = None,
    seed: int = 0,
    max_examples: int = EXAMPLES,
    only: Iterable[str] = (),
    expected_failures: Mapping[str, str] | None = None,
    say: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Run the checks of a level, or those named, against an implementation.

    implementation:           an `Implementation`, or its class.
    level:             "core" (forward, gradients, prox, prune) or "full".
    dtype:             of the arrays; the implementation's best by default.
    seed:              of the draws; equal seeds, equal examples.
    expected_failures: by check or clause id, why it is known not to hold; it must not hold then.
    Raises SoRAError for unknown ids, a dtype the implementation has not got, a specification that does not exist.
    """
    instance = implementation() if isinstance(implementation, type) else implementation
    expected = dict(expected_failures or {})
    known_ids(expected)
    subject, notes = subject_of(instance, dtype)
    outcomes = []
    for each in select(level, only):
        outcome = run_check(subject, each, seed_=seed, max_examples=max_examples)
        outcome = as_expected(outcome, expected)
        say(outcome)
        outcomes.append(outcome)
    return Report(
        name=subject.name,
        level=level,
        dtype=subject.dtype,
        precision=subject.precision.name,
        spec_version=SPEC_VERSION,
        targets=instance.spec_version,
        choices=instance.choices.describe(),
        seed=seed,
        max_examples=max_examples,
        capabilities=capabilities(instance),
        outcomes=tuple(outcomes),
        notes=tuple(notes),
    )
