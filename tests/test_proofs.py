"""Theorems about the proximal map and the released one, for all reals, of the very functions that train.

Every law is stated once and proved of the function; a control beside it, a near rival or a stronger claim, must be
refuted by the same prover.  t ≥ 0 is not assumed here: the code requires it, and what it requires is the hypothesis.
In n dimensions the map acts coordinate by coordinate (`acts_on_each_coordinate_alone`), and the objectives, distances
and inequalities here are sums or maxima over coordinates; so one dimension stands for all.  Two are proved directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import z3
from strategies import exact
from symbolic import Array, Term, array, assume, both, identical, iff, implies, prove, refute, threshold, xp

from sora_ref import kkt_distance, released_threshold, soft_threshold
from sora_ref.prox import prox_kkt_distance, released_penalty

Map = Callable[[Any, Any], Any]


# --- rivals: maps a reader might take for the soft threshold ---------------------------------------------------------


def hard_threshold(x: Any, t: Any) -> Any:
    return xp.where(abs(x) > t, x, xp.zeros_like(x))


def doubled_threshold(x: Any, t: Any) -> Any:
    return soft_threshold(x, 2 * t)


def one_sided_threshold(x: Any, t: Any) -> Any:
    return x - xp.clip(x, xp.zeros_like(x), t)


def overshooting_threshold(x: Any, t: Any) -> Any:
    return x - 3 * xp.clip(x, -t, t)


def group_threshold(x: Any, t: Any) -> Any:
    """Keeps or drops all coordinates together."""
    return xp.where(xp.max(abs(x) - t) > 0, x, xp.zeros_like(x))


# --- SORA-PROX: the soft threshold -----------------------------------------------------------------------------------


def prox_objective(u: Any, x: Any, t: Any) -> Any:
    return t * xp.sum(abs(u)) + xp.sum((u - x) * (u - x)) / 2


def leaves_every_other_point_behind_by_half_its_squared_distance(T: Map, size: int) -> Term:
    x, u, t = array("x", size=size), array("u", size=size), threshold("t")
    Tx = T(x, t)
    return prox_objective(u, x, t) >= prox_objective(Tx, x, t) + xp.sum((u - Tx) * (u - Tx)) / 2


def is_the_unique_minimiser(T: Map, size: int) -> Term:
    x, u, t = array("x", size=size), array("u", size=size), threshold("t")
    Tx = T(x, t)
    return iff(identical(u, Tx), prox_objective(u, x, t) <= prox_objective(Tx, x, t))


@pytest.mark.proved("SORA-PROX-2")
@pytest.mark.parametrize("size", [1, 2])
def test_prox_is_the_unique_global_minimiser_of_its_problem(size: int) -> None:
    for law in (leaves_every_other_point_behind_by_half_its_squared_distance, is_the_unique_minimiser):
        prove(law, soft_threshold, size)
        for rival in (hard_threshold, doubled_threshold, released_threshold):
            refute(law, rival, size)


def acts_on_each_coordinate_alone(T: Map) -> Term:
    x, t = array("x", size=2), array("t", size=2)
    alone = [T(Array([a], ()), Array([b], ())).term for a, b in zip(x.terms, t.terms, strict=True)]
    return identical(T(x, t), Array(alone, (2,)))


@pytest.mark.proved("SORA-PROX-2")
@pytest.mark.parametrize("T", [soft_threshold, released_threshold])
def test_maps_act_on_each_coordinate_alone(T: Map) -> None:
    prove(acts_on_each_coordinate_alone, T)
    refute(acts_on_each_coordinate_alone, group_threshold)


def is_firmly_non_expansive(T: Map) -> Term:
    x, y, t = array("x"), array("y"), threshold("t")
    d = T(x, t) - T(y, t)
    return d * d <= d * (x - y)


def is_non_expansive(T: Map) -> Term:
    x, y, t = array("x"), array("y"), threshold("t")
    return abs(T(x, t) - T(y, t)) <= abs(x - y)


def is_monotone(T: Map) -> Term:
    x, y, t = array("x"), array("y"), threshold("t")
    assume(x <= y)
    return T(x, t) <= T(y, t)


def is_odd(T: Map) -> Term:
    x, t = array("x"), threshold("t")
    return T(-x, t) == -T(x, t)


@pytest.mark.proved("SORA-PROX-2")
@pytest.mark.parametrize(
    ("law", "rival"),
    [
        (is_firmly_non_expansive, hard_threshold),
        (is_firmly_non_expansive, overshooting_threshold),
        (is_non_expansive, released_threshold),
        (is_monotone, overshooting_threshold),
        (is_odd, one_sided_threshold),
    ],
)
def test_prox_is_odd_monotone_and_firmly_non_expansive(law: Callable[[Map], Term], rival: Map) -> None:
    prove(law, soft_threshold)
    refute(law, rival)


def steps_add_up(T: Map) -> Term:
    x, a, b = array("x"), threshold("a"), threshold("b")
    return T(T(x, b), a) == T(x, a + b)


@pytest.mark.proved("SORA-PROX-2")
def test_prox_steps_add_up() -> None:
    prove(steps_add_up, soft_threshold)
    refute(steps_add_up, hard_threshold)


def rest_is_the_nearest_point_of_the_dual_ball(T: Map) -> Term:
    """Moreau: x − T(x) is the projection of x on [−t, t]."""
    x, p, t = array("x"), array("p"), threshold("t")
    rest = x - T(x, t)
    inside = both(-t <= p, p <= t)
    nearest = implies(inside, (x - rest) * (x - rest) <= (x - p) * (x - p))
    return both(-t <= rest, rest <= t, nearest, x == T(x, t) + xp.clip(x, -t, t))


@pytest.mark.proved("SORA-PROX-2")
def test_prox_satisfies_moreau_identity() -> None:
    prove(rest_is_the_nearest_point_of_the_dual_ball, soft_threshold)
    refute(rest_is_the_nearest_point_of_the_dual_ball, hard_threshold)


def is_equation_11_as_printed(T: Map) -> Term:
    x, t = array("x"), threshold("t")
    Tx = T(x, t)
    return both(
        implies(x > t, Tx == x - t),
        implies(both(-t < x, x <= t), Tx == 0),
        implies(x <= -t, Tx == x + t),
    )


def is_zero_exactly_up_to_its_threshold(T: Map) -> Term:
    x, t = array("x"), threshold("t")
    return iff(T(x, t) == 0, abs(x) <= t)


def agrees_with_its_other_forms(T: Map) -> Term:
    x, t = array("x"), threshold("t")
    zero = xp.zeros_like(x)
    by_cases = xp.where(abs(x) > t, x - t * xp.sign(x), zero)
    by_sign = xp.sign(x) * xp.maximum(abs(x) - t, zero)
    return both(T(x, t) == by_cases, T(x, t) == by_sign)


@pytest.mark.proved("SORA-PROX-1")
@pytest.mark.parametrize(
    "law", [is_equation_11_as_printed, is_zero_exactly_up_to_its_threshold, agrees_with_its_other_forms]
)
def test_prox_is_the_map_of_the_paper_in_each_of_its_forms(law: Callable[[Map], Term]) -> None:
    prove(law, soft_threshold)
    refute(law, doubled_threshold)
    refute(law, released_threshold)


def distance_vanishes_exactly_at(T: Map, size: int) -> Term:
    x, u, t = array("x", size=size), array("u", size=size), threshold("t")
    return iff(prox_kkt_distance(x, u, t) == 0, identical(u, T(x, t)))


@pytest.mark.proved("SORA-PROX-3")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_prox_kkt_distance_is_zero_exactly_at_the_solution(size: int) -> None:
    prove(distance_vanishes_exactly_at, soft_threshold, size)
    refute(distance_vanishes_exactly_at, released_threshold, size)


def measures_the_nearest_subgradient(distance: Callable[[Any, Any, Any], Any]) -> Term:
    """min over q ∈ λ∂|g| of |∇ + q|: no q is nearer, and the clipped one is as near."""
    g, grad, q, lam = array("g", size=1), array("grad", size=1), array("q", size=1), threshold("lam")
    found = distance(g, grad, lam)
    most = xp.zeros_like(g) + lam
    low, high = xp.where(g > 0, most, -most), xp.where(g < 0, -most, most)
    nearest = xp.clip(-grad, low, high)
    return both(implies(both(low <= q, q <= high), found <= abs(grad + q)), found == abs(grad + nearest))


@pytest.mark.proved("SORA-PROX-3", "SORA-PROX-4")
def test_kkt_distance_is_the_distance_to_the_subdifferential() -> None:
    prove(measures_the_nearest_subgradient, kkt_distance)
    refute(measures_the_nearest_subgradient, lambda g, grad, lam: xp.max(abs(grad + lam * xp.sign(g))))


# --- SORA-PROX-5, 6: the released map --------------------------------------------------------------------------------


def is_zero_inside_two_t_soft_beyond_and_stays_at_t(T: Map) -> Term:
    x, t = array("x"), threshold("t")
    Tx = T(x, t)
    return both(
        implies(abs(x) == t, Tx == x),
        implies(both(abs(x) != t, abs(x) < 2 * t), Tx == 0),
        implies(both(abs(x) != t, abs(x) >= 2 * t), Tx == x - t * xp.sign(x)),
    )


@pytest.mark.proved("SORA-PROX-5")
def test_released_map_is_zero_inside_two_xi_soft_beyond_and_stays_at_xi() -> None:
    prove(is_zero_inside_two_t_soft_beyond_and_stays_at_t, released_threshold)
    refute(is_zero_inside_two_t_soft_beyond_and_stays_at_t, soft_threshold)
    refute(is_zero_inside_two_t_soft_beyond_and_stays_at_t, hard_after_soft)


def hard_after_soft(x: Any, t: Any) -> Any:
    shrunk = soft_threshold(x, t)
    return xp.where(abs(shrunk) >= t, shrunk, xp.zeros_like(x))


def equals_off_t(T: Map, other: Map) -> Term:
    x, t = array("x"), threshold("t")
    assume(abs(x) != t)
    return T(x, t) == other(x, t)


@pytest.mark.proved("SORA-PROX-6")
def test_released_map_is_hard_after_soft_off_its_isolated_points() -> None:
    prove(equals_off_t, released_threshold, hard_after_soft)
    refute(equals_off_t, released_threshold, soft_threshold)


def differ_exactly_where(low: int, high: int) -> Term:
    x, t = array("x"), threshold("t")
    return iff(released_threshold(x, t) != soft_threshold(x, t), both(low * t <= abs(x), abs(x) < high * t))


@pytest.mark.proved("SORA-PROX-5")
def test_released_map_differs_from_the_prox_exactly_between_xi_and_two_xi() -> None:
    prove(differ_exactly_where, 1, 2)
    refute(differ_exactly_where, 1, 3)
    refute(differ_exactly_where, 0, 2)
    found = refute(are_equal, released_threshold, soft_threshold)
    x, t = exact([found["x"]]), found["t"]
    assert released_threshold(x, t)[0] != soft_threshold(x, t)[0], "the counterexample is one of the code, too"


def are_equal(T: Map, other: Map) -> Term:
    x, t = array("x"), threshold("t")
    return T(x, t) == other(x, t)


def minimises_its_penalty(T: Map, isolated: bool) -> Term:
    x, u, t = array("x"), array("u"), threshold("t")
    if not isolated:
        assume(abs(x) != t)
    objective = [released_penalty(v, t) + (v - x) * (v - x) / 2 for v in (T(x, t), u)]
    return objective[0] <= objective[1]


@pytest.mark.proved("SORA-PROX-6")
def test_released_map_is_a_prox_of_its_penalty_off_its_isolated_points() -> None:
    prove(minimises_its_penalty, released_threshold, False)
    refute(minimises_its_penalty, soft_threshold, False)
    found = refute(minimises_its_penalty, released_threshold, True)
    assert abs(found["x"]) == found["t"] > 0


def is_l1_plus_mcp(penalty: Map) -> Term:
    """MCP_{t,1}(u) = ∫₀^|u| max(t − s, 0) ds."""
    u, t = array("u"), threshold("t")
    reach = xp.clip(abs(u), xp.zeros_like(u), t)
    return penalty(u, t) == t * abs(u) + reach * (t - reach / 2)


@pytest.mark.proved("SORA-PROX-6")
def test_released_penalty_is_l1_plus_mcp() -> None:
    prove(is_l1_plus_mcp, released_penalty)
    refute(is_l1_plus_mcp, lambda u, t: t * abs(u))


def is_convex(penalty: Map) -> Term:
    u, v, t = array("u"), array("v"), threshold("t")
    return penalty((u + v) / 2, t) <= (penalty(u, t) + penalty(v, t)) / 2


def bulges_between_zero_and_t(penalty: Map) -> Term:
    u, t = array("u"), threshold("t")
    assume(t > 0)
    assume(u == t)
    return penalty(u / 2, t) > (penalty(0 * u, t) + penalty(u, t)) / 2


def l1_penalty(u: Any, t: Any) -> Any:
    return t * abs(u)


@pytest.mark.proved("SORA-PROX-6")
def test_released_penalty_is_convex_for_no_threshold_above_zero() -> None:
    prove(is_convex, l1_penalty)
    found = refute(is_convex, released_penalty)
    u, v, t = exact([found["u"]]), exact([found["v"]]), found["t"]
    ends = released_penalty(u, t) + released_penalty(v, t)
    assert 2 * released_penalty((u + v) / 2, t)[0] > ends[0], "the counterexample is one of the code, too"
    prove(bulges_between_zero_and_t, released_penalty)
    refute(bulges_between_zero_and_t, l1_penalty)


def is_the_prox_of_no_penalty(T: Map) -> Term:
    """Whatever φ is at T(x) and T(y), one of them beats the other at the other's own point."""
    x, y, t = array("x"), array("y"), threshold("t")
    at_x, at_y = array("phi_at_x"), array("phi_at_y")
    assume(both(t > 0, x == t, 2 * y == 3 * t))
    Tx, Ty = T(x, t), T(y, t)
    x_is_served = at_x + (Tx - x) * (Tx - x) / 2 <= at_y + (Ty - x) * (Ty - x) / 2
    y_is_served = at_y + (Ty - y) * (Ty - y) / 2 <= at_x + (Tx - y) * (Tx - y) / 2
    return z3.Not(both(x_is_served, y_is_served))


