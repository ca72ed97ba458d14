"""Which of the known variants an implementation is, whatever it declares.

Probes move the implementation's gates by gradients that tell the variants apart.  For each combination of choices the
specification predicts, within a rounding bound, where the gates may be.  The combinations that no probe contradicts are
the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sora_ref.conformance.engine.declarations import subject_of
from sora_ref.conformance.engine.judge import exact_forward
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.step_intervals import Ranged, exactly_known, gate_span, lies_in
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import VARIANTS, Choices
from sora_ref.conformance.protocol.implementation import Implementation
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan

UNKNOWN = "none of the known ones"
_RULE = ("descend", "amount", "threshold", "reads_lr", "loss_l1", "gate_decay", "eps")
_LOSS = (0.0, 1e-3, 10.0)  # none, and the released code's two
_DECAY = (0.0, 0.01, 0.1)
_EPS = (1e-8, 1e-6)
_SAME = 2.0**-18  # relative; the known variants differ by factors, and the checks look at exactness


@dataclass(frozen=True)
class Finding:
    """One choice: the question, what the implementation does, and what the specification says."""

    question: str
    found: str
    specification: str

    @property
    def agrees(self) -> bool:
        """Whether the implementation does what the specification says."""
        return self.specification in ("", self.found)


@dataclass(frozen=True)
class Identification:
    """What an implementation was found to be.

    variants: the names of the specification's rules that nothing contradicts.
    matches:  all combinations of choices that nothing contradicts, the named rules first.
    findings: the table of choices.
    """

    name: str
    variants: tuple[str, ...]
    matches: tuple[Choices, ...]
    findings: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """The table, and a line that names the variant."""
        rows = [("choice", "this implementation", "the specification")]
        rows += [(each.question, each.found, each.specification or "left open") for each in self.findings]
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return [*lines, "", f"{self.name} is {self.verdict}"]

    @property
    def verdict(self) -> str:
        """The variant in words."""
        if self.variants:
            return f"identified as `{' or '.join(self.variants)}`"
        if self.matches:
            return f"closest to {self.matches[0].describe()}"
        return UNKNOWN

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "variants": list(self.variants),
            "matches": [dataclasses.asdict(choices) for choices in self.matches],
            "choices": [dataclasses.asdict(each) | {"agrees": each.agrees} for each in self.findings],
        }


def identify(
    implementation: Implementation | type[Implementation], *, dtype: str | None = None, seed: int = 0
) -> Identification:
    """What the implementation is, whatever it declares."""
    instance = implementation() if isinstance(implementation, type) else implementation
    subject = subject_of(instance, dtype)[0]
    matches = tuple(_consistent(subject, seed)) if {"gate_steps", "train"} & set(subject.has) else ()
    names = tuple(name for name, choices in VARIANTS.items() if any(_same_rule(choices, each) for each in matches))
    findings = [*_rule_findings(matches, subject), *_other_findings(subject, seed)]
    return Identification(subject.name, names, matches, tuple(findings))


def _same_rule(one: Choices, other: Choices) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _RULE if name != "loss_l1") and (
        bool(one.loss_l1) == bool(other.loss_l1)
    )


# --- the gate rule -------------------------------------------------------------------------------------------------


def _candidates() -> Iterator[Choices]:
    """Every combination that makes sense, the named rules first."""
    named = list(VARIANTS.values())
    yield from named
    for descend, amount, threshold, reads, decay, eps in product(
        ("sgd", "adamw", "adamw-raw"),
        ("xi", "lr-lambda", "metric", "metric-literal"),
        ("soft", "released"),
        ("current", "base", "next"),
        _DECAY,
        _EPS,
    ):
        adam = descend != "sgd"
        pointless = (not adam and (amount.startswith("metric") or eps != _EPS[0])) or (
            amount == "xi" and reads != "current"
        )
        if not pointless:
            rule: dict[str, Any] = {"descend": descend, "amount": amount, "threshold": threshold, "reads_lr": reads}
            choices = Choices(**rule, gate_decay=decay, eps=eps, weights=rule["descend"])
            if not any(_same_rule(choices, each) for each in named if not each.loss_l1):
                yield choices


def _consistent(subject: Subject, seed: int) -> Iterator[Choices]:
    """The candidates that agree with every probe."""
    probes = list(_probes(subject, seed))
    for choices in _candidates():
        for loss_l1 in _LOSS if "train" in subject.has else (choices.loss_l1,):
            one = choices.replace(loss_l1=loss_l1)
            if all(probe(one) for probe in probes):
                yield one


Probe = Callable[[Choices], bool]


def _probes(subject: Subject, seed: int) -> Iterator[Probe]:
    """Equal and different learning rates; large gradients and small ones, in which ε shows; some begin with zero."""
    rng = np.random.default_rng(seed)
    for lrs in ((0.25, 0.25, 0.25, 0.25), (0.25, 0.5, 0.125, 0.0625)):
        for strength, size in ((0.05, 1.0), (0.2, 1.0), (0.05, 1e-6)):
            plan = Plan(lrs, max(lrs), strength)
            g = rng.choice([-1, 1], 12) * rng.uniform(0.02, 1.5, 12)
            grads = size * rng.choice([-1, 1], (3, 12)) * rng.uniform(0.05, 1.5, (3, 12))
            grads[0, :3] = 0
            yield from _gate_probe(subject, g.astype(subject.dtype), grads.astype(subject.dtype), plan)
    plan = Plan((0.25, 0.25), 0.25, 0.05)
    for size in (0.0, 1e-4, 1e-3, 1.0):
        yield from _train_probe(subject, size * rng.uniform(0.25, 1.0, 4), plan)


def _gate_probe(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> Iterator[Probe]:
    if subject.has.get("gate_steps") != "gate_steps":
        return
    after = _tried(lambda: subject.gate_steps(g, grads, plan))

    def probe(choices: Choices) -> bool:
        if after is None:
            return False
        befores = [g, *after[:-1]]
        past = [exactly_known(grad) for grad in grads]
        return _fits(subject, choices, plan, befores, after, lambda t: past[:t])

    yield probe


def _train_probe(subject: Subject, dy: Floats, plan: Plan) -> Iterator[Probe]:
    """One whole step through A = B = 1 and a row of ones, where dg = dy: a second L1 term in the loss shows."""
    if (
        "train" not in subject.has
        or subject.implementation.layout.groups > 1
        or subject.implementation.layout.sites > 1
    ):
        return
    one, dys = np.eye(4, dtype=subject.dtype), dy.astype(subject.dtype).reshape(1, 1, 4)
    g = np.array([0.9, -0.8, 0.3, -1.2], subject.dtype)
    layer = Layer(np.zeros_like(one), None, one, g, one, 1.0)
    states = _tried(lambda: subject.train(layer, np.ones((1, 1, 4), subject.dtype), dys, plan))

    def probe(choices: Choices) -> bool:
        if states is None:
            return False
        term = choices.loss_l1 / len(g) * np.sign(g.astype(float))
        radius = 16 * subject.precision.unit * (np.abs(term) + np.abs(dys[0, 0]))
        return _fits(subject, choices, plan, [g], [states[0].g], lambda t: [Ranged(dys[0, 0] + term, radius)])

    yield probe


def _fits(
    subject: Subject, choices: Choices, plan: Plan, befores: Any, after: Any, past: Callable[[int], list[Ranged]]
) -> bool:
    return all(
        bool(lies_in(after[t - 1], gate_span(choices, befores[t - 1], past(t), plan, t, subject.precision)).all())
        for t in range(1, len(befores) + 1)
    )


def _tried(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except Refusal:  # then nothing is known of it
        return None


def _rule_findings(matches: tuple[Choices, ...], subject: Subject) -> Iterator[Finding]:
    questions = {
        "descend": ("the gates' optimiser", ""),
        "amount": ("the threshold's amount", ""),
        "threshold": ("the threshold map", "soft"),
        "reads_lr": ("the learning rate it reads", "current"),
        "loss_l1": ("a second L1 term in the loss", "0.0"),
        "gate_decay": ("weight decay of gates", "0.0"),
        "eps": ("Adam's ε", ""),
    }
    seen = {"gate_steps", "train"} & set(subject.has)
    for name, (question, specification) in questions.items():
        if name == "loss_l1" and "train" not in subject.has:
            yield Finding(question, "not shown: needs train", specification)
            continue
        values = list(dict.fromkeys(str(getattr(choices, name)) for choices in matches))
        if name == "eps" and matches and all(choices.descend == "sgd" for choices in matches):
            values = ["–"]
        if name == "reads_lr" and matches and all(choices.amount == "xi" for choices in matches):
            values = ["–: the amount is constant"]
            specification = ""
        yield Finding(question, " or ".join(values) or (UNKNOWN if seen else "not shown"), specification)


# --- whatever else implementations differ in -----------------------------------------------------------------------


def _other_findings(subject: Subject, seed: int) -> Iterator[Finding]:
    for question, specification, needs, find in (
        ("A at the beginning", "U(−1/√in, 1/√in)", "initial", _down_begins),
        ("B at the beginning", "zero", "initial", _up_begins),
        ("gates at the beginning", "", "initial", _gates_begin),
        ("the scale s", "α/r", "initial", _scale),
        ("s after pruning", "kept", "prune", _pruned_scale),
        ("the tolerance of pruning", "none: exactly zero", "prune", _tolerance),
        ("a module without open gates", "rank 0", "prune", _rank_zero),
        ("the bias after pruning", "kept", "prune", _bias),
        ("merging", "W0 + s·B diag(g) A", "merge", _merging),
        ("the gate in a saved file", "kept", "save", _stored_gate),
    ):
        if needs not in subject.has:
            yield Finding(question, f"not shown: needs {needs}", specification)
            continue
        try:
            found = find(subject, seed)
        except Exception as error:  # an implementation that fails here is refused by the checks
            found = f"raises {type(error).__name__}"
        yield Finding(question, found, specification)


def _begun(subject: Subject, seed: int) -> Layer:
    groups = subject.implementation.layout.groups
    return subject.initial("module", 4 * groups, 64, 16 * groups, 16.0, seed)


def _down_begins(subject: Subject, seed: int) -> str:
    A = np.asarray(_begun(subject, seed).A, float)
    largest, deviation = np.abs(A).max(), A.std()
    if largest == 0:
        return "zero"
    uniform = deviation / largest > 0.53  # √(1/3) = 0.577 of the largest; of a normal sample of this size about 0.3
    if uniform and 0.9 < largest * 8 <= 1 + 2.0**-20:
        return "U(−1/√in, 1/√in)"
    return f"{'uniform up to' if uniform else 'normal, with deviation'} {largest if uniform else deviation:.3g}"


def _up_begins(subject: Subject, seed: int) -> str:
    B = np.asarray(_begun(subject, seed).B, float)
    return "zero" if not B.any() else f"deviation {B.std():.3g}"


def _gates_begin(subject: Subject, seed: int) -> str:
    groups = subject.implementation.layout.groups
    g = np.asarray(subject.initial("module", groups, 4, 256 * groups, 16.0, seed).adapter.g, float)
    if np.unique(g).size == 1:
        return f"the constant {g[0]:.6g}"
    return (
        "N(0, 1)"
        if abs(g.std() - 1) < 0.25 and abs(g.mean()) < 0.35
        else f"mean {g.mean():.2g}, deviation {g.std():.2g}"
    )


def _scale(subject: Subject, seed: int) -> str:
    groups = subject.implementation.layout.groups
    s = float(subject.initial("module", 2 * groups, 4, 4 * groups, 16.0, seed).s)
    return {4.0: "α/r", 16.0: "α", 8.0: "α/√r", 1.0: "1"}.get(s, f"{s:.6g} for α = 16, r = 4")


def _example(subject: Subject, gates: tuple[float, ...]) -> Layer:
    """One component of each gate in every group, with a bias where there is one."""
    layout, dtype = subject.implementation.layout, subject.dtype
    if layout.groups > 1 or layout.sites > 1:
        raise Refusal("a fused or tied layer")
    r = len(gates)
    A = np.arange(1, 2 * r + 1, dtype=dtype).reshape(r, 2)
    B = np.arange(1, 2 * r + 1, dtype=dtype).reshape(2, r) / 4
    b = np.array([1, -1], dtype) if subject.implementation.biased else None
    return Layer(np.array([[1, 2], [3, 4]], dtype), b, A, np.array(gates, dtype), B, 2.0)


def _map(layer: Layer) -> Floats:
    plain = layer._replace(W0=np.zeros((2, 2)), b=None)
    found: Floats = exact_forward(plain, np.eye(2)).astype(float)
    return found


def _pruned_scale(subject: Subject, seed: int) -> str:
    layer = _example(subject, (1.0, 0.0))
    factor = _map(subject.prune(layer)) / _map(layer)
    if np.allclose(factor, 1, rtol=_SAME, atol=0):
        return "kept"
    return "recomputed" if np.allclose(factor, 2, rtol=_SAME, atol=0) else "another map"


def _tolerance(subject: Subject, seed: int) -> str:
    sizes = (2.0**-60, 1e-9, 1e-7, 1e-6, 1e-4, 1e-2)
    dropped = [size for size in sizes if subject.prune(_example(subject, (1.0, size))).A.shape[0] < 2]
    if not dropped:
        return "none: exactly zero"
    return f"between {max(dropped):.0e} and {min((size for size in sizes if size > max(dropped)), default=1.0):.0e}"


def _rank_zero(subject: Subject, seed: int) -> str:
    return f"rank {subject.prune(_example(subject, (0.0, 0.0))).A.shape[0]}"


def _bias(subject: Subject, seed: int) -> str:
    if not subject.implementation.biased:
        return "has none"
    b = subject.prune(_example(subject, (1.0, 0.0))).b
    return "kept" if b is not None and np.array_equal(b, [1, -1]) else "lost"


def _merging(subject: Subject, seed: int) -> str:
    layer = _example(subject, (1.0, -0.5))
    right = layer.W0 + _map(layer).T
    return "W0 + s·B diag(g) A" if np.allclose(subject.merge(layer), right, rtol=_SAME, atol=0) else "another weight"


def _stored_gate(subject: Subject, seed: int) -> str:
    import tempfile
    from pathlib import Path

    layer = _example(subject, (1.0, -0.5))
    with tempfile.TemporaryDirectory() as folder:
        back = subject.store(layer, Path(folder))
    return "kept" if np.array_equal(back.adapter.g, layer.g) else "lost"
