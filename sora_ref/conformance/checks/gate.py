"""SORA-GATE, SORA-OPT and SORA-REVIVAL: the gate's step as it is declared, and when a closed gate comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.conformance.checks.examples import array
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.step_intervals import agree_with_span, exactly_known, gate_span, lies_in
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import VARIANTS, Choices
from sora_ref.conformance.protocol.layer import Floats, Plan
from sora_ref.gate import gate_update, in_metric
from sora_ref.optim import AdamW

GATES = (1.0, -1.0, 0.5, 2.0, -0.75, 0.0, 0.25)
GRADS = (1.0, -1.0, 0.5, 0.25, -2.0, 0.0)


def departs(choices: Choices) -> str | None:
    """How the declared gate rule departs from the clauses, or None."""
    if choices.threshold == "released":
        return "the declared threshold is the released code's map (SORA-PROX-5)"
    if choices.gate_decay:
        return f"the declared gates decay by {choices.gate_decay} (SORA-GATE-1: w = 0)"
    return None


def reads_another(choices: Choices) -> str | None:
    """Which learning rate the declared rule reads instead of this step's, or None."""
    if choices.reads_lr != "current" and choices.amount != "xi":
        return f"the declared amount reads the {choices.reads_lr} learning rate"
    return departs(choices)


def scaled_plan(choices: Choices, lrs: tuple[float, ...], strength: float) -> Plan:
    """A plan whose thresholds have the size of `strength`, whatever the amount is made of."""
    peak = max(lrs)
    return Plan(lrs, peak, strength if choices.amount == "xi" else strength / peak)