def is_monotone_off_t(T: Map) -> Term:
    x, y, t = array("x"), array("y"), threshold("t")
    assume(both(abs(x) != t, abs(y) != t, x <= y))
    return T(x, t) <= T(y, t)


@pytest.mark.proved("SORA-PROX-6")
def test_released_map_is_not_monotone_and_the_prox_of_nothing() -> None:
    prove(is_monotone_off_t, released_threshold)
    found = refute(is_monotone, released_threshold)
    ends = released_threshold(exact([found["x"], found["y"]]), found["t"])
    assert found["x"] <= found["y"], "the counterexample is one of the code, too"
    assert ends[0] > ends[1]
    prove(is_the_prox_of_no_penalty, released_threshold)
    refute(is_the_prox_of_no_penalty, hard_after_soft)


# --- the prover itself -----------------------------------------------------------------------------------------------


def is_vacuous() -> Term:
    x = array("x")
    assume(both(x > 0, x < 0))
    return x == 1


def branches() -> Term:
    return array("x") >= 0 if threshold("t") >= 0 else z3.BoolVal(False)


def test_prover_fails_on_what_is_false_or_vacuous_and_refuses_to_branch() -> None:
    with pytest.raises(AssertionError, match=r"is_monotone fails at \{.*'t': Fraction"):
        prove(is_monotone, released_threshold)
    with pytest.raises(AssertionError, match="is_monotone holds: expected a counterexample"):
        refute(is_monotone, soft_threshold)
    with pytest.raises(AssertionError, match="is_vacuous is vacuous"):
        prove(is_vacuous)
    with pytest.raises(TypeError, match="no bool"):
        prove(branches)
