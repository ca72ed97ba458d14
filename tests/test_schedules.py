"""SORA-SCHED: learning rates by step, thresholds by stage."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import gamma, half_subnormal, rationals, unit_roundoff

from sora_ref import SoRAError
from sora_ref.backends.exact_backend import Rational
from sora_ref.schedules import (
    algorithm_1_values,
    constant,
    linear_warmup_decay,
    listed_values,
    released_linear,
    stage_values,
)

U, OMEGA = Decimal(2) ** -53, Decimal("5e-324") / 2
xis = st.floats(1e-12, 4) | st.sampled_from([0.0, 1e-9, 1e-4, 5e-4])
peaks = rationals.map(lambda peak: Rational(abs(peak)))
lengths = st.integers(1, 30).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))


@pytest.mark.bounded("SORA-SCHED-1")
def test_warmup_and_decay_are_a_trapezium_without_a_wasted_step() -> None:
    eta = linear_warmup_decay(8.0, 10, 4)
    # 8·t/4 up to step 4, then 8·(11 − t)/7: the quotient rounds, the product with 8 does not
    exact = [*map(Fraction, (2, 4, 6, 8)), *(Fraction(8 * (11 - t), 7) for t in range(5, 11))]
    u = unit_roundoff("float64")
    assert all(abs(Fraction(eta(t)) - want) <= u * want for t, want in zip(range(1, 11), exact, strict=True))
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
    assert released_linear(8.0, 5, 4)(5) == 8  # one step of decay, and it starts from the peak
    assert {type(make(3, 5, 2)(t)) for make in (linear_warmup_decay, released_linear) for t in range(1, 6)} == {float}


@pytest.mark.exact("SORA-SCHED-3", "SORA-SCHED-4")
def test_schedule_of_more_stages_than_a_run_can_have_is_refused_before_it_is_built() -> None:
    makes: tuple[Callable[[], object], ...] = (
        lambda: stage_values("linear", 0.0, 1.0, 10**9),
        lambda: algorithm_1_values(0.0, 1.0, 1e-300),
        lambda: algorithm_1_values(0.0, 1.0, 1e-4, overshoot=True),
        lambda: listed_values([0.0] * 10_001),
    )
    for make in makes:
        with pytest.raises(SoRAError, match=r"^more than 10,000 stages: expected at most that many$"):
            make()
    assert len(algorithm_1_values(0.0, 0.9999, 1e-4)) == len(listed_values([0.0] * 10_000)) == 10_000
    assert len(stage_values("constant", 0.0, 1.0, 10_000)) == 10_000


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


@pytest.mark.exact("SORA-SCHED-3")
@given(st.sampled_from(["linear", "log_linear", "exp_linear"]), xis, xis, st.integers(2, 12))
def test_stages_begin_at_start_and_end_at_stop(kind: str, start: float, stop: float, n: int) -> None:
    if kind == "exp_linear":
        start, stop = start + 1e-3, stop + 1e-3
    values = stage_values(kind, start, stop, n)
    assert (values[0], values[-1], len(values)) == (start, stop, n)


@pytest.mark.exact("SORA-SCHED-3")
@given(xis, xis, st.integers(2, 12))
def test_linear_stages_are_monotone_in_floats_too(start: float, stop: float, n: int) -> None:
    """Difference, quotient, product and sum are monotone, and so is rounding."""
    values = list(stage_values("linear", start, stop, n))
    assert values == sorted(values, reverse=stop < start)


@pytest.mark.bounded("SORA-SCHED-3")
@given(xis, xis, st.integers(2, 9))
def test_linear_stages_are_equal_steps(start: float, stop: float, n: int) -> None:
    """start + (stop − start)·(k/n): difference, quotient and product round, the product may underflow; then the sum."""
    u, omega = unit_roundoff("float64"), half_subnormal("float64")
    for k, value in enumerate(stage_values("linear", start, stop, n)):
        part = (Fraction(stop) - Fraction(start)) * Fraction(k, n - 1)
        want = Fraction(start) + part
        room = (gamma(3, u) * abs(part) + omega) * (1 + u) + u * abs(want)
        assert abs(Fraction(value) - want) <= room


# math.exp, log, expm1 and log1p are taken to err by an ulp at most, which is 2u of the result, or 2ω below the normal
# numbers: what C libraries state of their own, and no standard promises.  Hence `measured`.


def log_linear_stage(start: float, stop: float, w: Decimal) -> tuple[Decimal, Decimal]:
    """The definition, and the room of top + log1p(x), x = v·expm1(−d); top is the larger end, v the share of the other.

    d and v round once each, expm1 twice, the product once, five in x: −expm1 is concave, so d's error grows by a factor
    of 1 at most.  log1p has slope 1/(1 + x); then its own 2u, and the sum's u.
    """
    low, top = sorted((Decimal(start), Decimal(stop)))
    v = 1 - w if stop >= start else w
    want = ((1 - w) * Decimal(start).exp() + w * Decimal(stop).exp()).ln()
    x = v * ((low - top).exp() - 1)
    error = 5 * U / (1 - 5 * U) * abs(x) + 3 * OMEGA
    error /= 1 + x - error
    error += 2 * U * ((1 + x).ln().copy_abs() + error) + 2 * OMEGA
    return want, error + U * (want + error)


def exp_linear_stage(start: float, stop: float, w: Decimal) -> tuple[Decimal, Decimal]:
    """The definition, and the room of exp(a + (b − a)·w), a and b the logarithms.

    Each end is off by 2u of itself; of the sum difference, quotient and product round, γ₃ of the part, and then the sum
    itself.  exp turns what is absolute there into what is relative, and adds its own 2u.
    """
    a, b = Decimal(start).ln(), Decimal(stop).ln()
    want = (1 - w) * a + w * b
    ends = 2 * U * ((1 - w) * abs(a) + w * abs(b))
    part = 3 * U / (1 - 3 * U) * w * (abs(b - a) + 2 * U * (abs(a) + abs(b))) + OMEGA
    error = (ends + part) * (1 + U) + U * abs(want)
    return want.exp(), want.exp() * (error.exp() * (1 + 2 * U) - 1) + 2 * OMEGA


STAGE = {"log_linear": log_linear_stage, "exp_linear": exp_linear_stage}


def check_stages(kind: str, start: float, stop: float, n: int) -> None:
    with localcontext() as context:
        context.prec = 50
        for k, value in enumerate(stage_values(kind, start, stop, n)):
            want, room = STAGE[kind](start, stop, Decimal(k) / (n - 1))
            assert abs(Decimal(value) - want) <= room + Decimal("1e-45"), (k, value)  # the fifty digits' own error


@pytest.mark.measured("SORA-SCHED-3")
@given(start=xis, stop=xis, n=st.integers(3, 9))
def test_log_linear_stages_are_equal_steps_of_exp(start: float, stop: float, n: int) -> None:
    check_stages("log_linear", start, stop, n)


@pytest.mark.measured("SORA-SCHED-3")
@given(start=xis, stop=xis, n=st.integers(3, 9))
def test_exp_linear_stages_are_equal_steps_of_log(start: float, stop: float, n: int) -> None:
    check_stages("exp_linear", start + 1e-4, stop + 1e-4, n)


@pytest.mark.measured("SORA-SCHED-3")
@pytest.mark.parametrize(("start", "stop"), [(0.0, 1e3), (1e3, 0.0), (0.0, 1e-12), (1e-12, 0.0)])
def test_log_linear_neither_overflows_nor_loses_small_values(start: float, stop: float) -> None:
    """exp 1e3 overflows; of 1 + 1e-12 a float holds four digits of the 1e-12."""
    for n in (3, 4, 9):
        check_stages("log_linear", start, stop, n)


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
        (lambda: listed_values([]), r"^an empty list of stages: expected at least one value$"),
        (lambda: listed_values([1.0, -1.0]), r"value 1 of the schedule is -1\.0: expected at least 0"),
        (lambda: listed_values([float("inf")]), r"value 0 of the schedule is inf: expected a finite number"),
        (lambda: stage_values("cubic", 0.0, 1.0, 3), r"unknown schedule 'cubic': expected one of constant, linear, "),
        (lambda: stage_values("linear", 0.0, 1.0, 0), r"0 stages: expected at least 1"),
        (lambda: stage_values("linear", -1.0, 1.0, 3), r"schedule start is -1\.0: expected at least 0"),
        (lambda: stage_values("linear", 0.0, float("nan"), 3), r"schedule stop is nan: expected a finite number"),
        (lambda: stage_values("exp_linear", 0.0, 1.0, 3), r"exp_linear from 0\.0 to 1\.0: expected both above 0"),
        (lambda: stage_values("exp_linear", 1.0, 0.0, 3), r"exp_linear from 1\.0 to 0\.0: expected both above 0"),
        (lambda: algorithm_1_values(-0.1, 1.0, 0.1), r"xi0 is -0\.1: expected at least 0"),
        (lambda: algorithm_1_values(0.0, 1.0, float("nan")), r"^delta is nan: expected a finite number"),
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
