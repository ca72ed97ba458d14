"""Where a step may land: the specification's value of an optimiser step, and a radius for every rounding on the way.

The kit judges each step from the iterate that the implementation itself has reached, so errors of earlier steps do not
add up.  Only Adam's moments are remembered between steps; they are sums over gradients whose radii are known.  The
specification computes the middle in float64.  U counts that rounding as well, so float64 has twice its own bound.

U is the relative error of one operation.  A moment after t steps has met 3t + 4 of them at most in any association:
β rounded, times, plus in each step; 1 − β, the product, the square.  1 − β and 1 − βᵗ cancel: their relative errors are
U/(1 − β) and U + (t + 5)U·βᵗ/(1 − βᵗ), for βᵗ is right to t + 5 roundings (a rounded β, a power good to a few ulps).
In these two U is that of float32 at worst: coefficients are Python numbers, or float32 beside arrays of bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sora_ref import zero_moments
from sora_ref.bounds import Precision, gamma
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.protocol.choices import Choices, Descent
from sora_ref.conformance.protocol.implementation import Missing
from sora_ref.conformance.protocol.layer import Floats, Plan
from sora_ref.optim import SGD

_FLOAT64 = 2.0**-53
_SCALAR = 2.0**-23  # coefficients are Python numbers, or float32 at worst, also where arrays are bf16


class Ranged(NamedTuple):
    """Numbers known to lie within `radius` of `middle`, entry by entry; both float64."""

    middle: Floats
    radius: Floats


class Span(NamedTuple):
    """The interval a result may lie in; where it has to be zero, and where it must not be."""

    low: Floats
    high: Floats
    zero: Floats
    open: Floats


class Descended(NamedTuple):
    """A parameter after its gradient step; Adam's metric as an interval, None for SGD; where v̂ is zero for certain."""

    theta: Ranged
    metric: tuple[Floats, Floats] | None
    untouched: tuple[Floats, Floats] | None


def exactly_known(x: Floats) -> Ranged:
    """Numbers that are known exactly: their radius is zero."""
    middle = np.asarray(x, float)
    return Ranged(middle, np.zeros_like(middle))


def unit(precision: Precision) -> float:
    """U: one operation in this precision, and one of the specification's in float64."""
    return precision.unit + precision.unit_out + _FLOAT64


def clipped(grads: Sequence[Ranged], limit: float | None, eps: float, U: float) -> list[Ranged]:
    """The gradients times min(1, limit/(‖all of them‖ + eps)) (SORA-STEP-4)."""
    if limit is None:
        return list(grads)
    count = sum(grad.middle.size for grad in grads)
    norm = float(np.sqrt(sum((grad.middle**2).sum() for grad in grads)))
    away = float(np.sqrt(sum((grad.radius**2).sum() for grad in grads)))
    away += gamma(count + 5, U) * (norm + away)
    norm += eps
    most = limit / max(norm - away, limit)
    least = limit / max(norm + away, limit)
    factor, slack = limit / max(norm, limit), most - least + 4 * U * most
    return [
        Ranged(grad.middle * factor, grad.radius * most + (np.abs(grad.middle) + grad.radius) * slack) for grad in grads
    ]


def descend(
    how: Descent, choices: Choices, theta: Floats, grads: Sequence[Ranged], lr: float, decay: float, U: float
) -> Descended:
    """θ after the last of these gradients, which were those of steps 1, …, t; θ is the value just before that step."""
    theta = np.asarray(theta, float)
    if how == "sgd":
        grad = grads[-1]
        middle, _ = SGD(decay).update(theta, grad.middle, zero_moments(theta), 1, lr)
        size = lr * (np.abs(grad.middle) + grad.radius)
        radius = (
            lr * grad.radius + gamma(6, U) * (size + lr * decay * np.abs(theta)) + (2 + bool(decay)) * U * np.abs(theta)
        )
        return Descended(Ranged(middle, radius), None, None)
    return _adam(how, choices, theta, grads, lr, decay, U)


