"""SORA-LINEAR and the bounds of SORA-BOUND: the map, its gradients, and how exactly they are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.bounds import BF16, FP16, TF32, linear_backward_bound, linear_bound, precision_of
from sora_ref.conformance.checks.examples import in_corner, long_problems, problems
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import agree, exact_forward, exact_gradients, forward_bound, gradient_bounds
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.implementation import Missing
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan
from sora_ref.conformance.protocol.storage_layout import in_blocks
from sora_ref.linear import sora_linear_backward, sora_linear_forward

EQUATION = "y = x W0ᵀ + b + s·((x Aᵀ) ⊙ g) Bᵀ"
# Precisions that a wrong result may turn out to be within, the best first.
LOWER = (precision_of(np.empty(0, np.float32)), TF32, FP16, BF16)
GRADIENTS = "dB = s·dyᵀ(z ⊙ g), dg = Σₙ v ⊙ z, dA = (v ⊙ g)ᵀx, dx = dy W0 + (v ⊙ g)A, with z = x Aᵀ, v = s·dy B"


def one_problem(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    """A layer with an input and a gradient."""
    return problems(subject)


@check(
    "SORA-LINEAR-5",
    "nothing is changed, and nothing is remembered",
    formula="f(layer, x) depends on its arguments alone, and leaves them as they are",
    source="derived: a function",
    function=sora_linear_forward,
    since="0.3",
    requires="forward",
    level="core",
    examples=lambda subject: problems(subject, leading=((2,),), least=1),
)
def pure(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """Twice the same, with another layer in between; arguments and earlier results stay as they were."""
    subject.changed.clear()
    first = subject.forward(layer, x)
    kept = first.copy()
    branch = layer.adapter
    other = layer._replace(A=branch.A + 1, B=2 * branch.B, b=None if layer.b is None else layer.b + 1)
    subject.forward(other, x + 1)
    if not np.array_equal(first, kept):
        raise Refusal("a result changed when the next one was computed: expected an array of its own")
    if not np.array_equal(subject.forward(layer, x), kept):
        raise Refusal(
            "the same layer and x give another y after another layer was used: expected the same, bit for bit"
        )
    if "gradients" in subject.has:
        given = subject.gradients(layer, x, dy)
        grads = {name: grad.copy() for name, grad in given.items()}
        subject.gradients(other, x + 1, dy)
        for name, grad in grads.items():
            if not np.array_equal(given[name], grad):
                raise Refusal(f"{name} changed when the next one was computed: expected its own array", quantity=name)
        again = subject.gradients(layer, x, dy)
        for name, grad in grads.items():
            if not np.array_equal(again[name], grad):
                raise Refusal(
                    f"{name} differs when it is computed again: expected the same, bit for bit", quantity=name
                )
    if subject.changed:
        raise Refusal(subject.changed[0])


@check(
    "SORA-LINEAR-5.arguments",
    "no capability changes its arguments, or their dtype",
    formula="arrays come back in the dtype that is given, and what is given stays as it is",
    source="derived: functions",
    function=sora_linear_forward,
    since="0.3",
    requires="forward",
    level="core",
)
def arguments(subject: Subject) -> None:
    """Call every capability once in every declared dtype.  Other checks look at the values."""
    for dtype in subject.implementation.dtypes:
        other = Subject(subject.implementation, dtype)
        for name, call in _calls(other).items():
            if other.has.get(name) == name:
                try:
                    call()
                except Missing:
                    continue
                except Refusal as refusal:
                    if "dtype" in refusal.sentence:
                        words = ", ".join(repr(each) for each in subject.implementation.dtypes if each != dtype)
                        refusal.guesses = (f"{name} computes in {words} alone: then declare dtypes = ({words},)",)
                        raise
        if other.changed:
            raise Refusal(other.changed[0])


def _calls(subject: Subject) -> dict[str, Callable[[], Any]]:
    """Every capability with arguments that it can take."""
    layer, x, dy = in_corner(subject, 0.0, 2.0, -1.0).values()
    g, plan = layer.adapter.g, Plan((0.5, 0.25, 0.5), 0.5, 0.25, 0.5, 1.0)
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: subject.forward(layer, x),
        "gradients": lambda: subject.gradients(layer, x, dy),
        "training_forward": lambda: subject.training_forward(layer, x, 0.5, 0),
        "training_gradients": lambda: subject.training_gradients(layer, x, dy, 0.5, 0),
        "prox": lambda: subject.prox(g, 0.25),
        "gate_steps": lambda: subject.gate_steps(g, np.stack([g, g]), plan),
        "penalty": lambda: subject.penalty([g], 0.5),
        "train": lambda: subject.train(layer, np.stack([x, x]), np.stack([dy, dy]), plan),
        "prune": lambda: subject.prune(layer),
        "merge": lambda: subject.merge(layer),
        "unmerge": lambda: subject.unmerge(layer),
        "count": lambda: subject.count({"m": layer}),
        "ranks": lambda: subject.ranks({"m": layer}),
    }
    if layer.W0.ndim == 2:
        calls["accumulate"] = lambda: subject.accumulate(layer, [(x, dy), (x, dy)])
    return calls


@check(
    "SORA-LINEAR-1",
    "the map",
    formula=EQUATION,
    source="SoRA eq. 6-9",
    function=sora_linear_forward,
    requires="forward",
    level="core",
    examples=one_problem,
)
def forward(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """Every shape, rank 0 and an empty batch included, with and without a bias."""
    y = subject.forward(layer, x)
    precision = subject.precision
    guesses = (lambda: _wrong_forwards(layer, x)) if layer.W0.ndim == 2 else None
    agree("y", y, exact_forward(layer, x), forward_bound(layer, x, precision), precision, guesses)


def _wrong_forwards(layer: Layer, x: Floats) -> dict[str, Any]:
    W0, b, A, g, B, s = layer
    g = layer.adapter.g
    base = x @ W0.T + (0 if b is None else b)
    z = x @ A.T
    r = max(len(g), 1)
    return {
        "the map without s": base + (z * g) @ B.T,
        "the map without the gate": base + s * (z @ B.T),
        "the map with |g|, which loses the sign of the gate": base + s * ((z * np.abs(g)) @ B.T),
        "the map with g²: the gate acts twice": base + s * ((z * g * g) @ B.T),
        "the map without the bias b": x @ W0.T + s * ((z * g) @ B.T),
        "the branch alone, without the frozen layer": s * ((z * g) @ B.T),
        "the frozen layer alone, without the branch": base,
        "the map with s in the frozen path too": s * (base + (z * g) @ B.T),
        "the map with s²: the scale acts twice": base + s * s * ((z * g) @ B.T),
        "the map with s·r, α where α/r is meant": base + s * r * ((z * g) @ B.T),
        "the map with s/r: the rank divides twice": base + s / r * ((z * g) @ B.T),
        "the map with s·√r, rsLoRA's scale": base + s * np.sqrt(r) * ((z * g) @ B.T),
        "the map with the branch subtracted": base - s * ((z * g) @ B.T),
        "the map with the gate squashed by a sigmoid": base + s * ((z / (1 + np.exp(-g))) @ B.T),
    }


@check(
    "SORA-LINEAR-3",
    "the gradients",
    formula=GRADIENTS,
    source="derived from SoRA eq. 6-9",
    function=sora_linear_backward,
    requires="gradients",
    level="core",
    examples=one_problem,
)
def gradients(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """All four gradients, against the exact ones."""
    if subject.has["gradients"] == "train":
        x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    _gradients_agree(subject, layer, x, dy, subject.gradients(layer, x, dy))


def _gradients_agree(subject: Subject, layer: Layer, x: Floats, dy: Floats, found: dict[str, Floats]) -> None:
    exact, precision = exact_gradients(layer, x, dy), subject.precision
    exact["dB"] = in_blocks(exact["dB"], subject.implementation.layout.groups)
    bounds = gradient_bounds(layer, x, dy, precision)
    for name in ("dB", "dg", "dA", "dx"):
        if name in found:
            bound = bounds[name]
            if subject.has["gradients"] == "train":  # a difference of two stored numbers, θ − (θ − G)
                theta = getattr(layer.adapter, name[1:])
                bound = bound + 2 * (precision.unit + precision.unit_out) * (np.abs(theta) + 2 * np.abs(found[name]))
            guesses = partial(_wrong_gradients, name, layer, x, dy) if layer.W0.ndim == 2 else None
            agree(name, found[name], exact[name], bound, precision, guesses)


def _wrong_gradients(name: str, layer: Layer, x: Floats, dy: Floats) -> dict[str, Any]:
    W0, _, A, _, B, s = layer
    g = layer.adapter.g
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    z, v = rows @ A.T, s * (drows @ B)
    branch = s * ((dy @ B) * g) @ A  # of dx
    right = {"dB": s * drows.T @ (z * g), "dg": (v * z).sum(0), "dA": (v * g).T @ rows, "dx": dy @ W0 + branch}[name]
    own = {
        "dB": {"dB without the gate": s * drows.T @ z},
        "dA": {"dA without the gate": v.T @ rows},
        "dg": {
            "dg of the gated z, v ⊙ z ⊙ g, which freezes closed gates": (v * z * g).sum(0),
            "dg with |·| taken in every row": np.abs(v * z).sum(0),
        },
        "dx": {
            "dx of the frozen path alone": dy @ W0,
            "dx of the branch alone": branch,
            "dx without the gate": dy @ W0 + s * (dy @ B) @ A,
            "dx without s": dy @ W0 + branch / s,
        },
    }[name]
    return own | {
        f"{name} without s": right / s,
        f"{name} with s²": right * s,
        f"−{name}: the sign": -right,
        f"{name} divided by the number of rows": right / max(len(rows), 1),
        f"half of {name}": right / 2,
        f"twice {name}": 2 * right,
    }


@check(
    "SORA-LINEAR-4",
    "a closed gate stops the gradients of its row and column, and not its own",
    formula="g_i = 0 ⇒ dA[i, :] = 0 and dB[:, i] = 0 exactly; dg_i = Σₙ v_i z_i",
    source="derived from SORA-LINEAR-3",
    function=sora_linear_backward,
    requires="gradients",
    level="core",
    examples=lambda subject: problems(subject, least=1, leading=((1,), (2,)), gates=st.sampled_from((0.0, 1.0))),
    applies=lambda subject: None if subject.implementation.gated else "the implementation has no gates",
)
def closed_gates(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """Exact zeros, and the closed gate's own gradient within its bound."""
    found = subject.gradients(layer, x, dy)
    closed = layer.adapter.g == 0
    for name, part in (("dA", found["dA"][closed]), ("dB", found["dB"][:, closed])):
        if part.any():
            raise Refusal(
                f"{name} is {part.ravel()[0]!r} in a component whose gate is zero: expected exactly 0", quantity=name
            )
    exact, precision = exact_gradients(layer, x, dy), subject.precision
    bound = gradient_bounds(layer, x, dy, precision)["dg"]
    if subject.has["gradients"] == "train":
        bound = bound + 2 * (precision.unit + precision.unit_out) * (np.abs(layer.adapter.g) + 2 * np.abs(found["dg"]))
    frozen = "no gradient at all: closed gates never come back"
    guess = np.where(closed, 0.0, exact["dg"].astype(float))
    agree("dg", found["dg"], exact["dg"], bound, precision, lambda: {frozen: guess})


