"""Golden vectors: the cases as files, for implementations in any language, and a runner that tries them on an adapter.

    python -m sora_ref.conformance.vectors write [FOLDER]    writes the files; the package's own where none is named
    python -m sora_ref.conformance.vectors check [FOLDER]    whether they are what would be written, bit for bit

The format is told in docs/vectors.md.  An entry of a result is right when it equals the expected one, or both are NaN,
or |got − value| ≤ bound; and where the support is the point, it is zero exactly where it has to be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sora_ref.conformance.adapter import Adapter, Floats, Layer, Layout, Missing, Plan, capabilities
from sora_ref.conformance.golden.book import FOLDER, FORMAT_VERSION, MANIFEST, SCHEMA, TENSORS
from sora_ref.conformance.judge import exact_forward
from sora_ref.conformance.refusal import Refusal
from sora_ref.conformance.subject import Subject
from sora_ref.errors import SoRAError
from sora_ref.preconditions import require

# The checks that no list of numbers can stand for.
NOT_DATA = {
    "SORA-LINEAR-5": "what a function remembers or changes shows only while it runs",
    "SORA-LINEAR-5.arguments": "what a function changes shows only while it runs",
    "SORA-LINEAR-1.dropout": "the mask is the implementation's own; only what must be refused is data",
    "SORA-LINEAR-3.dropout": "the mask is the implementation's own",
    "SORA-INIT-1": "whether draws depend on the key alone shows only while they are made",
    "SORA-INIT-2": "a distribution is no list of numbers",
}


@dataclass(frozen=True)
class Case:
    """One call, and what has to come of it.

    id:          unique; the words before the first slash say what it is about.
    check:       of the conformance kit; the clause is what stands before the dot.
    since:       the version of the specification that brought it.
    about:       what is special.
    capability:  the adapter's method that is called.
    dtype:       of all floating-point tensors; None where only Python numbers are concerned.
    arguments:   tensors and settings, by name.
    choices:     what an implementation must have declared for the case to concern it; `Choices` lists them.
    expected:    by name, "value" with "bound" and "zeros" where there are such, or "exactly" with an integer.
    must_refuse: why the call has to fail; empty where it must not.
    """

    id: str
    check: str
    since: str
    about: str
    capability: str
    dtype: str | None
    arguments: Mapping[str, Any]
    choices: Mapping[str, Any]
    expected: Mapping[str, Mapping[str, Any]]
    must_refuse: str

    def __getitem__(self, name: str) -> Any:
        """The argument of this name."""
        return self.arguments[name]

    def layer(self, prefix: str = "") -> Layer:
        """The layer among the arguments, or the one of a module."""
        W0, A, g, B, s = (self[prefix + name] for name in ("W0", "A", "g", "B", "s"))
        return Layer(W0, self.arguments.get(f"{prefix}b"), A, g, B, s)

    def layers(self) -> dict[str, Layer]:
        """Those of all modules, or the only one."""
        return {module: self.layer(f"{module}/") for module in self.arguments.get("modules", ())} or (
            {"": self.layer()} if "A" in self.arguments else {}
        )

    def plan(self) -> Plan:
        """The plan among the arguments."""
        return Plan(tuple(self["lrs"]), self["peak"], self["strength"], self["weight_decay"], self["clip"])

    def numbered(self, name: str) -> list[Floats]:
        """name/0, name/1, …"""
        count = sum(key.startswith(f"{name}/") for key in self.arguments)
        return [self[f"{name}/{k}"] for k in range(count)]


class Verdict(NamedTuple):
    """What became of a case: whether it is right, None where it does not concern the adapter; and why, if not."""

    id: str
    ok: bool | None
    sentence: str


def load_cases(folder: Any = FOLDER) -> list[Case]:
    """The cases in a folder, the package's own by default; SoRAError where the files are not what they should be."""
    from safetensors.numpy import load

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    version = manifest["format_version"]
    require(version == FORMAT_VERSION, f"{MANIFEST} has format {version}: expected {FORMAT_VERSION}")
    content = (folder / manifest["tensors"]).read_bytes()
    intact = hashlib.sha256(content).hexdigest() == manifest["sha256"]
    require(intact, f"{manifest['tensors']} is not the file that {MANIFEST} was written with: expected its SHA-256")
    tensors = load(content)
    return [_case(entry, tensors) for entry in manifest["cases"]]