def _adam(
    how: Descent, choices: Choices, theta: Floats, grads: Sequence[Ranged], lr: float, decay: float, U: float
) -> Descended:
    t, (beta1, beta2), eps = len(grads), choices.betas, choices.eps
    optimiser = choices.replace(weights=how).optimiser(decay)
    moments = zero_moments(theta)
    middle = theta
    for step, grad in enumerate(grads, 1):
        middle, moments = optimiser.update(theta, grad.middle, moments, step, lr)

    weights1, weights2 = ([(1 - beta) * beta ** (t - j) for j in range(1, t + 1)] for beta in (beta1, beta2))
    size1 = sum(w * np.abs(grad.middle) for w, grad in zip(weights1, grads, strict=True))
    moved1 = sum(w * grad.radius for w, grad in zip(weights1, grads, strict=True))
    moved2 = sum(
        w * grad.radius * (2 * np.abs(grad.middle) + grad.radius) for w, grad in zip(weights2, grads, strict=True)
    )
    scalar = min(U, _SCALAR)
    radius1 = moved1 + ((3 * t + 4) * U + scalar / (1 - beta1)) * (size1 + moved1)
    radius2 = moved2 + ((3 * t + 4) * U + scalar / (1 - beta2)) * (moments.v + moved2)

    correction1, correction2 = 1 - beta1**t, 1 - beta2**t
    error1, error2 = (U + (t + 5) * scalar * beta**t / (1 - beta**t) for beta in (beta1, beta2))
    low = np.sqrt(np.maximum(moments.v - radius2, 0.0))
    high = np.sqrt(moments.v + radius2)
    if how == "adamw":
        metric = (low / np.sqrt(correction2) + eps, high / np.sqrt(correction2) + eps)
    else:
        metric = ((low + eps) / np.sqrt(correction2), (high + eps) / np.sqrt(correction2))
    slack = error2 + 5 * U
    if slack >= 1:
        raise Missing("a precision in which a bound holds for Adam's steps")
    metric = (metric[0] * (1 - slack), metric[1] * (1 + slack))

    m = np.stack([moments.m - radius1, moments.m + radius1])
    ends = lr / correction1 * np.concatenate([m / metric[0], m / metric[1]])
    spread = (error1 + 6 * U) * np.abs(ends).max(axis=0)
    step = lr / correction1 * moments.m / (optimiser.metric(moments, t))
    away = np.maximum(ends.max(axis=0) - step, step - ends.min(axis=0)) + spread
    radius = (1 + lr * decay) * away + gamma(6, U) * np.abs(step) + (2 + 4 * bool(decay)) * U * np.abs(theta)
    return Descended(Ranged(middle, radius), metric, (high == 0, low == 0))


def amount(choices: Choices, plan: Plan, t: int, step: Descended, U: float) -> tuple[Floats, Floats]:
    """The threshold of step t as an interval (SORA-GATE-2)."""
    read = {"current": plan.lrs[t - 1], "base": plan.peak, "next": plan.lrs[t]}[choices.reads_lr]
    flat = np.ones_like(step.theta.middle)
    if choices.amount == "xi":
        return plan.strength * (1 - 2 * U) * flat, plan.strength * (1 + 2 * U) * flat
    product = plan.strength * read
    if choices.amount == "lr-lambda":
        return product * (1 - 3 * U) * flat, product * (1 + 3 * U) * flat
    assert step.metric is not None
    low, high = product * (1 - 4 * U) / step.metric[1], product * (1 + 4 * U) / step.metric[0]
    if choices.amount == "metric":
        assert step.untouched is not None
        certainly, perhaps = step.untouched
        low, high = np.where(perhaps, 0.0, low), np.where(certainly, 0.0, high)
    return low, high


