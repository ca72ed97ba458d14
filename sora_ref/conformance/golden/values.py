"""Expected results, and bounds on the distance of a result from them, as arrays of the same bits on every machine.

The specification computes the values over the rationals; where there are roots, on intervals of a few 2⁻³²⁰.  Each
value is rounded once.  exp and log come from `decimal`, whose digits do not depend on the machine's library.

Bounds of steps come from intervals as well.  The other bounds come from `sora_ref.bounds`, which computes them in
float64 by matrix products.  The last bits of such a product depend on the machine, so each bound is made coarser: it is
multiplied by 1 + 2⁻²⁰ and rounded up to eight significant bits.  A bound that a relative change of 2⁻³⁸ would round to
another number is an error, and its case needs other arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from sora_ref import SoRA, sora_linear_backward, sora_linear_forward, zero_moments
from sora_ref.bounds import Precision, precision_of
from sora_ref.conformance.engine.judge import exact_gradients, gradient_bounds
from sora_ref.conformance.golden.intervals import ROUNDED, Interval, Sharp, cut, ends, intervals
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan
from sora_ref.gate import GateRule, gate_update
from sora_ref.names import pack, pack_gradients, unpack
from sora_ref.preconditions import require
from sora_ref.step import Rates, Recipe, initial_state, training_step

Expected = dict[str, Floats]  # "value"; "bound", where it is not 0; "zeros", where the support is the point
_GRID, _INFLATION, _MARGIN = 8, 1 + Fraction(1, 2**20), Fraction(1, 2**30)
_SPECIFIED = ("A", "g", "B")


def arithmetic(dtype: str) -> Precision:
    """That of a dtype."""
    return precision_of(np.empty(0, dtype))


# --- from rational numbers to arrays


def nearest(x: Fraction, dtype: str) -> Any:
    """The number of this dtype that is nearest to x, ties to even."""
    kind = np.dtype(dtype).type
    middle = kind(float(x))  # correctly rounded to float64; a second rounding may end on the wrong side of x
    around = (np.nextafter(middle, kind(-np.inf)), middle, np.nextafter(middle, kind(np.inf)))
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    return min(around, key=lambda each: (abs(Fraction(float(each)) - x), int(each.view(bits)) % 2))


def upward(x: Fraction) -> float:
    """x inflated and rounded up to eight bits; SoRAError where an x a little different would give another number."""
    if x == 0:
        return 0.0
    step = Fraction(2) ** (math.frexp(float(x))[1] - _GRID)
    count = x * _INFLATION / step
    require(abs(count - round(count)) > _MARGIN, f"a bound of {float(x)} is next to a change: expected other numbers")
    return float(math.ceil(count) * step)


def judged(exact: Any, bound: Any, dtype: str, *, zeros: bool = False) -> Expected:
    """The exact values, rounded once, with a bound that counts this rounding.

    bound: one for all, or of every entry.    zeros: say where the result is exactly zero, which is then required.
    """
    exact = np.asarray(exact, object)
    limits: Any = np.broadcast_to(np.asarray(bound), exact.shape)
    value, limit = np.empty(exact.shape, dtype), np.empty(exact.shape)
    for place in np.ndindex(exact.shape):
        x = Fraction(exact[place])
        value[place] = nearest(x, dtype)
        limit[place] = upward(Fraction(limits[place]) + abs(Fraction(float(value[place])) - x))
    return {"value": value, "bound": limit} | ({"zeros": np.array(exact == 0, bool)} if zeros else {})


def enclosed(sharp: Any, rounded: Any, dtype: str, *, zeros: bool = False) -> Expected:
    """The same of two interval results: one without rounding, which gives the values, one with, which gives bounds."""
    exact, above = ends(sharp)
    low, high = ends(rounded)
    for one, two in zip(exact.ravel(), above.ravel(), strict=True):
        require(nearest(one, dtype) == nearest(two, dtype), "320 bits do not settle a rounding: expected other numbers")
    bound = np.maximum(high - exact, exact - low) + Fraction(arithmetic(dtype).spacing) + (above - exact)
    return judged(exact, bound, dtype, zeros=zeros)


# --- steps, on intervals


def gate_steps(choices: Choices, g: Floats, grads: Floats, plan: Plan, dtype: str) -> Expected:
    """Gates after every step (SORA-GATE-1), and where they are zero."""

    def run(kind: type[Interval]) -> Any:
        rule, gate = _rule(choices, kind), intervals(kind, g)
        moments, after = zero_moments(gate), []
        for t, grad in enumerate(grads, 1):
            lr, strength = Fraction(plan.lrs[t - 1]), Fraction(plan.strength)
            gate, moments = gate_update(rule, gate, intervals(kind, grad), moments, t, lr, strength)
            after.append(gate)
        return np.stack(after)

    return enclosed(run(Sharp), run(ROUNDED[dtype]), dtype, zeros=True)


def training(choices: Choices, layer: Layer, xs: Floats, dys: Floats, plan: Plan, dtype: str) -> dict[str, Expected]:
    """A, g and B after every step (SORA-STEP), and where gates are zero."""
    sharp, rounded = (_train(choices, layer, xs, dys, plan, kind) for kind in (Sharp, ROUNDED[dtype]))
    return {name: enclosed(sharp[name], rounded[name], dtype, zeros=name == "g") for name in _SPECIFIED}


def _train(choices: Choices, layer: Layer, xs: Floats, dys: Floats, plan: Plan, kind: type[Interval]) -> dict[str, Any]:
    optimiser = _settings(choices, kind).optimiser(_fraction(plan.weight_decay))
    recipe = Recipe(optimiser, _rule(choices, kind), decayed=lambda name: True)  # A and B; gates are not asked about
    W0, s = intervals(kind, layer.W0), Fraction(layer.s)
    b = None if layer.b is None else intervals(kind, layer.b)
    A, g, B = (intervals(kind, getattr(layer, name)) for name in _SPECIFIED)
    state = initial_state(pack("m", SoRA(A, g, B, s)))
    after: dict[str, list[Any]] = {name: [] for name in _SPECIFIED}
    for t, (x, dy) in enumerate(zip(xs, dys, strict=True)):
        _, cache = sora_linear_forward(intervals(kind, x), W0, b, unpack(state.params, "m", s))
        found = sora_linear_backward(intervals(kind, dy), cache)
        grads = pack_gradients("m", found)
        lr = _fraction(plan.lrs[t])
        rates = Rates(lr, lr, _fraction(plan.strength))
        state, _ = training_step(state, _clipped(grads, plan.clip), rates, recipe)
        for name, tensor in zip(_SPECIFIED, unpack(state.params, "m", s), strict=False):
            after[name].append(tensor)
    return {name: np.stack(states) for name, states in after.items()}


def _clipped(grads: Mapping[str, Any], limit: float | None) -> Mapping[str, Any]:
    """G·min(1, limit/‖G‖₂) (SORA-STEP-4); the specification's own takes the norm in float64."""
    if limit is None:
        return grads
    norm = sum((grad * grad).sum() for grad in grads.values()).sqrt()
    return {name: grad * (limit / norm) for name, grad in grads.items()} if norm > limit else grads


