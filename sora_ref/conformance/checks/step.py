"""SORA-STEP: whole training steps, judged one at a time from the iterate the implementation has reached."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.bounds import gamma
from sora_ref.conformance.checks.examples import array, layers, whole
from sora_ref.conformance.checks.gate import departs, scaled_plan
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import agree, exact_gradients, gradient_bounds
from sora_ref.conformance.engine.step_intervals import (
    Ranged,
    Span,
    agree_with_span,
    clipped,
    exactly_known,
    gate_span,
    lies_in,
    unit,
    weight_span,
)
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple
from sora_ref.conformance.protocol.storage_layout import in_blocks, ungrouped
from sora_ref.gradients import clip_by_global_norm, combine_microbatches
from sora_ref.step import training_step

NAMES = ("A", "g", "B")
NUMBERS = (1.0, -1.0, 0.5, 2.0, -0.5, 1.5)


def adds_to_the_norm(choices: Choices) -> str | None:
    """How the declared clipping departs from the clause, or None."""
    if choices.clip_eps:
        return f"the declared clipping divides by the norm + {choices.clip_eps}"
    return doubled(choices)


def doubled(choices: Choices) -> str | None:
    """What the declared loss adds to L0, or None."""
    if choices.loss_l1:
        return f"the declared loss has a second L1 term, {choices.loss_l1}·Σ|g|/(number of gates) (SORA-STEP-3)"
    return departs(choices)


def runs(
    count: int,
    *,
    lrs: tuple[float, ...] | None = None,
    decay: float = 0.0,
    clips: tuple[float | None, ...] = (None,),
    gates: Any = NUMBERS,
) -> Any:
    """(subject) -> a strategy of a layer, inputs and output gradients of `count` steps, and a plan."""

    def examples(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
        @st.composite
        def one(draw: st.DrawFn) -> dict[str, Any]:
            layer = draw(layers(subject, least=1, most=2, gates=st.sampled_from(gates)))
            lead, dtype = layer.W0.shape[:-2], subject.dtype
            n = draw(whole(1, 2))
            numbers = st.sampled_from(NUMBERS)
            plan = scaled_plan(subject.choices, lrs or (0.125,) * (count + 1), 0.02)
            plan = Plan(plan.lrs, plan.peak, plan.strength, decay, draw(st.sampled_from(clips)))
            return {
                "layer": layer,
                "xs": draw(array((count, *lead, n, layer.W0.shape[-1]), dtype, numbers)),
                "dys": draw(array((count, *lead, n, layer.W0.shape[-2]), dtype, numbers)),
                "plan": plan,
            }

        return one()

    return examples


def spans_of(
    subject: Subject, layer: Layer, states: list[Triple], xs: Floats, dys: Floats, plan: Plan, t: int
) -> dict[str, Span]:
    """Where A, g and B may be after step t, given the implementation's own states after the steps before it."""
    choices, precision = subject.choices, subject.precision
    history: list[dict[str, Ranged]] = []
    for k in range(t):
        at = layer if k == 0 else layer._replace(A=states[k - 1].A, g=states[k - 1].g, B=states[k - 1].B)
        history.append(_gradients(subject, at, xs[k], dys[k], plan))
    before = layer.adapter if t == 1 else states[t - 2]
    past = {name: [grads[name] for grads in history] for name in NAMES}
    return {
        "A": weight_span(choices, before.A, past["A"], plan, t, precision),
        "g": gate_span(choices, before.g, past["g"], plan, t, precision),
        "B": weight_span(choices, _stored(subject, before.B), past["B"], plan, t, precision),
    }


def _gradients(subject: Subject, layer: Layer, x: Floats, dy: Floats, plan: Plan) -> dict[str, Ranged]:
    """The gradients of a step as the optimiser gets them, with their radii."""
    exact, bounds = exact_gradients(layer, x, dy), gradient_bounds(layer, x, dy, subject.precision)
    found = {name: Ranged(exact[f"d{name}"].astype(float), bounds[f"d{name}"]) for name in NAMES}
    found["B"] = Ranged(*(_stored(subject, part) for part in found["B"]))
    if not subject.implementation.gated:
        found["g"] = exactly_known(np.zeros(len(layer.adapter.g)))
    U = unit(subject.precision)
    if subject.choices.loss_l1:
        g = layer.adapter.g.astype(float)
        term = subject.choices.loss_l1 / len(g) * np.sign(g)
        grad = found["g"]
        middle = grad.middle + term
        found["g"] = Ranged(middle, grad.radius + 4 * U * (np.abs(middle) + np.abs(term)))
    return dict(
        zip(NAMES, clipped([found[name] for name in NAMES], plan.clip, subject.choices.clip_eps, U), strict=True)
    )


