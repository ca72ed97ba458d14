"""Golden vectors tried on an implementation.

An entry of a result is right when it equals the expected one, or both are NaN, or |got − value| ≤ bound.  Where a case
gives `zeros`, the entry is also zero exactly where these say so.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sora_ref.conformance.engine.declarations import version_numbers
from sora_ref.conformance.engine.judge import exact_forward
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.golden.reader import Case, load_cases
from sora_ref.conformance.protocol.implementation import Implementation, Missing, capabilities
from sora_ref.conformance.protocol.storage_layout import StorageLayout
from sora_ref.errors import SoRAError


class Verdict(NamedTuple):
    """What became of a case: whether it is right, or None where it does not concern the implementation; and why."""

    id: str
    ok: bool | None
    sentence: str


def run_vectors(
    implementation: Implementation | type[Implementation], cases: Iterable[Case] | None = None
) -> list[Verdict]:
    """The verdict on every case, those of the package by default."""
    instance = implementation() if isinstance(implementation, type) else implementation
    return [run_case(instance, case) for case in (load_cases() if cases is None else cases)]


def run_case(implementation: Implementation, case: Case) -> Verdict:
    """The verdict on one case; never raises for what an implementation does."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _verdict(implementation, case)


def _verdict(implementation: Implementation, case: Case) -> Verdict:
    foreign = _foreign(implementation, case)
    if foreign:
        return Verdict(case.id, None, foreign)
    subject = Subject(implementation, case.dtype or implementation.dtypes[0])
    try:
        found = CALLS[case.capability](subject, case)
    except Missing as missing:
        return Verdict(case.id, None, str(missing))
    except Refusal as refusal:
        refused = refusal.__cause__ is not None  # the implementation has raised; otherwise its result has a wrong form
        return Verdict(case.id, refused and bool(case.must_refuse), "" if case.must_refuse else refusal.sentence)
    if case.must_refuse:
        return Verdict(case.id, False, f"{case.capability} goes through: expected an error, for {case.must_refuse}")
    for name, expected in case.expected.items():
        if implementation.gated or name != "dg":
            got = found.get(name)
            sentence = f"{name} is missing" if got is None else _wrong(name, got, expected)
            if sentence:
                return Verdict(case.id, False, sentence)
    return Verdict(case.id, True, "")


def _foreign(implementation: Implementation, case: Case) -> str:
    """Why a case does not concern an implementation, or nothing."""
    if case.capability not in capabilities(implementation):
        return f"needs {case.capability}, which the implementation has not got"
    if version_numbers(case.since) > version_numbers(implementation.spec_version):
        return f"came with version {case.since}; the implementation targets {implementation.spec_version}"
    if case.dtype and (implementation.precision or case.dtype not in implementation.dtypes):
        return f"has the bounds of {case.dtype}, in which the implementation does not compute"
    for name, value in case.choices.items():
        declared = getattr(implementation.choices, name)
        if (list(declared) if isinstance(declared, tuple) else declared) != value:
            return f"is of the choice {name} {value}; the implementation declares {declared}"
    layers = case.layers().values()
    if implementation.layout not in (StorageLayout(), StorageLayout(transposed=True)) and (
        layers or case.capability == "initial"
    ):
        return "is of a layer that stands alone"
    if case.arguments.get("r", implementation.least_rank) < implementation.least_rank:
        return f"has a rank below {implementation.least_rank}"
    for layer in layers:
        gates = layer.adapter.g
        rank = np.count_nonzero(gates) if case.capability == "prune" else len(gates)
        if rank < implementation.least_rank:
            return f"has a rank below {implementation.least_rank}"
        if not implementation.gated and not (gates == 1).all():
            return "has gates"
        if not implementation.biased and layer.b is not None:
            return "has a bias"
    return ""


def _wrong(name: str, got: Any, expected: Mapping[str, Any]) -> str:
    """What is wrong with a result, or nothing."""
    if "exactly" in expected:
        return "" if got == expected["exactly"] else f"{name} is {got}: expected {expected['exactly']}"
    got, value = np.asarray(got, float), np.asarray(expected["value"], float)
    if got.shape != value.shape:
        return f"{name} has shape {got.shape}: expected {value.shape}"
    bound = np.broadcast_to(expected.get("bound", 0.0), value.shape)
    right = (got == value) | (np.isnan(got) & np.isnan(value)) | (np.abs(got - value) <= bound)
    if "zeros" in expected:
        right &= (got == 0) == expected["zeros"]
    if right.all():
        return ""
    place = tuple(int(k) for k in np.argwhere(~right)[0])
    entry = f"{name}[{', '.join(map(str, place))}]" if place else name
    if "zeros" in expected and expected["zeros"][place]:
        return f"{entry} is {float(got[place])!r}: expected exactly 0"
    return f"{entry} is {float(got[place])!r}: expected {float(value[place])!r}, give or take {float(bound[place]):.2g}"