def _case(entry: Mapping[str, Any], tensors: Mapping[str, Floats]) -> Case:
    settings = {name: _number(value) for name, value in entry["settings"].items()}
    expected = {
        name: {part: tensors[which] if part != "exactly" else which for part, which in parts.items()}
        for name, parts in entry.get("expected", {}).items()
    }
    return Case(
        **{name: entry[name] for name in ("id", "check", "since", "about", "capability", "dtype")},
        arguments=settings | {name: tensors[which] for name, which in entry["tensors"].items()},
        choices=entry.get("choices", {}),
        expected=expected,
        must_refuse=entry.get("must_refuse", ""),
    )


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity") else value


# --- running


def run_vectors(adapter: Adapter | type[Adapter], cases: Iterable[Case] | None = None) -> list[Verdict]:
    """The verdict on every case, those of the package by default."""
    instance = adapter() if isinstance(adapter, type) else adapter
    return [run_case(instance, case) for case in (load_cases() if cases is None else cases)]


def run_case(adapter: Adapter, case: Case) -> Verdict:
    """The verdict on one case; never raises for what an adapter does."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _verdict(adapter, case)


def _verdict(adapter: Adapter, case: Case) -> Verdict:
    foreign = _foreign(adapter, case)
    if foreign:
        return Verdict(case.id, None, foreign)
    subject = Subject(adapter, case.dtype or adapter.dtypes[0])
    try:
        found = CALLS[case.capability](subject, case)
    except Missing as missing:
        return Verdict(case.id, None, str(missing))
    except Refusal as refusal:
        refused = refusal.__cause__ is not None  # the adapter has raised; otherwise its result has a wrong form
        return Verdict(case.id, refused and bool(case.must_refuse), "" if case.must_refuse else refusal.sentence)
    if case.must_refuse:
        return Verdict(case.id, False, f"{case.capability} goes through: expected an error, for {case.must_refuse}")
    for name, expected in case.expected.items():
        if adapter.gated or name != "dg":
            got = found.get(name)
            sentence = f"{name} is missing" if got is None else _wrong(name, got, expected)
            if sentence:
                return Verdict(case.id, False, sentence)
    return Verdict(case.id, True, "")


def _foreign(adapter: Adapter, case: Case) -> str:
    """Why a case does not concern an adapter, or nothing."""
    if case.capability not in capabilities(adapter):
        return f"needs {case.capability}, which the adapter has not got"
    if _version(case.since) > _version(adapter.spec_version):
        return f"came with version {case.since}; the adapter targets {adapter.spec_version}"
    if case.dtype and (adapter.precision or case.dtype not in adapter.dtypes):
        return f"has the bounds of {case.dtype}, in which the adapter does not compute"
    for name, value in case.choices.items():
        declared = getattr(adapter.choices, name)
        if (list(declared) if isinstance(declared, tuple) else declared) != value:
            return f"is of the choice {name} {value}; the adapter declares {declared}"
    layers = case.layers().values()
    if adapter.layout not in (Layout(), Layout(transposed=True)) and (layers or case.capability == "initial"):
        return "is of a layer that stands alone"
    if case.arguments.get("r", adapter.least_rank) < adapter.least_rank:
        return f"has a rank below {adapter.least_rank}"
    for layer in layers:
        gates = layer.adapter.g
        rank = np.count_nonzero(gates) if case.capability == "prune" else len(gates)
        if rank < adapter.least_rank:
            return f"has a rank below {adapter.least_rank}"
        if not adapter.gated and not (gates == 1).all():
            return "has gates"
        if not adapter.biased and layer.b is not None:
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
        return getattr(subject.adapter, capability)(*arguments)
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
    return {"s": found.s, "B": np.swapaxes(found.B, 0, 1) if subject.adapter.layout.transposed else found.B}


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


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


# --- the command


def differing(folder: Any, made: Mapping[str, bytes]) -> list[str]:
    """The files in a folder that are not, bit for bit, what is made; absent ones among them."""
    return [
        name
        for name, content in made.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write the files or check them; the exit status is 0 where all is as it should be."""
    from sora_ref.conformance.golden.cases import make

    parser = argparse.ArgumentParser(prog="python -m sora_ref.conformance.vectors", description="The golden vectors.")
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("folder", nargs="?", type=Path, help="where; by default the package's own files")
    given = parser.parse_args(arguments)
    folder: Any = given.folder or FOLDER
    made = make()
    if given.action == "write":
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            Path(folder, name).write_bytes(content)
        print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes, in {folder}")
        return 0
    different = differing(folder, made)
    for name in different:
        print(f"{Path(folder, name)} is not what would be written")
    if not different:
        print(f"the files in {folder} are what would be written, bit for bit")
    return bool(different)


__all__ = ["MANIFEST", "NOT_DATA", "SCHEMA", "TENSORS", "Case", "Verdict", "load_cases", "run_case", "run_vectors"]

if __name__ == "__main__":
    sys.exit(main())
