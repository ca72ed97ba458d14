"""By what an implementation is judged: the dtype of a run, and whether a low precision that it declares is believed."""

from __future__ import annotations

import numpy as np

from sora_ref import SPEC_VERSION
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.implementation import Implementation
from sora_ref.conformance.protocol.layer import Layer
from sora_ref.errors import SoRAError


def subject_of(implementation: Implementation, dtype: str | None = None) -> tuple[Subject, list[str]]:
    """The implementation in the dtype of a run, and what is to be said about how it is judged."""
    _require_knownversion_numbers(implementation)
    dtype, notes = chosen_dtype(implementation, dtype)
    subject = Subject(implementation, dtype, believed=believes(implementation))
    judged_by = subject.precision.name  # SoRAError for a precision that is none
    if implementation.precision and not subject.believed:
        notes.append(f"declares {implementation.precision}, but computes in float64: judged by {judged_by}")
    return subject, notes


def chosen_dtype(implementation: Implementation, dtype: str | None) -> tuple[str, list[str]]:
    """The dtype of a run: the one asked for, else float64 wherever the implementation really takes it."""
    known, name = ("float64", "float32"), type(implementation).__name__
    if not implementation.dtypes or not set(implementation.dtypes) <= set(known):
        raise SoRAError(f"{name} declares dtypes {implementation.dtypes}: expected some of {', '.join(known)}")
    if dtype is not None:
        if dtype not in implementation.dtypes:
            own = ", ".join(implementation.dtypes)
            raise SoRAError(f"{name} computes in {own}: expected one of these, not {dtype}")
        return dtype, []
    if computes_in_float64(implementation):
        if "float64" not in implementation.dtypes:
            return "float64", ["declares float32 alone, but takes float64 and returns it: judged in float64"]
        return "float64", []
    if "float64" in implementation.dtypes and implementation.precision is None:
        return "float64", []
    return "float32", ["judged in float32, since it does not compute in float64"]


def believes(implementation: Implementation) -> bool:
    """Whether a low precision that is declared is believed: not of what takes float64 and returns it."""
    return implementation.precision is None or not computes_in_float64(implementation)


def computes_in_float64(implementation: Implementation) -> bool:
    """Whether float64 arrays come back as float64."""
    subject = Subject(implementation, "float64")
    if "forward" not in subject.has:
        return False
    rank = max(1, implementation.least_rank) * implementation.layout.groups
    out, lead = implementation.layout.groups, () if implementation.layout.sites == 1 else (implementation.layout.sites,)
    ones = np.ones
    layer = Layer(
        ones((*lead, out, 1)), None, ones((rank, 1)), ones(rank), np.kron(np.eye(out), ones((1, rank // out))), 1.0
    )
    try:
        subject.forward(layer, ones((*lead, 1, 1)))
    except Exception:  # whatever it raises, it does not take float64
        return False
    return True


def _require_knownversion_numbers(implementation: Implementation) -> None:
    try:
        later = version_numbers(implementation.spec_version) > version_numbers(SPEC_VERSION)
    except ValueError:
        later = True
    if later:
        target = f"{type(implementation).__name__} targets specification {implementation.spec_version!r}"
        raise SoRAError(f"{target}: expected {SPEC_VERSION} or earlier")


def version_numbers(text: str) -> tuple[int, ...]:
    """A version as numbers that compare: "0.3" is (0, 3).  ValueError for other text."""
    return tuple(int(part) for part in text.split("."))
