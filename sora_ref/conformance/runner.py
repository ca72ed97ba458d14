"""Running checks: deterministic draws, shrunk counterexamples, and one outcome for every check."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky

from sora_ref import SPEC_VERSION
from sora_ref.conformance.adapter import Adapter, Layer, Missing, capabilities
from sora_ref.conformance.refusal import Refusal
from sora_ref.conformance.registry import Check, Level, known_ids, select
from sora_ref.conformance.subject import Subject
from sora_ref.errors import SoRAError

Status = Literal["passed", "failed", "skipped", "deviates", "xfailed", "xpassed"]
EXAMPLES = 50


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

    @property
    def required_holds(self) -> bool:
        """Whether this outcome lets a run succeed, where the check is required."""
        return self.status in ("passed", "xfailed")


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
        """Whether the exit status is 0."""
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


STATUSES: tuple[Status, ...] = ("passed", "failed", "deviates", "skipped", "xfailed", "xpassed")


def excused(outcome: Outcome) -> bool:
    """A required check that does not apply to what the implementation is, or is younger than what it targets."""
    return not outcome.reason.startswith("needs ")


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
        return Outcome(each, "skipped", f"needs {missing}, which the adapter has not got")
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
    if _version(each.since) > _version(subject.adapter.spec_version):
        return f"came with version {each.since}; the adapter targets {subject.adapter.spec_version}"
    if not subject.adapter.gated and not _OF_GATES.isdisjoint(each.requires):
        return "the implementation has no gates"
    missing = [name for name in each.requires if name not in subject.has]
    if missing:
        return f"needs {' and '.join(missing)}, which the adapter has not got"
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


def check_adapter(
    adapter: Adapter | type[Adapter],
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

    adapter:           an `Adapter`, or its class.
    level:             "core" (forward, gradients, prox, prune) or "full".
    dtype:             of the arrays; the adapter's best by default.
    seed:              of the draws; equal seeds, equal examples.
    expected_failures: by check or clause id, why it is known not to hold; it must not hold then.
    Raises SoRAError for unknown ids, a dtype the adapter has not got, a specification that does not exist.
    """
    instance = adapter() if isinstance(adapter, type) else adapter
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


def as_expected(outcome: Outcome, expected: Mapping[str, str]) -> Outcome:
    """The outcome with what was expected of it: strict, so a pass where a failure was expected is wrong."""
    reason = expected.get(outcome.check.id, expected.get(outcome.check.clause))
    if reason is None or outcome.status == "skipped":
        return outcome
    status: Status = "xpassed" if outcome.status == "passed" else "xfailed"
    return Outcome(outcome.check, status, reason, outcome.refusal, outcome.seconds)


def subject_of(adapter: Adapter, dtype: str | None = None) -> tuple[Subject, list[str]]:
    """The adapter in the dtype of a run, and what is to be said about how it is judged."""
    _require_known_version(adapter)
    dtype, notes = chosen_dtype(adapter, dtype)
    subject = Subject(adapter, dtype, believed=believes(adapter))
    judged_by = subject.precision.name  # SoRAError for a precision that is none
    if adapter.precision and not subject.believed:
        notes.append(f"declares {adapter.precision}, but computes in float64: judged by {judged_by}")
    return subject, notes


def chosen_dtype(adapter: Adapter, dtype: str | None) -> tuple[str, list[str]]:
    """The dtype of a run: the one asked for, else float64 wherever the implementation really takes it."""
    known = ("float64", "float32")
    if not adapter.dtypes or not set(adapter.dtypes) <= set(known):
        raise SoRAError(
            f"{type(adapter).__name__} declares dtypes {adapter.dtypes}: expected some of {', '.join(known)}"
        )
    if dtype is not None:
        if dtype not in adapter.dtypes:
            raise SoRAError(
                f"{type(adapter).__name__} computes in {', '.join(adapter.dtypes)}: expected one of these, not {dtype}"
            )
        return dtype, []
    if computes_in_float64(adapter):
        if "float64" not in adapter.dtypes:
            return "float64", ["declares float32 alone, but takes float64 and returns it: judged in float64"]
        return "float64", []
    if "float64" in adapter.dtypes and adapter.precision is None:
        return "float64", []
    return "float32", ["judged in float32, since it does not compute in float64"]


def believes(adapter: Adapter) -> bool:
    """Whether a low precision that is declared is believed: not of what takes float64 and returns it."""
    return adapter.precision is None or not computes_in_float64(adapter)


def computes_in_float64(adapter: Adapter) -> bool:
    """Whether float64 arrays come back as float64."""
    subject = Subject(adapter, "float64")
    if "forward" not in subject.has:
        return False
    rank = max(1, adapter.least_rank) * adapter.layout.groups
    out, lead = adapter.layout.groups, () if adapter.layout.sites == 1 else (adapter.layout.sites,)
    ones = np.ones
    layer = Layer(
        ones((*lead, out, 1)), None, ones((rank, 1)), ones(rank), np.kron(np.eye(out), ones((1, rank // out))), 1.0
    )
    try:
        subject.forward(layer, ones((*lead, 1, 1)))
    except Exception:  # whatever it raises, it does not take float64
        return False
    return True


def _require_known_version(adapter: Adapter) -> None:
    try:
        later = _version(adapter.spec_version) > _version(SPEC_VERSION)
    except ValueError:
        later = True
    if later:
        target = f"{type(adapter).__name__} targets specification {adapter.spec_version!r}"
        raise SoRAError(f"{target}: expected {SPEC_VERSION} or earlier")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