@check(
    "SORA-BOUND-2",
    "y is as exact as the declared precision makes it",
    formula="|ŷ − y| ≤ γ_N·S + (1 + γ_N)·Ω",
    source="derived; Higham 2002",
    function=linear_bound,
    requires="forward",
    level="core",
    examples=long_problems,
)
def forward_precision(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """Numbers that need every bit: less than the declared precision shows."""
    y, precision, exact = subject.forward(layer, x), subject.precision, exact_forward(layer, x)
    try:
        agree("y", y, exact, forward_bound(layer, x, precision), precision)
    except Refusal as refusal:
        away = np.abs(y - exact.astype(float))
        within = [p.name for p in LOWER if (away <= forward_bound(layer, x, p)).all()]
        if within and within[0] != precision.name:
            refusal.guesses = (f"y lies within the bound of {within[0]}: something is computed in that",)
        raise


@check(
    "SORA-BOUND-4",
    "the gradients are as exact as the declared precision makes them",
    formula="|dθ̂ − dθ| ≤ γ_N·S + (1 + γ_N)·Ω, N by gradient",
    source="derived; Higham 2002",
    function=linear_backward_bound,
    since="0.2",
    requires="gradients",
    level="core",
    examples=long_problems,
)
def gradient_precision(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """Numbers that need every bit."""
    found = subject.gradients(layer, x, dy)
    try:
        _gradients_agree(subject, layer, x, dy, found)
    except Refusal as refusal:
        if refusal.quantity in found:
            exact = exact_gradients(layer, x, dy)[refusal.quantity].astype(float)
            away = np.abs(found[refusal.quantity] - exact)
            within = [p.name for p in LOWER if (away <= gradient_bounds(layer, x, dy, p)[refusal.quantity]).all()]
            if within and within[0] != subject.precision.name:
                refusal.guesses = (f"it lies within the bound of {within[0]}: something is computed in that",)
        raise


CHECKS = (pure, arguments, forward, gradients, closed_gates, forward_precision, gradient_precision)
