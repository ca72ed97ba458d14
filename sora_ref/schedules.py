"""Schedules: Python floats in, Python floats out; the linear ones keep rationals rational (clause SORA-SCHED).

A learning-rate schedule is a function of the step t = 1 … total.  A sparsity schedule is the tuple of a run's values of
ξ (or λ), one a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from sora_ref.preconditions import require, require_finite_number

Schedule = Callable[[int], float]
"""A learning rate over time: the step t, counted from 1, to η_t.

>>> schedule: sr.Schedule = sr.schedules.constant(0.1)
>>> schedule(1)
0.1
"""

MOST_STAGES = 10_000  # of a run: a step of 1e-300 would ask for more than there is memory for


def constant(peak: float) -> Schedule:
    """η_t = peak; SoRAError where that is negative or not finite.

    >>> sr.schedules.constant(0.1)(7)
    0.1
    """
    require_finite_number("learning rate", peak, least=0)
    return lambda t: peak


def linear_warmup_decay(peak: float, total: int, warmup: int) -> Schedule:
    """η_t = peak·min(t/W, (total + 1 − t)/(total + 1 − W)), W = max(warmup, 1) (SORA-SCHED-1).

    A trapezium without a wasted step: step 1 has peak/W, step W the peak, the last step peak/(total + 1 − W) > 0.
    Raises SoRAError for a warm-up longer than the total, and, when it is asked, for a step outside 1 … total.

    >>> list(map(sr.schedules.linear_warmup_decay(1.0, total=5, warmup=2), range(1, 6)))
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    _check_steps(peak, total, warmup)
    top = max(warmup, 1)

    def schedule(t: int) -> float:
        require(1 <= t <= total, f"step {t} is outside the schedule: expected 1 to {total}")
        return min(_part(peak, t, top), _part(peak, total + 1 - t, total + 1 - top))

    return schedule


def released_linear(peak: float, total: int, warmup: int) -> Schedule:
    """As transformers counts, with k = t − 1: η = peak·k/W, then peak·(total − k)/(total − W) (SORA-SCHED-2).

    Deviation: the first step has learning rate 0, while a constant threshold still acts in it.
    Raises SoRAError for a warm-up longer than the total, and, when it is asked, for a step before 1.

    >>> list(map(sr.schedules.released_linear(1.0, total=4, warmup=2), range(1, 5)))
    [0.0, 0.5, 1.0, 0.5]
    """
    _check_steps(peak, total, warmup)

    def schedule(t: int) -> float:
        require(t >= 1, f"step {t} is outside the schedule: expected 1 or more")
        k = t - 1
        if k < warmup:
            return _part(peak, k, warmup)
        return _part(peak, max(total - k, 0), max(total - warmup, 1))

    return schedule


def stage_values(kind: str, start: float, stop: float, stages: int) -> tuple[float, ...]:
    """The values of ξ or λ in each of `stages` stages, first `start`, last `stop` (SORA-SCHED-3).

    kind: "constant" (start in every stage), "linear" (equal steps), "log_linear" (equal steps of exp ξ, evaluated from
    the larger end with expm1 and log1p, which does not overflow), "exp_linear" (equal steps of log ξ;
    start > 0).  Released code: the same four names.
    Raises SoRAError for another kind, for a negative start or stop, and for fewer stages than 1 or more than 10,000.

    >>> sr.schedules.stage_values("linear", 0.0, 1.0, stages=3)
    (0.0, 0.5, 1.0)
    """
    _check_stages(stages)
    for name, value in (("start", start), ("stop", stop)):
        require_finite_number(f"schedule {name}", value, least=0)
    require(kind != "exp_linear" or start > 0 < stop, f"exp_linear from {start} to {stop}: expected both above 0")
    require(kind in _INTERPOLATIONS, f"unknown schedule {kind!r}: expected one of {', '.join(_INTERPOLATIONS)}")
    between = _INTERPOLATIONS[kind]
    inner = tuple(between(start, stop, k, stages - 1) for k in range(1, stages - 1))
    last = start if kind == "constant" else stop
    return (start,) if stages == 1 else (start, *inner, last)


def listed_values(values: Sequence[float]) -> tuple[float, ...]:
    """A list given outright, after SoRAError unless it is finite, ≥ 0, not empty, and of at most 10,000 values.

    (In the released code a list raises; SORA-SCHED-3.)

    >>> sr.schedules.listed_values([0.0, 0.1])
    (0.0, 0.1)
    """
    require(len(values) > 0, "an empty list of stages: expected at least one value")
    _check_stages(len(values))
    for k, value in enumerate(values):
        require_finite_number(f"value {k} of the schedule", value, least=0)
    return tuple(values)


def algorithm_1_values(xi0: float, xi_max: float, delta: float, *, overshoot: bool = False) -> tuple[float, ...]:
    """ξ_k = ξ0 + kδ for k = 0, 1, … while ξ_k ≤ ξ_max (SoRA Algorithm 1; SORA-SCHED-4).

    k is an integer and the sum is formed from the numbers' decimal values, so 0.1 + 2·0.1 is 0.3 and counts.
    overshoot: the algorithm as printed tests ξ before it adds δ, so its last stage lies up to δ above ξ_max.
    Raises SoRAError for ξ0 < 0, δ ≤ 0, ξ_max < ξ0, numbers that are not finite, and more than 10,000 stages.

    >>> sr.schedules.algorithm_1_values(0.0, 0.3, 0.1)
    (0.0, 0.1, 0.2, 0.3)
    """
    require_finite_number("xi0", xi0, least=0)
    require_finite_number("delta", delta)
    require(delta > 0, f"delta is {delta}: expected more than 0")
    require_finite_number("xi_max", xi_max)
    require(xi_max >= xi0, f"xi_max {xi_max} lies below xi0 {xi0}: expected at least xi0")
    first, last, step = (Fraction(repr(float(value))) for value in (xi0, xi_max, delta))
    stages = math.floor((last - first) / step) + 1 + overshoot
    _check_stages(stages)
    return tuple(float(first + k * step) for k in range(stages))


def _part(value: float, k: int, n: int) -> float:
    """value·(k/n), the quotient rounded first, so that k = n gives the value itself; exact where value is rational."""
    return value * Fraction(k, n) if isinstance(value, Fraction) else value * (k / n)


def _linear(start: float, stop: float, k: int, n: int) -> float:
    return start + _part(stop - start, k, n)


def _log_linear(start: float, stop: float, k: int, n: int) -> float:
    if stop >= start:  # from the larger end, so that expm1's argument is never positive
        return stop + math.log1p((n - k) / n * math.expm1(start - stop))
    return start + math.log1p(k / n * math.expm1(stop - start))


_INTERPOLATIONS: dict[str, Callable[[float, float, int, int], float]] = {
    "constant": lambda start, stop, k, n: start,
    "linear": _linear,
    "log_linear": _log_linear,
    "exp_linear": lambda start, stop, k, n: math.exp(_linear(math.log(start), math.log(stop), k, n)),
}


def _check_stages(stages: int) -> None:
    require(stages >= 1, f"{stages} stages: expected at least 1")
    require(stages <= MOST_STAGES, f"more than {MOST_STAGES:,} stages: expected at most that many")


def _check_steps(peak: float, total: int, warmup: int) -> None:
    require_finite_number("learning rate", peak, least=0)
    require(total >= 1, f"{total} steps: expected at least 1")
    require(0 <= warmup <= total, f"warm-up of {warmup} steps: expected 0 to {total}")
