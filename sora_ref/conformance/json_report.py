"""A run for machines: JSON as report.schema.json has it, and JUnit's XML."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

import numpy as np

from sora_ref import __version__
from sora_ref.conformance.adapter import Adapter
from sora_ref.conformance.report import badge, command, missing, outcome_lines
from sora_ref.conformance.runner import Outcome, Report

FORMAT = 1  # of the JSON; a change that a reader could notice raises it
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `as_json`."""
    text = files("sora_ref.conformance").joinpath("report.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def as_json(report: Report, adapter: Adapter, address: str = "") -> dict[str, Any]:
    """The whole run; arrays with dtype and shape, numbers that JSON has no word for as strings."""
    return {
        "format": FORMAT,
        "sora_ref": __version__,
        "specification": report.spec_version,
        "implementation": {
            "name": report.name,
            "address": address or None,
            "targets": report.targets,
            "capabilities": list(report.capabilities),
            "rule": report.choices,
            "choices": plain(dataclasses.asdict(adapter.choices)),
            "layout": dataclasses.asdict(adapter.layout),
            "dtypes": list(adapter.dtypes),
            "precision": adapter.precision,
            "gated": adapter.gated,
            "least_rank": adapter.least_rank,
            "biased": adapter.biased,
        },
        "level": report.level,
        "dtype": report.dtype,
        "precision": report.precision,
        "seed": report.seed,
        "max_examples": report.max_examples,
        "holds": report.holds,
        "badge": badge(report),
        "missing": missing(report) or None,
        "counts": report.counts(),
        "notes": list(report.notes),
        "checks": [_check(each, report, address) for each in report.outcomes],
    }


def _check(outcome: Outcome, report: Report, address: str) -> dict[str, Any]:
    each, refusal = outcome.check, outcome.refusal
    found: dict[str, Any] = {
        "id": each.id,
        "clause": each.clause,
        "title": each.title,
        "formula": each.formula,
        "source": each.source,
        "since": each.since,
        "level": each.level,
        "requires": list(each.requires),
        "status": outcome.status,
        "reason": outcome.reason or None,
        "seconds": round(outcome.seconds, 6),
        "refusal": None,
    }
    if refusal is not None:
        found["refusal"] = {
            "sentence": refusal.sentence,
            "quantity": refusal.quantity or None,
            "expected": plain(refusal.expected),
            "got": plain(refusal.got),
            "bound": plain(refusal.bound),
            "likely": refusal.likely or None,
            "case": {name.rstrip("_"): plain(value) for name, value in refusal.case.items()},
            "command": command(report, each, address) or None,
        }
    return found


def plain(value: Any) -> Any:
    """A value of a case as JSON."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "values": plain(value.tolist())}
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value)


def as_junit(report: Report, adapter: Adapter, address: str = "") -> bytes:
    """JUnit's XML: a test case for every check."""
    counts = report.counts()
    suite = ElementTree.Element(
        "testsuite",
        name=_text(f"SoRA {report.spec_version}, {report.name}"),
        tests=str(len(report.outcomes)),
        failures=str(counts["failed"] + counts["deviates"] + counts["xpassed"]),
        errors="0",
        skipped=str(counts["skipped"] + counts["xfailed"]),
        time=f"{sum(each.seconds for each in report.outcomes):.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts: dict[str, object] = {
        "specification": report.targets,
        "level": report.level,
        "dtype": report.dtype,
        "rule": report.choices,
    }
    facts |= {"precision": report.precision, "seed": report.seed, "max_examples": report.max_examples}
    for name, value in (facts | {"badge": badge(report) or "", "missing": missing(report)}).items():
        ElementTree.SubElement(properties, "property", name=name, value=_text(str(value)))
    for each in report.outcomes:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_text(address.replace(":", ".") or type(adapter).__name__),
            name=each.check.id,
            time=f"{each.seconds:.3f}",
        )
        if each.status in ("skipped", "xfailed"):
            reason = each.reason if each.status == "skipped" else f"expected failure: {each.reason}"
            ElementTree.SubElement(case, "skipped", message=_text(reason))
        elif each.status != "passed":
            told = each.refusal.sentence if each.refusal else each.reason
            told = f"passes, though it was expected not to: {told}" if each.status == "xpassed" else told
            failure = ElementTree.SubElement(case, "failure", message=_text(told), type=each.status)
            failure.text = _text("\n".join(outcome_lines(each, report.seed, report.max_examples)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _text(text: str) -> str:
    """Without the characters that XML has not got."""
    return _NOT_IN_XML.sub("�", text)
