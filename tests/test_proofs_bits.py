"""Theorems about bits: what the thresholds return for every float16, float32 and float64 there is, NaN and ∞ included.

A threshold is a Python float, rounded once to the format of x, as NumPy does it; the hypotheses are the functions' own
preconditions.  As in `test_proofs`, every law has a control that the same prover refutes.
What takes z3 seconds, the wider formats above all, is marked deep: `make test-deep`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import symbolic
import z3
from strategies import exact
from symbolic import (
    F16,
    F32,
    F64,
    REAL,
    Term,
    array,
    assume,
    both,
    identical,
    iff,
    implies,
    number,
    prove,
    refute,
    threshold,
    xp,
)

from sora_ref import kkt_distance, released_threshold, soft_threshold
from sora_ref.gate import PAPER, gate_update
from sora_ref.optim import Moments
from sora_ref.prox import released_penalty

Map = Callable[[Any, Any], Any]
WIDE = [pytest.param(F32, id="f32", marks=pytest.mark.deep), pytest.param(F64, id="f64", marks=pytest.mark.deep)]
formats = pytest.mark.parametrize("sort", [pytest.param(F16, id="f16"), *WIDE])


def where_form(x: Any, t: Any) -> Any:
    return xp.where(abs(x) > t, xp.where(x > 0, x - t, x + t), xp.zeros_like(x))


def sign_form(x: Any, t: Any) -> Any:
    return xp.sign(x) * xp.maximum(abs(x) - t, xp.zeros_like(x))


def is_zero_exactly_where(compare: Callable[[Any, Any], Any], sort: Any) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    return iff(soft_threshold(x, t) == 0, compare(abs(x), t))


@pytest.mark.proved("SORA-PROX-1")
@formats
def test_prox_is_exactly_zero_just_where_its_argument_is_within_the_threshold(sort: Any) -> None:
    prove(is_zero_exactly_where, operator.le, sort)
    found = refute(is_zero_exactly_where, operator.lt, sort)
    assert soft_threshold(np.array([found["x"]]), float(found["t"]))[0] == 0


def rounds_once(T: Map, sort: Any) -> Term:
    """x ∓ t, rounded; +0 in between; NaN stays NaN.  With x = ±∞ the difference is ±∞."""
    x, t = array("x", sort), threshold("t", sort)
    nan_or_zero = xp.where(x != x, x, xp.zeros_like(x))
    return identical(T(x, t), xp.where(x > t, x - t, xp.where(x < -t, x + t, nan_or_zero)))


@pytest.mark.proved("SORA-PROX-1")
@formats
def test_prox_rounds_once_keeps_nan_and_infinity_and_its_zero_is_positive(sort: Any) -> None:
    prove(rounds_once, soft_threshold, sort)
    at_nan = refute(rounds_once, where_form, sort)
    assert np.isnan(at_nan["x"]), "the where form turns NaN, and nothing else, into a number"
    at_zero = refute(rounds_once, sign_form, sort)
    assert at_zero["x"] < 0, "sign times max gives −0"
    assert np.signbit(np.sign(at_zero["x"]) * np.maximum(abs(at_zero["x"]) - at_zero["x"].dtype.type(at_zero["t"]), 0))


def equals_in_value(T: Map, sort: Any) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    assume(x == x)
    return T(x, t) == soft_threshold(x, t)


@pytest.mark.proved("SORA-PROX-1")
@formats
def test_where_form_of_the_prox_differs_from_it_in_nan_alone(sort: Any) -> None:
    prove(equals_in_value, where_form, sort)
    refute(equals_in_value, released_threshold, sort)


@pytest.mark.deep
@pytest.mark.proved("SORA-PROX-1")
def test_sign_form_of_the_prox_differs_from_it_in_the_sign_of_zero_alone() -> None:
    """In float16; in the wider formats z3 cannot tell."""
    prove(equals_in_value, sign_form, F16)
    refute(equals_in_value, released_threshold, F16)


def clip_to_the_bound_on_a_tie(x: Any, low: Any, high: Any) -> Any:
    return xp.where(x > low, xp.where(x < high, x, high), low)


def zero_is_positive(sort: Any, threshold_may_be_zero: bool) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    assume(abs(x) <= t)
    if not threshold_may_be_zero:
        assume(t > 0)
        assume(xp.zeros_like(x) < t)  # nor is it rounded to zero
    return identical(soft_threshold(x, t), xp.zeros_like(x))


@pytest.mark.proved("SORA-PROX-1")
def test_zero_is_positive_unless_clip_takes_the_bound_on_a_tie_at_threshold_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The array standard leaves open which of −0 and +0 clip returns; array-api-compat returns the element."""
    prove(zero_is_positive, F32, True)
    monkeypatch.setattr(xp, "clip", clip_to_the_bound_on_a_tie)
    prove(zero_is_positive, F32, False)
    found = refute(zero_is_positive, F32, True)
    assert found["x"] == np.float32(found["t"]) == 0