def _stored(subject: Subject, B: Floats) -> Floats:
    """B, or something of its shape, without the zeros between its groups, which are no parameters."""
    groups = subject.implementation.layout.groups
    return ungrouped(B, groups) if groups > 1 else B


def judge_run(
    subject: Subject, layer: Layer, xs: Floats, dys: Floats, plan: Plan, names: tuple[str, ...] = NAMES
) -> None:
    """Every step, every named parameter."""
    states = subject.train(layer, xs, dys, plan)
    for t in range(1, len(xs) + 1):
        spans = spans_of(subject, layer, states, xs, dys, plan, t)
        for name in names if subject.implementation.gated else ("A", "B"):
            got = getattr(states[t - 1], name)
            if name == "B":
                got = _stored(subject, got)
            span = spans[name]
            likely = ""
            if not lies_in(np.asarray(got, float), span).all():
                likely = _likely(subject, layer, states, xs, dys, plan, t, name)
            agree_with_span(f"{name} after step {t}", got, span, (likely,))


def _likely(
    subject: Subject, layer: Layer, states: list[Triple], xs: Floats, dys: Floats, plan: Plan, t: int, name: str
) -> str:
    """The mistake that gives this wrong step, in words; empty where none is known."""
    if plan.clip is not None:
        found = _unclipped(subject, layer, states, xs, dys, plan, t, name)
        if found:
            return found
    before: Any = layer.adapter if t == 1 else states[t - 2]
    after = states[t - 1]
    if t > 1 and np.array_equal(getattr(states[0], name), getattr(after, name)):
        return "states that share memory: every one shows the last" if not np.array_equal(before.A, layer.A) else ""
    moved = {other: getattr(after, other) for other in NAMES if other != name}
    for other, value in moved.items():  # Gauss-Seidel: a gradient at a parameter that has moved already
        at = layer._replace(A=before.A, g=before.g, B=before.B)._replace(**{other: value})
        grads = [_gradients(subject, at, xs[t - 1], dys[t - 1], plan)[name]]
        if t == 1 and name != "g":
            span = weight_span(
                subject.choices, _stored(subject, getattr(before, name)), grads, plan, 1, subject.precision
            )
            if lies_in(_stored(subject, getattr(after, name)), span).all():
                return f"the gradient is taken at the {other} that this step has moved already"
        if t == 1 and name == "g":
            span = gate_span(subject.choices, before.g, grads, plan, 1, subject.precision)
            if lies_in(after.g, span).all():
                return f"the gradient is taken at the {other} that this step has moved already"
    return ""


def _unclipped(
    subject: Subject, layer: Layer, states: list[Triple], xs: Floats, dys: Floats, plan: Plan, t: int, name: str
) -> str:
    """The other way to clip that gives this step, in words; empty where there is none."""
    got = np.asarray(getattr(states[t - 1], name), float)
    torch = Subject(subject.implementation, subject.dtype, believed=subject.believed)
    ways = {
        "clipping that divides by the norm + 1e-6, as torch's clip_grad_norm_ does: declare clip_eps": (1e-6, plan),
        "no clipping": (0.0, replace(plan, clip=None)),
    }
    for words, (eps, other) in ways.items():
        torch.choices = subject.choices.replace(clip_eps=eps)
        span = spans_of(torch, layer, states, xs, dys, other, t)[name]
        if lies_in(_stored(subject, got) if name == "B" else got, span).all():
            return words
    return ""