def steps(count: int, lrs: tuple[float, ...] | None = None) -> Any:
    """(subject) -> a strategy of gates, gradients of `count` steps, and a plan; equal learning rates unless given."""

    def examples(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
        rates = lrs or (0.25,) * (count + 1)
        plans = st.sampled_from((0.1, 0.3, 0.02)).map(lambda size: scaled_plan(subject.choices, rates, size))
        return st.fixed_dictionaries(
            {
                "g": array((3,), subject.dtype, st.sampled_from(GATES)),
                "grads": array((count, 3), subject.dtype, st.sampled_from(GRADS)),
                "plan": plans,
            }
        )

    return examples


def judge_steps(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """Every step from the gates the implementation had before it."""
    after = subject.gate_steps(g, grads, plan)
    for t in range(1, len(grads) + 1):
        before = g if t == 1 else after[t - 2]
        known = [exactly_known(grad) for grad in grads[:t]]
        span = gate_span(subject.choices, before, known, plan, t, subject.precision)
        guesses = () if lies_in(after[t - 1], span).all() else _recognised(subject, g, grads, plan, after, t)
        agree_with_span(f"g after step {t}", after[t - 1], span, guesses)


def _recognised(subject: Subject, g: Floats, grads: Floats, plan: Plan, after: Floats, t: int) -> tuple[str, ...]:
    """The known rules that give what came back in every step up to this one."""
    befores, known = [g, *after[:-1]], [exactly_known(grad) for grad in grads]
    found = [
        name
        for name, choices in candidates(subject.choices)
        if all(
            lies_in(after[k], gate_span(choices, befores[k], known[: k + 1], plan, k + 1, subject.precision)).all()
            for k in range(t)
        )
    ]
    closed = befores[t - 1] == 0
    if not found and closed.any() and not after[t - 1][closed].any():
        found = ["closed gates are kept closed (a mask, or a gradient that the gate itself is a factor of)"]
    return tuple(found)


def candidates(declared: Choices) -> list[tuple[str, Choices]]:
    """The named rules, then the declared one with one choice changed."""
    found = [(f"the rule {name}: declare it", choices) for name, choices in VARIANTS.items()]
    for reads in ("base", "next", "current"):
        found.append((f"the declared rule with the {reads} learning rate", declared.replace(reads_lr=reads)))
    for amount in ("xi", "lr-lambda"):
        found.append((f"the declared rule with the amount {amount}", declared.replace(amount=amount)))
    for threshold in ("soft", "released"):
        found.append((f"the declared rule with the {threshold} threshold", declared.replace(threshold=threshold)))
    for decay in (0.01, 0.1):
        found.append((f"the declared rule with gates that decay by {decay}", declared.replace(gate_decay=decay)))
    for descend in ("adamw", "adamw-raw"):
        found.append((f"the declared rule with {descend} as the gates' optimiser", declared.replace(descend=descend)))
    return [(name, choices) for name, choices in found if choices != declared and _possible(choices)]


def _possible(choices: Choices) -> bool:
    return choices.descend != "sgd" or not choices.amount.startswith("metric")


@check(
    "SORA-GATE-1",
    "the first step of the gates",
    formula="g ← T_a(descend(g, ∇_g L0)), as declared",
    source="SoRA eq. 10",
    function=gate_update,
    requires="gate_steps",
    level="full",
    examples=steps(1),
    deviation=departs,
)
def first_step(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """Learning rates are all equal, so only the rule shows."""
    judge_steps(subject, g, grads, plan)


@check(
    "SORA-OPT-2",
    "the gates' optimiser over several steps",
    formula="m ← β₁m + (1−β₁)G, v ← β₂v + (1−β₂)G², g − η·m̂/(√v̂ + ε), as declared",
    source="Kingma & Ba 2015; Loshchilov & Hutter 2019",
    function=AdamW,
    requires="gate_steps",
    examples=steps(4),
    deviation=departs,
    applies=lambda subject: _needs_steps(subject),
)
def several_steps(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """Four steps of equal learning rate: moments, bias corrections, ε."""
    judge_steps(subject, g, grads, plan)


@check(
    "SORA-GATE-2",
    "the learning rate and the threshold are those of this very step",
    formula="ξ_t = η_t·λ (or ξ), descent by η_t",
    source="SoRA eq. 10",
    function=gate_update,
    requires="gate_steps",
    examples=lambda subject: steps(3, (0.25, 0.5, 0.125, 0.0625))(subject),
    deviation=reads_another,
    applies=lambda subject: _needs_steps(subject),
)
def rates(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """Learning rates that differ from step to step, and from the peak."""
    judge_steps(subject, g, grads, plan)


@check(
    "SORA-GATE-3",
    "the threshold in Adam's metric, by coordinate",
    formula="a_i = η_t·λ/C_i, C_i = √v̂_i + ε",
    source="Yun, Lozano & Yang 2021",
    function=in_metric,
    requires="gate_steps",
    examples=steps(2),
    deviation=departs,
    applies=lambda subject: (
        None if subject.choices.amount.startswith("metric") else f"declares the amount {subject.choices.amount}"
    ),
)
def metric(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """Gradients of different sizes, so that one number for all gates shows."""
    judge_steps(subject, g, grads * np.array([1, 4, 0.25], subject.dtype), plan)


@check(
    "SORA-REVIVAL-1",
    "a closed gate comes back exactly when its step exceeds the threshold",
    formula="g_i = 0: g_i' ≠ 0 ⇔ |step_i| > a",
    source="derived from SoRA eq. 10-11",
    function=gate_update,
    requires="gate_steps",
    examples=lambda subject: steps(2)(subject).map(_closed),
    deviation=departs,
    applies=lambda subject: _needs_steps(subject),
)
def revival(subject: Subject, g: Floats, grads: Floats, plan: Plan) -> None:
    """All gates closed; gradients on both sides of the threshold."""
    after = subject.gate_steps(g, grads, plan)
    for t in (1, 2):
        before = g if t == 1 else after[0]
        known = [exactly_known(grad) for grad in grads[:t]]
        span = gate_span(subject.choices, before, known, plan, t, subject.precision)
        back = span.open & (before == 0) & (after[t - 1] == 0)
        if back.any():
            k = int(np.argwhere(back)[0, 0])
            raise Refusal(
                f"gate {k} is 0 with gradient {float(grads[t - 1][k])!r}, and stays 0 in step {t}: expected it back",
                quantity="g",
                guesses=("closed gates are kept closed: a mask, or a gradient that the gate itself is a factor of",),
            )
        agree_with_span(f"g after step {t}", after[t - 1], span)


def _closed(case: dict[str, Any]) -> dict[str, Any]:
    return case | {"g": np.zeros_like(case["g"])}


def _needs_steps(subject: Subject) -> str | None:
    if subject.has.get("gate_steps") == "train":
        return "whole steps show only the first step of a gate alone; SORA-STEP looks at the others"
    return None


CHECKS = (first_step, several_steps, rates, metric, revival)