def _settings(choices: Choices, kind: type[Interval]) -> Choices:
    """The choices with their numbers as intervals: 1 − β then has the error that a rounded β gives it."""
    betas: Any = tuple(map(kind.of, choices.betas))
    return choices.replace(betas=betas, eps=Fraction(choices.eps), loss_l1=Fraction(choices.loss_l1))


def _rule(choices: Choices, kind: type[Interval]) -> GateRule:
    rule = _settings(choices, kind).rule()
    threshold = rule.threshold
    return rule.replace(threshold=lambda v, amount: cut(threshold, v, amount))


def _fraction(value: float) -> Any:
    """A Python number as a rational, where a float is declared."""
    return Fraction(value)


# --- what has rational results


def means(layer: Layer, parts: Sequence[tuple[Floats, Floats]], dtype: str) -> dict[str, Expected]:
    """Gradients of the mean over all examples of all microbatches (SORA-STEP-2), in any order and weighting of them."""
    x, dy = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    precision = arithmetic(dtype)
    exact, bounds = exact_gradients(layer, x, dy), gradient_bounds(layer, x, dy, precision)
    found = {}
    for name in ("dA", "dg", "dB"):
        sizes = sum(np.abs(exact_gradients(layer, *part)[name].astype(float)) for part in parts)
        limit = bounds[name] + 2 * (len(parts) + 2) * precision.unit * (sizes + bounds[name])
        found[name] = judged(exact[name] / len(x), limit / len(x) + precision.spacing, dtype)
    return found


def settled(values: Sequence[Fraction], roundings: int = 8) -> Expected:
    """Numbers of a schedule: float64, each within so many roundings of the largest."""
    size = max(map(abs, values), default=Fraction(0))
    return judged(np.array(values, object), roundings * size / 2**53, "float64")


_Map = Callable[[Decimal], Decimal]
_MAPS: dict[str, tuple[_Map, _Map]] = {
    "linear": (lambda x: x, lambda x: x),
    "log_linear": (lambda x: x.exp(), lambda x: x.ln()),
    "exp_linear": (lambda x: x.ln(), lambda x: x.exp()),
}


def interpolated(kind: str, start: float, stop: float, stages: int) -> Expected:
    """A schedule of equal steps of ξ, exp ξ or log ξ (SORA-SCHED-3), in 60 decimal digits: no machine's exp or log."""
    to, back = _MAPS[kind]
    with localcontext(Context(prec=60)):
        first, last = to(Decimal(start)), to(Decimal(stop))
        inner = [back(first + (last - first) * k / (stages - 1)) for k in range(1, stages - 1)]
        values = [Decimal(start), *inner, Decimal(stop)][:stages]
        return settled([Fraction(value) for value in values], roundings=64)
