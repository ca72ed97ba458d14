"""A run in words: each refusal in the manner of a compiler's message, the table of all checks, and the badge line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sora_ref.conformance.checks.catalogue import select
from sora_ref.conformance.engine.check import Check
from sora_ref.conformance.engine.loading import origin
from sora_ref.conformance.engine.outcome import STATUSES, Outcome, Report, Status
from sora_ref.conformance.engine.refusal import Refusal, shown
from sora_ref.conformance.engine.runner import EXAMPLES
from sora_ref.conformance.protocol.implementation import CAPABILITIES, Implementation

LONG = 100  # characters; an array that is longer is given by its shape
WORDS: Mapping[Status, str] = {
    "passed": "passed",
    "failed": "REFUSED",
    "deviates": "DEVIATES",
    "skipped": "skipped",
    "xfailed": "expected",
    "xpassed": "XPASSED",
}
_SHOWS_THE_RULE = ("SORA-GATE-1", "SORA-STEP-1")


def lines(report: Report, implementation: Implementation, address: str = "") -> list[str]:
    """The whole report; with an address, every refusal ends with the command that gives it again."""
    parts = [head(report, implementation, address)]
    for outcome in report.outcomes:
        if outcome.status == "failed" and outcome.refusal is not None:
            parts.append(refused(outcome.check, outcome.refusal, command(report, outcome.check, address)))
    parts += [table(report), foot(report)]
    return "\n\n".join("\n".join(part) for part in parts).splitlines()


def head(report: Report, implementation: Implementation, address: str = "") -> list[str]:
    """What was run, and what the implementation declares."""
    layout = implementation.layout
    stored = "A (in, r) and B (r, out), transposed" if layout.transposed else "A (r, in) and B (out, r)"
    stored += f", {layout.groups} groups" if layout.groups > 1 else ""
    stored += f", {layout.sites} tied sites" if layout.sites > 1 else ""
    limits = [] if implementation.gated else ["no gates"]
    limits += [f"ranks from {implementation.least_rank}"] if implementation.least_rank else []
    limits += [] if implementation.biased else ["no bias"]
    count = len(report.outcomes)
    alone = f"{count} check{'s' if count != 1 else ''} alone"
    scope = alone if _left_out(report, report.level) else f"level {report.level}"
    rows = {
        "checked": f"{scope}, specification {report.spec_version}, {report.dtype} arrays, "
        f"{settings(report.seed, report.max_examples)}",
        "declares": f"rule {report.choices}; {stored}; dtypes {', '.join(implementation.dtypes)}"
        + (f"; precision {implementation.precision}" if implementation.precision else "")
        + "".join(f"; {limit}" for limit in limits)
        + (f"; targets specification {report.targets}" if report.targets != report.spec_version else ""),
        "judged by": f"the rounding bounds of {report.precision}",
        "can": _able(report.capabilities),
    }
    name = f"{report.name} ({address})" if address else report.name
    return [name, *(f"  {name:<10} {text}" for name, text in rows.items()), *(f"  note: {n}" for n in report.notes)]


def _able(capabilities: Iterable[str]) -> str:
    lacking = [name for name in CAPABILITIES if name not in capabilities]
    if len(lacking) < len(CAPABILITIES) / 2:
        return f"everything but {', '.join(lacking)}" if lacking else "everything"
    return f"{', '.join(capabilities)}, and nothing else"


def settings(seed: int, max_examples: int) -> str:
    """The draws, in words."""
    return f"seed {seed}, {max_examples} examples a check"


def refused(check: Check, refusal: Refusal, again: str = "") -> list[str]:
    """One refusal: the clause, what was found, on which input, what it looks like, and how to see it again."""
    rows = [("formula", check.formula), ("source", check.source), ("found", refusal.sentence)]
    for k, (name, value) in enumerate(refusal.case.items()):
        rows.append(("" if k else "input", f"{name.rstrip('_')}: {brief(value)}"))
    rows += [("raised", place) for place in origin(refusal.__cause__)] if refusal.__cause__ else []
    rows += [("likely", refusal.likely)] if refusal.likely else []
    rows += [("reproduce", again)] if again else []
    return [f"refused {check.id}: {check.title}", *_rows(rows)]


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:>9}  {text}" for name, text in rows]


def brief(value: Any) -> str:
    """A value of a case in one line; long arrays, and empty ones, by their shape."""
    if isinstance(value, np.ndarray):
        text = shown(value)
        return text if value.size and len(text) <= LONG else f"{value.dtype} of shape {value.shape}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _named(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value):
        return _named((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return "; ".join(f"{name} ({brief(part)})" for name, part in value.items())
    if isinstance(value, list | tuple):
        listed = ", ".join(brief(part) for part in value)
        return f"({listed})" if isinstance(value, tuple) else f"[{listed}]"
    return shown(value)


def _named(parts: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} = {brief(part)}" for name, part in parts)


def command(report: Report, check: Check, address: str) -> str:
    """The command that runs this check alone, as it was run; nothing without an address."""
    if not address:
        return ""
    dtype = f" --dtype {report.dtype}" if report.dtype != "float64" else ""
    examples = f" --max-examples {report.max_examples}" if report.max_examples != EXAMPLES else ""
    return f"sora-ref check {address} --only {check.id}{dtype} --seed {report.seed}{examples}"


def table(report: Report) -> list[str]:
    """A row for every check."""
    width = max((len(each.check.id) for each in report.outcomes), default=0)
    rows = []
    for each in report.outcomes:
        reason = f" ({each.reason})" if each.reason else ""
        rows.append(f"  {each.check.id:<{width}}  {WORDS[each.status]:<8}  {each.check.title}{reason}")
    return rows


def foot(report: Report) -> list[str]:
    """The counts, and the badge or what is missing."""
    seconds = sum(each.seconds for each in report.outcomes)
    return [f"{counted(report)}; {settings(report.seed, report.max_examples)}, {seconds:.1f} s", *standing(report)]


def counted(report: Report) -> str:
    """How many checks came out how."""
    counts = report.counts()
    odd: Mapping[Status, str] = {"xfailed": "refused as expected", "xpassed": "passed against expectation"}
    words = [f"{counts[status]} {odd.get(status, WORDS[status].lower())}" for status in STATUSES if counts[status]]
    return ", ".join(words) or "no checks"


def standing(report: Report) -> list[str]:
    """The badge line; or a line that says what is missing."""
    line = badge(report)
    if line is None:
        refusals = [each.check.id for each in report.outcomes if each.status == "failed"]
        begin = f"; begin with {refusals[0]}, for later checks build on earlier ones" if len(refusals) > 1 else ""
        return [f"no badge: {missing(report)}{begin}"]
    lacking = _lacking(report.outcomes)
    if report.level == "full" and lacking:
        return [line, f"  (not full: the implementation shows no {', '.join(lacking)})"]
    return [line]


def badge(report: Report) -> str | None:
    """Specification, level, precision and rule, where all required holds; e.g. SoRA 0.3 · full · float64 · paper.

    A level is named only if all of its checks were looked at, and a rule is only declared until a step has shown it.
    """
    if not report.holds or _left_out(report, "core"):
        return None
    full = report.level == "full" and not _left_out(report, "full") and not _lacking(report.outcomes)
    verified = any(each.check.id in _SHOWS_THE_RULE and each.status == "passed" for each in report.outcomes)
    rule = report.choices if verified else f"declares {report.choices}"
    excepted = [each.check.id for each in report.outcomes if each.status == "xfailed"]
    line = f"SoRA {report.targets} · {'full' if full else 'core'} · {report.precision} · {rule}"
    return f"{line} · except {', '.join(excepted)}" if excepted else line


def missing(report: Report) -> str:
    """Why there is no badge; nothing where there is one."""
    wrong = report.shortcomings()
    parts = []
    for status, word in (("failed", "refused"), ("deviates", "deviates from"), ("xpassed", "unexpectedly passed")):
        ids = [each.check.id for each in wrong if each.status == status]
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        parts += [f"{word} {', '.join(ids[:3])}{more}"] if ids else []
    lacking = _lacking(each for each in wrong if each.status == "skipped")
    parts += [f"the level needs {', '.join(lacking)}"] if lacking else []
    if not parts and (left_out := _left_out(report, "core")):
        parts.append(f"{len(left_out)} checks of level core were not run")
    return "; ".join(parts)


def _left_out(report: Report, level: Any) -> list[str]:
    """The checks of a level that were not part of the run."""
    run = {each.check.id for each in report.outcomes}
    return [each.id for each in select(level) if each.id not in run]


def _lacking(outcomes: Any) -> list[str]:
    """Capabilities for whose lack a check was skipped, once each."""
    found: dict[str, None] = {}
    for each in outcomes:
        if each.status == "skipped" and each.reason.startswith("needs "):
            names = each.reason.removeprefix("needs ").partition(",")[0].split(" and ")
            found |= dict.fromkeys(names)
    return list(found)


def outcome_lines(outcome: Outcome, seed: int, max_examples: int) -> list[str]:
    """One outcome by itself, for a test's failure."""
    if outcome.status == "xpassed":
        return [f"passed {outcome.check.id}: {outcome.check.title}", *_rows([("expected", outcome.reason)])]
    if outcome.refusal is not None:
        return [*refused(outcome.check, outcome.refusal), *_rows([("drawn", settings(seed, max_examples))])]
    return [f"deviates {outcome.check.id}: {outcome.check.title}", *_rows([("because", outcome.reason)])]