# --- what each capability is called with, and what comes of it by name

_Results = dict[str, Any]


def _called(subject: Subject, capability: str, *arguments: Any) -> Any:
    try:
        return getattr(subject.implementation, capability)(*arguments)
    except Exception as error:  # whatever it raises is a refusal
        raise Refusal(f"{capability} raises {type(error).__name__}: {error}") from error


def _train(subject: Subject, case: Case) -> _Results:
    states = subject.train(case.layer(), case["xs"], case["dys"], case.plan())
    return {name: np.stack([getattr(state, name) for state in states]) for name in ("A", "g", "B")}


def _accumulate(subject: Subject, case: Case) -> _Results:
    return subject.accumulate(case.layer(), list(zip(case.numbered("x"), case.numbered("dy"), strict=True)))


def _prune(subject: Subject, case: Case) -> _Results:
    """The rank that is left, and what is left as a map, by the specification."""
    whole = case.layer()
    left = subject.prune(whole)
    if "y" not in case.expected:
        return {"rank": left.A.shape[0]}
    if left.B.shape != (whole.B.shape[0], left.A.shape[0]) or left.A.shape[1] != whole.A.shape[1]:
        raise Refusal(f"A {left.A.shape} and B {left.B.shape} are left, which do not fit together")
    return {"y": np.asarray(exact_forward(left._replace(s=float(left.s)), case["x"]), float)}


def _refuse_merge(subject: Subject, case: Case) -> _Results:
    if subject.refuse_merge(case.layer(), case["case"]):
        raise Refusal("refuse_merge raises") from SoRAError(case.must_refuse)
    return {}


def _initial(subject: Subject, case: Case) -> _Results:
    found = _called(subject, "initial", *(case[name] for name in ("module", "out", "in_", "r", "alpha", "seed")))
    return {"s": found.s, "B": np.swapaxes(found.B, 0, 1) if subject.implementation.layout.transposed else found.B}


def _store(subject: Subject, case: Case) -> _Results:
    with tempfile.TemporaryDirectory() as folder:
        back = subject.store(case.layer(), Path(folder))
    frozen = {"W0": back.W0} if back.b is None else {"W0": back.W0, "b": back.b}
    return {**back.adapter._asdict(), **frozen}


def _listed(capability: str, result: str, *names: str) -> Callable[[Subject, Case], _Results]:
    """A schedule: settings in, a list of numbers out."""
    return lambda subject, case: {
        result: np.array(_called(subject, capability, *(case[name] for name in names)), float)
    }


CALLS: dict[str, Callable[[Subject, Case], _Results]] = {
    "forward": lambda subject, case: {"y": subject.forward(case.layer(), case["x"])},
    "gradients": lambda subject, case: dict(subject.gradients(case.layer(), case["x"], case["dy"])),
    "training_forward": lambda subject, case: {
        "y": subject.training_forward(case.layer(), case["x"], case["p"], case["seed"])
    },
    "prox": lambda subject, case: {"T": subject.prox(case["v"], case["xi"])},
    "gate_steps": lambda subject, case: {"gates": subject.gate_steps(case["g"], case["grads"], case.plan())},
    "penalty": lambda subject, case: {"penalty": subject.penalty(case.numbered("gates"), case["lam"])},
    "train": _train,
    "accumulate": _accumulate,
    "learning_rates": _listed("learning_rates", "rates", "peak", "total", "warmup"),
    "stage_values": _listed("stage_values", "values", "kind", "start", "stop", "stages"),
    "algorithm_1": _listed("algorithm_1", "values", "xi0", "xi_max", "delta"),
    "stage_rates": _listed("stage_rates", "rates", "values", "peak", "total", "warmup"),
    "initial": _initial,
    "prune": _prune,
    "merge": lambda subject, case: {"W": subject.merge(case.layer())},
    "unmerge": lambda subject, case: {"W0": subject.unmerge(case.layer())},
    "refuse_merge": _refuse_merge,
    "count": lambda subject, case: {"count": subject.count(case.layers())},
    "ranks": lambda subject, case: {f"{name}/rank": rank for name, rank in subject.ranks(case.layers()).items()},
    "save": _store,
}
