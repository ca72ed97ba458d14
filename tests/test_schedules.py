"""SORA-SCHED: learning rates by step, thresholds by stage."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import gamma, rationals, unit_roundoff

from sora_ref import (
    SoRAError,
    algorithm_1_values,
    constant,
    linear_warmup_decay,
    listed_values,
    released_linear,
    stage_values,
)
from sora_ref.backends.exact_backend import Rational

U = 2.0**-53
xis = st.floats(1e-12, 4) | st.sampled_from([0.0, 1e-9, 1e-4, 5e-4])
peaks = rationals.map(lambda peak: Rational(abs(peak)))
lengths = st.integers(1, 30).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))


@pytest.mark.bounded("SORA-SCHED-1")
def test_warmup_and_decay_are_a_trapezium_without_a_wasted_step() -> None:
    eta = linear_warmup_decay(8.0, 10, 4)
    # 8·t/4 up to step 4, then 8·(11 − t)/7; every quotient is rounded twice at most
    exact = [2, 4, 6, 8, *(8 * (11 - t) / 7 for t in range(5, 11))]
    assert all(abs(eta(t) - want) <= 2 * U * 2 * want for t, want in zip(range(1, 11), exact, strict=True))
    assert [eta(t) for t in range(1, 5)] == [2, 4, 6, 8]


@pytest.mark.exact("SORA-SCHED-1")
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 10))
def test_warmup_rises_to_the_peak_at_step_w_and_falls_to_a_positive_end(total: int, warmup: int, peak: float) -> None:
    warmup = min(warmup, total)
    eta, top = linear_warmup_decay(peak, total, warmup), max(warmup, 1)
    values = [eta(t) for t in range(1, total + 1)]
    assert values[top - 1] == peak == max(values)
    assert values[0] == peak * (1 / top)
    assert values[-1] == peak * (1 / (total + 1 - top))
    assert values[:top] == sorted(values[:top])
    assert values[top - 1 :] == sorted(values[top - 1 :], reverse=True)


@pytest.mark.exact("SORA-SCHED-2")
def test_released_schedule_starts_at_zero_and_ends_above_zero() -> None:
    eta = released_linear(8.0, 10, 4)
    assert [eta(t) for t in range(1, 6)] == [0, 2, 4, 6, 8]
    assert eta(10) == 8 / 6  # k = 9: 8·(10 − 9)/6
    assert eta(11) == eta(50) == 0  # exhausted
    assert released_linear(8.0, 10, 0)(1) == 8
    assert released_linear(8.0, 4, 4)(5) == 0


def test_constant_rate_is_constant() -> None:
    assert {constant(0.25)(t) for t in range(1, 5)} == {0.25}


@pytest.mark.parametrize("make", [linear_warmup_decay, released_linear])
def test_learning_rates_refuse_what_is_no_schedule(make: Any) -> None:
    for arguments, sentence in (
        ((-1.0, 5, 1), r"learning rate is -1\.0: expected at least 0"),
        ((float("nan"), 5, 1), r"learning rate is nan: expected a finite number"),
        ((1.0, 0, 0), r"0 steps: expected at least 1"),
        ((1.0, 5, 6), r"warm-up of 6 steps: expected 0 to 5"),
        ((1.0, 5, -1), r"warm-up of -1 steps: expected 0 to 5"),
    ):
        with pytest.raises(SoRAError, match=sentence):
            make(*arguments)
    with pytest.raises(SoRAError, match=r"step 0 is outside the schedule"):
        make(1.0, 5, 1)(0)
    with pytest.raises(SoRAError, match=r"learning rate is -1\.0"):
        constant(-1.0)


def test_step_past_the_end_is_outside_the_schedule() -> None:
    with pytest.raises(SoRAError, match=r"step 6 is outside the schedule: expected 1 to 5"):
        linear_warmup_decay(1.0, 5, 1)(6)


@pytest.mark.bounded("SORA-SCHED-3")
@given(st.sampled_from(["linear", "log_linear", "exp_linear"]), xis, xis, st.integers(2, 12))
def test_stages_begin_at_start_end_at_stop_and_are_monotone_up_to_rounding(
    kind: str, start: float, stop: float, n: int
) -> None:
    """Between neighbours the formula moves one way; its rounding may not: 8 ulp of the larger end allow for that."""
    if kind == "exp_linear":
        start, stop = start + 1e-3, stop + 1e-3
    values = stage_values(kind, start, stop, n)
    assert (values[0], values[-1], len(values)) == (start, stop, n)
    sign = 1 if stop >= start else -1
    room = 8 * 2 * U * max(start, stop, abs(math.log(min(start, stop))) if kind == "exp_linear" else 0, 1e-300) * (
        max(start, stop) if kind == "exp_linear" else 1
    ) + 8 * 2 * U * max(start, stop)
    assert all(sign * (b - a) >= -room for a, b in pairwise(values))


@pytest.mark.bounded("SORA-SCHED-3")
@given(xis, xis, st.integers(2, 9))
def test_linear_stages_are_equal_steps(start: float, stop: float, n: int) -> None:
    """w, 1 − w, two products and a sum round once each: γ₄ of the magnitudes, 5·U·(start + stop) is more."""
    for k, value in enumerate(stage_values("linear", start, stop, n)):
        with localcontext() as context:
            context.prec = 60
            want = Decimal(start) + Decimal(k) * (Decimal(stop) - Decimal(start)) / (n - 1)
            assert abs(Decimal(value) - want) <= Decimal(5 * U * (start + stop) + 5e-324)


@pytest.mark.bounded("SORA-SCHED-3")
@pytest.mark.parametrize("kind", ["log_linear", "exp_linear"])
@given(start=xis, stop=xis, n=st.integers(3, 9))
def test_log_and_exp_linear_stages_follow_their_definition_in_fifty_digits(
    kind: str, start: float, stop: float, n: int
) -> None:
    """log_linear: equal steps of exp ξ.  exp_linear: equal steps of log ξ."""
    if kind == "exp_linear":
        start, stop = start + 1e-4, stop + 1e-4
    values = stage_values(kind, start, stop, n)
    with localcontext() as context:
        context.prec = 50
        a, b, larger = Decimal(start), Decimal(stop), Decimal(max(start, stop))
        for k, value in enumerate(values):
            w = Decimal(k) / (n - 1)
            if kind == "log_linear":
                want = ((1 - w) * a.exp() + w * b.exp()).ln()
                # start − stop, w, expm1, the product and log1p: five roundings of a number whose size, by the larger
                # end's choice, is at most larger, with condition at most 1/(1 − w) ≤ n; then the sum
                room = Decimal(U) * (12 * n * larger + 2 * larger)
            else:
                want = ((1 - w) * a.ln() + w * b.ln()).exp()
                # two logarithms, w, 1 − w, two products, one sum: 8 units of the logarithm's size; exp makes them
                # relative, and its own unit twice
                room = want * Decimal(U) * (8 * (abs(a.ln()) + abs(b.ln())) + 4)
            assert abs(Decimal(value) - want) <= room + Decimal("5e-324"), (kind, k)


@pytest.mark.bounded("SORA-SCHED-3")
def test_log_linear_neither_overflows_nor_loses_small_values() -> None:
    assert stage_values("log_linear", 0.0, 1e6, 3)[1] == 1e6 + math.log(0.5)  # exp 1e6 would overflow
    middle = stage_values("log_linear", 0.0, 1e-12, 3)[1]
    assert abs(middle - 5e-13) <= 5e-13 * (1e-12 + 10 * U)  # δ/2 + δ²/8 + …
    assert stage_values("log_linear", 1e6, 0.0, 3)[1] == 1e6 + math.log(0.5)


@pytest.mark.exact("SORA-SCHED-3")
def test_constant_stages_and_single_stages() -> None:
    assert stage_values("constant", 0.5, 9.0, 3) == (0.5, 0.5, 0.5)
    for kind in ("constant", "linear", "log_linear", "exp_linear"):
        assert stage_values(kind, 0.5, 2.0, 1) == (0.5,)


@pytest.mark.exact("SORA-SCHED-3")
def test_a_list_is_taken_as_it_stands() -> None:
    assert listed_values([0.0, 3.0, 1.0]) == (0.0, 3.0, 1.0)


@pytest.mark.exact("SORA-SCHED-3", "SORA-SCHED-4")
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: listed_values([]), r"an empty list of stages: expected at least one value"),
        (lambda: listed_values([1.0, -1.0]), r"value 1 of the schedule is -1\.0: expected at least 0"),
        (lambda: listed_values([float("inf")]), r"value 0 of the schedule is inf: expected a finite number"),
        (lambda: stage_values("cubic", 0.0, 1.0, 3), r"unknown schedule 'cubic': expected one of constant, linear, "),
        (lambda: stage_values("linear", 0.0, 1.0, 0), r"0 stages: expected at least 1"),
        (lambda: stage_values("linear", -1.0, 1.0, 3), r"schedule start is -1\.0: expected at least 0"),
        (lambda: stage_values("linear", 0.0, float("nan"), 3), r"schedule stop is nan: expected a finite number"),
        (lambda: stage_values("exp_linear", 0.0, 1.0, 3), r"exp_linear from 0\.0 to 1\.0: expected both above 0"),
        (lambda: stage_values("exp_linear", 1.0, 0.0, 3), r"exp_linear from 1\.0 to 0\.0: expected both above 0"),
        (lambda: algorithm_1_values(-0.1, 1.0, 0.1), r"xi0 is -0\.1: expected at least 0"),
        (lambda: algorithm_1_values(0.0, 1.0, 0.0), r"delta is 0\.0: expected more than 0"),
        (lambda: algorithm_1_values(0.5, 0.4, 0.1), r"xi_max 0\.4 lies below xi0 0\.5: expected at least xi0"),
        (lambda: algorithm_1_values(0.0, float("inf"), 0.1), r"xi_max is inf: expected a finite number"),
    ],
)
def test_values_that_are_no_schedule_are_refused(call: Any, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        call()


@pytest.mark.exact("SORA-SCHED-4")
def test_algorithm_1_counts_in_decimals() -> None:
    assert algorithm_1_values(0.1, 0.3, 0.1) == (0.1, 0.2, 0.3)
    assert algorithm_1_values(0.0, 5e-4, 1e-4) == (0.0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4)
    assert algorithm_1_values(0.0, 0.35, 0.1) == (0.0, 0.1, 0.2, 0.3)
    assert algorithm_1_values(0.2, 0.2, 0.1) == (0.2,)


@pytest.mark.exact("SORA-SCHED-4")
@given(st.integers(0, 20), st.integers(0, 60), st.integers(1, 9), st.booleans())
def test_algorithm_1_equals_its_loop(first: int, more: int, step: int, overshoot: bool) -> None:
    """The loop of the paper in thousandths; as printed it tests before it adds, so it overshoots by one stage."""
    last, xi, found = first + more, first, [first]
    while xi <= last if overshoot else xi + step <= last:
        xi += step
        found.append(xi)
    values = algorithm_1_values(first / 1000, last / 1000, step / 1000, overshoot=overshoot)
    assert values == tuple(thousandths / 1000 for thousandths in found)


# --- the linear form over the rationals ----------------------------------------------------------------------------


def rates(make: Any, peak: Any, total: int, warmup: int) -> list[Any]:
    eta = make(peak, total, warmup)
    return [eta(t) for t in range(1, total + 1)]


@pytest.mark.exact("SORA-SCHED-1")
@given(peaks, lengths)
def test_rational_trapezium_has_equal_steps_and_a_sum_that_no_warmup_changes(
    peak: Any, length: tuple[int, int]
) -> None:
    """Up by peak/W, down by peak/(total + 1 − W); Ση = peak·(total + 1)/2, hence the sum of the thresholds ηλ too."""
    total, warmup = length
    top, values = max(warmup, 1), rates(linear_warmup_decay, peak, total, warmup)
    assert all(isinstance(value, Rational) for value in values)
    assert all(after - before == peak / top for before, after in pairwise([0, *values[:top]]))
    assert all(before - after == peak / (total + 1 - top) for before, after in pairwise([*values[top - 1 :], 0]))
    assert sum(values) == peak * (total + 1) / 2


@pytest.mark.exact("SORA-SCHED-2")
@given(peaks, lengths)
def test_rational_released_schedule_has_equal_steps_from_zero_to_zero(peak: Any, length: tuple[int, int]) -> None:
    """Up by peak/W from 0, down by peak/(total − W) to the 0 after the last step; the sum forgets W but at its ends."""
    total, warmup = length
    values = [*rates(released_linear, peak, total, warmup), 0]
    assert all(isinstance(value, Rational) for value in values[:-1])
    rise, fall = values[:warmup], values[warmup:]
    assert all(after - before == peak / warmup for before, after in pairwise(rise))
    assert all(before - after == peak / (total - warmup) for before, after in pairwise(fall))
    assert values[0] == (0 if warmup else peak)
    assert warmup == total or fall[0] == peak
    assert sum(values) == peak * (total + (warmup == 0) - (warmup == total)) / 2


@pytest.mark.bounded("SORA-SCHED-1", "SORA-SCHED-2")
@pytest.mark.parametrize("make", [linear_warmup_decay, released_linear])
@given(peak=st.floats(1e-6, 10), length=lengths)
def test_float_schedules_are_the_rational_ones_rounded_twice(make: Any, peak: float, length: tuple[int, int]) -> None:
    for found, wanted in zip(rates(make, peak, *length), rates(make, Fraction(peak), *length), strict=True):
        assert type(found) is float
        assert abs(Fraction(found) - wanted) <= gamma(2, unit_roundoff("float64")) * wanted


@pytest.mark.exact("SORA-SCHED-3")
@given(peaks, peaks, st.integers(1, 12))
def test_rational_stages_have_equal_steps_and_the_sum_of_their_ends(start: Any, stop: Any, n: int) -> None:
    values = stage_values("linear", start, stop, n)
    assert all(isinstance(value, Rational) for value in values)
    assert (values[0], len(values)) == (start, n)
    assert n == 1 or all((after - before) * (n - 1) == stop - start for before, after in pairwise(values))
    assert sum(values) == (start if n == 1 else n * (start + stop) / 2)
    assert stage_values("constant", start, stop, n) == (start,) * n


@pytest.mark.exact("SORA-SCHED-4")
def test_algorithm_1_gives_floats_for_rationals_too() -> None:
    """It counts in the decimals of its arguments, which one third has not got: no schedule of the exact backend."""
    values = algorithm_1_values(Fraction(1, 10), Fraction(3, 10), Fraction(1, 10))  # type: ignore[arg-type]
    assert values == (0.1, 0.2, 0.3)
    assert {type(value) for value in values} == {float}