def cut(choices: Choices, theta: Ranged, by: tuple[Floats, Floats], precision: Precision) -> Span:
    """The span after the threshold map; the span is the whole line where the map may jump inside the interval."""
    low, high = theta.middle - theta.radius, theta.middle + theta.radius
    least = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    most = np.maximum(np.abs(low), np.abs(high))
    if choices.threshold == "soft":
        ends = [np.stack([value - np.clip(value, -a, a) for a in by]) for value in (low, high)]
        low, high = ends[0].min(axis=0), ends[1].max(axis=0)
        zero, opened = most <= by[0], least > by[1]
    else:
        kept = least >= 2 * by[1] * (1 + 2.0**-40)
        below, above = most < by[0], (least > by[1]) & (most < 2 * by[0])
        zero, opened = (below | above) & ~((by[1] == 0) & (most > 0)), kept & (least > 0)
        sign = np.sign(theta.middle)
        jump = ~(zero | kept)
        inner = np.stack([low - sign * by[0], low - sign * by[1]]).min(axis=0)
        outer = np.stack([high - sign * by[0], high - sign * by[1]]).max(axis=0)
        low = np.where(zero, 0.0, np.where(jump, -np.inf, inner))
        high = np.where(zero, 0.0, np.where(jump, np.inf, outer))
    U = unit(precision)
    tiny = precision.spacing + precision.spacing_out
    return Span(low - U * np.abs(low) - tiny, high + U * np.abs(high) + tiny, zero, opened)


def gate_span(choices: Choices, g: Floats, grads: Sequence[Ranged], plan: Plan, t: int, precision: Precision) -> Span:
    """Where the gates may be after step t, from g just before it and the gradients of steps 1, …, t (SORA-GATE-1)."""
    U = unit(precision)
    step = descend(choices.descend, choices, g, grads, plan.lrs[t - 1], choices.gate_decay, U)
    return cut(choices, step.theta, amount(choices, plan, t, step, U), precision)


def weight_span(
    choices: Choices, theta: Floats, grads: Sequence[Ranged], plan: Plan, t: int, precision: Precision
) -> Span:
    """Where A or B may be after step t."""
    U = unit(precision)
    step = descend(choices.weights, choices, theta, grads, plan.lrs[t - 1], plan.weight_decay, U).theta
    nowhere = np.zeros(step.middle.shape, bool)
    tiny = precision.spacing + precision.spacing_out
    return Span(step.middle - step.radius - tiny, step.middle + step.radius + tiny, nowhere, nowhere)


def lies_in(got: Floats, span: Span) -> Floats:
    """Where the numbers are inside, and zero where they have to be and only where they may."""
    with np.errstate(invalid="ignore"):
        inside = (got >= span.low) & (got <= span.high)
    inside |= span.zero & (got == 0)
    result: Floats = inside & ~(span.zero & (got != 0)) & ~(span.open & (got == 0))
    return result


def agree_with_span(quantity: str, got: Floats, span: Span, guesses: tuple[str, ...] = ()) -> None:
    """Refusal unless every entry lies in the span and has the support it must have."""
    right = lies_in(np.asarray(got, float), span)
    if right.all():
        return
    place = tuple(int(k) for k in np.argwhere(~right)[0])
    entry = f"{quantity}[{', '.join(map(str, place))}]" if place else quantity
    value, low, high = float(got[place]), float(span.low[place]), float(span.high[place])
    if span.zero[place]:
        expected = "exactly 0, for it lies within the threshold"
    elif span.open[place] and value == 0:
        expected = f"{(low + high) / 2:.17g}, which is not zero"
    else:
        expected = f"{(low + high) / 2:.17g}, give or take {(high - low) / 2:.2g}"
    middle = 0.0 if span.zero[place] else (low + high) / 2
    raise Refusal(
        f"{entry} is {value!r}: expected {expected}",
        quantity=quantity,
        expected=middle,
        got=value,
        bound=(high - low) / 2,
        guesses=guesses,
    )
