"""Running checks: deterministic draws, shrunk counterexamples, and one outcome for every check."""

from __future__ import annotations

import contextlib
import time
import warnings
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky

from sora_ref.conformance.engine.check import Check
from sora_ref.conformance.engine.declarations import version_numbers
from sora_ref.conformance.engine.outcome import Outcome
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.implementation import Missing

EXAMPLES = 50


def run_check(
    subject: Subject, each: Check, *, seed_: int = 0, max_examples: int = EXAMPLES, shrink: bool = True
) -> Outcome:
    """Outcome of one check; never raises for what an implementation does."""
    reason = not_applicable(subject, each)
    if reason:
        return Outcome(each, "skipped", reason)
    began = time.perf_counter()
    try:
        refusal = first_refusal(subject, each, seed_=seed_, max_examples=max_examples, shrink=shrink)
    except Missing as missing:
        return Outcome(each, "skipped", f"needs {missing}, which the implementation has not got")
    seconds = time.perf_counter() - began
    if refusal is not None:
        return Outcome(each, "failed", refusal=refusal, seconds=seconds)
    departure = each.deviation(subject.choices)
    if departure:
        return Outcome(each, "deviates", departure, seconds=seconds)
    return Outcome(each, "passed", seconds=seconds)


_OF_GATES = {"prox", "gate_steps", "penalty", "prune"}


def not_applicable(subject: Subject, each: Check) -> str:
    """Why a check is skipped, or nothing."""
    if version_numbers(each.since) > version_numbers(subject.implementation.spec_version):
        return f"came with version {each.since}; the implementation targets {subject.implementation.spec_version}"
    if not subject.implementation.gated and not _OF_GATES.isdisjoint(each.requires):
        return "the implementation has no gates"
    missing = [name for name in each.requires if name not in subject.has]
    if missing:
        return f"needs {' and '.join(missing)}, which the implementation has not got"
    return each.applies(subject) or ""


def first_refusal(
    subject: Subject, each: Check, *, seed_: int, max_examples: int, shrink: bool = True
) -> Refusal | None:
    """The refusal of the smallest counterexample, or None where every example passes."""
    seen: list[Refusal] = []

    def body(case: dict[str, Any]) -> None:
        with np.errstate(all="ignore"):
            try:
                _looked_at(subject, each, case)
            except Refusal as refusal:
                refusal.case = case
                seen.append(refusal)
                raise

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run = settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(seed(seed_)(given(each.examples(subject))(body)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
            for case in each.always(subject):
                body(case)
    except Refusal as refusal:
        for case in each.always(subject):  # corners tell guesses apart that a small counterexample does not
            with contextlib.suppress(Refusal):
                body(case)
        refusal.narrow(seen)
        return refusal
    except Flaky:
        last = seen[-1]
        unsteady = Refusal(f"the same input gives one result and then another; one of them: {last.sentence}")
        unsteady.case = last.case
        return unsteady
    return None


def _looked_at(subject: Subject, each: Check, case: dict[str, Any]) -> None:
    """The check on one example; whatever else it raises over what came back is a refusal too."""
    try:
        each.body(subject, **case)
    except (Refusal, Missing):
        raise
    except (Exception, SystemExit) as error:
        raise Refusal(f"what came back cannot be used ({type(error).__name__}: {error})") from error