def is_odd(T: Map, sort: Any) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    assume(x == x)
    return T(-x, t) == -T(x, t)


def one_sided_threshold(x: Any, t: Any) -> Any:
    return xp.where(x > t, x - t, xp.zeros_like(x))


@pytest.mark.deep
@pytest.mark.proved("SORA-PROX-2")
def test_prox_is_odd_in_float16() -> None:
    """In the wider formats it follows from the one rounding, to nearest."""
    prove(is_odd, soft_threshold, F16)
    refute(is_odd, one_sided_threshold, F16)


def keeps_the_sign(T: Map, sort: Any) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    Tx = T(x, t)
    return both(iff(Tx > 0, x > t), iff(Tx < 0, x < -t))


@pytest.mark.proved("SORA-PROX-1")
@formats
def test_prox_keeps_the_sign_of_what_it_leaves(sort: Any) -> None:
    prove(keeps_the_sign, soft_threshold, sort)
    refute(keeps_the_sign, released_threshold, sort)


def is_monotone_between_neighbours(T: Map, sort: Any) -> Term:
    """From one non-negative float to the next one up; with oddness and transitivity that is monotone."""
    width = sort.ebits() + sort.sbits()
    bits, t = z3.BitVec("bits", width), threshold("t", sort)
    x, y = (symbolic.Array([z3.fpBVToFP(pattern, sort)], ()) for pattern in (bits, bits + 1))
    assume(both(z3.Extract(width - 1, width - 1, bits) == 0, x < y))
    return T(x, t) <= T(y, t)


@pytest.mark.deep
@pytest.mark.proved("SORA-PROX-2")
def test_prox_is_monotone_in_float16() -> None:
    prove(is_monotone_between_neighbours, soft_threshold, F16)
    refute(is_monotone_between_neighbours, released_threshold, F16)


def is_hard_after_soft(sort: Any, isolated: bool) -> Term:
    x, t = array("x", sort), threshold("t", sort)
    if not isolated:
        assume(abs(x) != t)
    shrunk = soft_threshold(x, t)
    return identical(released_threshold(x, t), xp.where(abs(shrunk) < t, xp.zeros_like(shrunk), shrunk))


@pytest.mark.proved("SORA-PROX-5", "SORA-PROX-6")
@formats
def test_released_map_is_hard_after_soft_bit_for_bit_off_its_isolated_points(sort: Any) -> None:
    prove(is_hard_after_soft, sort, False)
    found = refute(is_hard_after_soft, sort, True)
    x, t = np.array([found["x"]]), float(found["t"])
    assert abs(x[0]) == x.dtype.type(t)
    assert released_threshold(x, t)[0] == x[0], "the counterexample is one of the code, too"


