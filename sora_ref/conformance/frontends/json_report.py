"""A run as JSON, in the form that report.schema.json describes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from sora_ref import __version__
from sora_ref.conformance.engine.outcome import Outcome, Report
from sora_ref.conformance.frontends.text import badge, command, missing
from sora_ref.conformance.protocol.implementation import Implementation

FORMAT = 1  # of the JSON; a change that a reader could notice raises it


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `as_json`."""
    text = files("sora_ref.conformance.frontends").joinpath("report.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def as_json(report: Report, implementation: Implementation, address: str = "") -> dict[str, Any]:
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
            "choices": plain(dataclasses.asdict(implementation.choices)),
            "layout": dataclasses.asdict(implementation.layout),
            "dtypes": list(implementation.dtypes),
            "precision": implementation.precision,
            "gated": implementation.gated,
            "least_rank": implementation.least_rank,
            "biased": implementation.biased,
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