@check(
    "SORA-STEP-1",
    "all gradients are taken at one iterate",
    formula="θ_t ↦ (∇_A, ∇_g, ∇_B) L0(θ_t), then all move",
    source="SoRA eq. 10",
    function=training_step,
    requires="train",
    examples=runs(1),
    deviation=doubled,
)
def one_iterate(subject: Subject, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> None:
    """One step from a drawn layer."""
    judge_run(subject, layer, xs, dys, plan)


@check(
    "SORA-STEP-7",
    "step after step: the same t and learning rate for gates and weights",
    formula="θ_{t+1} = step_t(θ_t), t = 1, 2, …",
    source="SoRA eq. 10",
    function=training_step,
    requires="train",
    examples=runs(3, lrs=(0.125, 0.25, 0.0625, 0.03125)),
    deviation=doubled,
)
def step_after_step(subject: Subject, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> None:
    """Three steps with three learning rates."""
    judge_run(subject, layer, xs, dys, plan)


@check(
    "SORA-STEP-6",
    "A and B of a closed component keep moving; weights decay, gates do not",
    formula="θ ← θ − ηwθ − η·step for A and B, whatever g is",
    source="SoRA §3.2",
    function=training_step,
    requires="train",
    examples=runs(2, decay=0.5, gates=(0.0, 1.0)),
    deviation=doubled,
)
def weights_move(subject: Subject, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> None:
    """Half of the gates closed, and a decay that shows."""
    judge_run(subject, layer, xs, dys, plan)


def clipped_runs(subject: Subject) -> Any:
    """One step where the size of a gradient shows at once; three under Adam, whose first step hides it."""
    by_size = "sgd" in (subject.choices.descend, subject.choices.weights)
    return runs(1 if by_size else 3, clips=(0.25, 1024.0))(subject)


@check(
    "SORA-STEP-4",
    "clipping by the norm of all gradients, the gates' among them",
    formula="G ← G·min(1, τ/‖G‖₂) over all parameters",
    source="released code",
    function=clip_by_global_norm,
    requires="train",
    examples=clipped_runs,
    deviation=adds_to_the_norm,
)
def clipping(subject: Subject, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> None:
    """A limit that every gradient exceeds but small ones, and one that none does."""
    judge_run(subject, layer, xs, dys, plan)


@st.composite
def _microbatches(draw: st.DrawFn, subject: Subject) -> dict[str, Any]:
    layer = draw(layers(subject, least=1, most=2))
    sizes = draw(st.sampled_from(((1, 2), (2, 1), (3, 1), (1, 1, 2), (2, 2))))
    out, in_ = layer.W0.shape
    numbers = st.sampled_from(NUMBERS)
    return {
        "layer": layer,
        "parts": [
            (draw(array((n, in_), subject.dtype, numbers)), draw(array((n, out), subject.dtype, numbers)))
            for n in sizes
        ],
    }


@check(
    "SORA-STEP-2",
    "microbatches are averaged by their examples",
    formula="G = (Σ over microbatches of summed gradients)/(examples of the batch)",
    source="derived: L0 is a mean over examples",
    function=combine_microbatches,
    requires="accumulate",
    examples=_microbatches,
    applies=lambda subject: "tied sites have one batch each" if subject.implementation.layout.sites > 1 else None,
)
def microbatches(subject: Subject, layer: Layer, parts: list[tuple[Floats, Floats]]) -> None:
    """Microbatches of different sizes."""
    x, dy = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    found, precision = subject.accumulate(layer, parts), subject.precision
    exact, bounds = exact_gradients(layer, x, dy), gradient_bounds(layer, x, dy, precision)
    exact["dB"] = in_blocks(exact["dB"], subject.implementation.layout.groups)
    n, U = len(x), precision.unit + precision.unit_out
    for name in ("dB", "dg", "dA"):
        if name not in found:
            continue
        total = exact[name].astype(float)
        means = [exact_gradients(layer, *part)[name].astype(float) / len(part[0]) for part in parts]
        guesses = {
            "the mean of the microbatches' means": sum(means) / len(means),
            "the sum, not divided": total,
            "the sum of the microbatches' means": sum(means),
            "the sum divided by the number of microbatches": total / len(parts),
            "the last microbatch alone": means[-1],
        }
        sizes = sum(np.abs(exact_gradients(layer, *part)[name].astype(float)) for part in parts)
        # The parts' bounds add up to no more than the whole's; then their sum, and 1/n wherever it is applied.
        bound = (bounds[name] + gamma(len(parts) + 2, U) * (sizes + bounds[name])) / n + precision.spacing
        agree(name, found[name], exact[name] / n, bound, precision, partial(dict, guesses))


CHECKS = (one_iterate, step_after_step, weights_move, clipping, microbatches)