def amount_is_rounded_once(sort: Any, once: bool) -> Term:
    """Or twice: λ in the gate's format, and then its product with η."""
    g, s, lr, lam = array("g", sort), array("s", sort), number("lr", sort), number("lam", sort)
    if not once:  # the place where z3 looks for its counterexample, in seconds: one rate, one gate at rest
        lr = symbolic.Number(z3.FPVal(0.1, F64))
        assume(both(g == 1, s == 0))
    new = gate_update(PAPER, g, s, Moments(None, None), 1, lr, lam)[0]
    amount = lr * lam if once else lr * (lam * (xp.zeros_like(g) + 1))
    return implies(new == new, identical(new, soft_threshold(g - lr * s, amount)))


@pytest.mark.deep
@pytest.mark.proved("SORA-GATE-2")
@pytest.mark.parametrize("sort", [F16, F32], ids=["f16", "f32"])
def test_amount_of_the_paper_rule_is_formed_as_a_python_number_and_rounded_once(sort: Any) -> None:
    """For every η, λ, gate and gradient; in float64 a Python number needs no rounding."""
    prove(amount_is_rounded_once, sort, True)
    refute(amount_is_rounded_once, sort, False)


@pytest.mark.proved("SORA-PROX-1")
@pytest.mark.parametrize("sort", [F16, F32], ids=["f16", "f32"])
def test_rounding_to_nearest_is_odd(sort: Any) -> None:
    """The one rewriting that symbolic numbers do."""
    prove(symbolic.rounding_is_odd, sort)
    refute(symbolic.rounding_is_odd, sort, z3.RTP())  # towards +∞


# --- what is proved of symbolic arrays is true of NumPy's -------------------------------------------------------------

VALUES = (0.0, -0.0, 1.0, -1.0, 0.5, 0.75, -1.5, 2.0, 6e-8, -6e-8, 0.1, 60000.0, np.nan, np.inf, -np.inf)
MAPS: tuple[Map, ...] = (
    soft_threshold,
    released_threshold,
    released_penalty,
    lambda x, t: kkt_distance(x, x - x / 3, t),
)


@pytest.mark.exact
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("T", MAPS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_symbolic_arrays_compute_what_numpy_computes(T: Map, dtype: Any) -> None:
    for t in (0.0, 0.1, 0.5, 1.0, 2.5):
        for x in (np.array([value], dtype) for value in VALUES):
            (found,) = symbolic.evaluate(T(symbolic.constant(x), t))
            wanted = np.asarray(T(x, t)).reshape(-1)[0]
            assert found.dtype == wanted.dtype
            assert (np.isnan(found) and np.isnan(wanted)) or found.tobytes() == wanted.tobytes(), (x, t)


@pytest.mark.exact
@pytest.mark.parametrize("T", MAPS)
def test_symbolic_reals_compute_what_the_rationals_do(T: Map) -> None:
    for t in (Fraction(0), Fraction(1, 3), Fraction(1)):
        x = [Fraction(k, 6) for k in range(-13, 14)]
        assert (
            symbolic.evaluate(T(symbolic.constant(np.array(x, object)), t))
            == np.asarray(T(exact(x), t)).ravel().tolist()
        )


# --- the prover and its arrays ---------------------------------------------------------------------------------------


def is_monotone(sort: Any) -> Term:
    x, y, t = array("x", sort), array("y", sort), threshold("t", sort)
    assume(x <= y)
    return soft_threshold(x, t) <= soft_threshold(y, t)


def test_prover_fails_where_z3_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "TIMEOUT_MS", 50)
    with pytest.raises(AssertionError, match="z3 cannot tell"):
        prove(is_monotone, F64)


def test_symbolic_arrays_of_two_kinds_do_not_mix() -> None:
    with pytest.raises(TypeError, match="expected one of each"):
        array("x", F32) + array("y", F64)
    with pytest.raises(TypeError, match="expected one of each"):
        array("x", REAL, 2) + array("y", REAL, 3)
