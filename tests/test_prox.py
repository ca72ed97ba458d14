"""SORA-PROX: the L1 prox and the released map, by their laws."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Space, all_equal, array_of, dyadics, exact, rationals, rounded, thresholds

from sora_ref import SoRAError, kkt_distance, l1_value, released_threshold, soft_threshold
from sora_ref.prox import prox_kkt_distance, released_penalty

F32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
F64 = st.floats(allow_nan=False, allow_infinity=False)
DYADIC_XI = st.integers(0, 16).map(lambda k: Fraction(k, 4))
DTYPES: tuple[Any, ...] = (np.float32, np.float64)


def soft(x: Any, xi: Any) -> Any:
    return soft_threshold(exact([x]), xi)[0]


@pytest.mark.exact("SORA-PROX-2")
@given(rationals, rationals, thresholds)
def test_prox_is_odd_monotone_and_firmly_non_expansive_over_q(x: Fraction, y: Fraction, xi: Fraction) -> None:
    Tx, Ty = soft(x, xi), soft(y, xi)
    assert soft(-x, xi) == -Tx
    assert (x - y) * (Tx - Ty) >= 0
    assert (Tx - Ty) ** 2 <= (Tx - Ty) * (x - y)


@pytest.mark.exact("SORA-PROX-1")
@given(array_of((5,)), DYADIC_XI)
def test_prox_has_the_dead_zone_and_moves_the_rest_by_xi(xp: Space, x: Any, xi: Fraction) -> None:
    Tx = xp.fractions(soft_threshold(xp.asarray(x), xp.number(xi)))
    for before, after in zip(x, Tx, strict=True):
        assert (after == 0) == (abs(before) <= xi)
        assert after == 0 or (abs(before) - abs(after) == xi and before * after > 0)


@pytest.mark.exact("SORA-PROX-2")
@given(rationals, thresholds, thresholds)
def test_prox_steps_add_up(x: Fraction, a: Fraction, b: Fraction) -> None:
    assert soft(soft(x, b), a) == soft(x, a + b)


@pytest.mark.exact("SORA-PROX-2")
@given(array_of((5,)), DYADIC_XI)
def test_prox_satisfies_moreau_identity(xp: Space, x: Any, xi: Fraction) -> None:
    Tx = xp.fractions(soft_threshold(xp.asarray(x), xp.number(xi)))
    assert all_equal(x, Tx + np.array([min(max(v, -xi), xi) for v in x], object))


@pytest.mark.exact("SORA-PROX-2", "SORA-PROX-3")
@given(rationals, thresholds, rationals)
def test_prox_is_optimal_and_solves_its_problem(x: Fraction, xi: Fraction, u: Fraction) -> None:
    Tx = soft(x, xi)
    assert x - Tx == xi * (1 if Tx > 0 else -1) if Tx else abs(x) <= xi  # x − T ∈ ξ∂|T|
    assert xi * abs(Tx) + (Tx - x) ** 2 / 2 <= xi * abs(u) + (u - x) ** 2 / 2


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.parametrize("xi", [0, 0.0, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prox_keeps_nan_and_infinities_and_its_zero_is_positive(floats: Space, dtype: str, xi: Any) -> None:
    x = [np.nan, np.inf, -np.inf, 0.0, -0.0, xi, -xi, xi / 2, -xi / 2] * 3
    out = floats.to_numpy(soft_threshold(floats.asarray(x, dtype), xi))
    assert str(out.dtype) == dtype
    for before, after in zip(x, out.tolist(), strict=True):
        if np.isnan(before) or np.isinf(before):
            assert str(after) == str(before)
        else:
            assert (after, bool(np.signbit(after))) == (0.0, False)


@pytest.mark.exact("SORA-PROX-1")
@given(st.data(), st.sampled_from(DTYPES))
def test_prox_rounds_once(data: st.DataObject, dtype: Any) -> None:
    """Correctly rounded difference of x and the threshold, itself rounded once to the dtype of x."""
    numbers = F32 if dtype is np.float32 else F64
    x = dtype(data.draw(numbers | st.sampled_from([1e-45, 1.5, 0.1])))
    xi = abs(data.draw(numbers | F64.filter(lambda v: abs(v) < 1e38)))
    near = Fraction(float(rounded(Fraction(xi), dtype)))
    value = Fraction(float(x))
    assume(abs(value) <= near or abs(value) - near < Fraction(float(np.finfo(dtype).max)))
    out = soft_threshold(np.array([x], dtype), xi)[0]
    assert out.dtype == dtype
    assert out == rounded(value - min(max(value, -near), near), dtype)


@pytest.mark.exact("SORA-PROX-2")
@given(F64, F64, F64.map(abs))
def test_prox_is_odd_and_monotone_in_floats(x: float, y: float, xi: float) -> None:
    a, b = np.array([min(x, y), -x]), np.array([max(x, y), x])
    Ta, Tb = soft_threshold(a, xi), soft_threshold(b, xi)
    assert Ta[0] <= Tb[0]
    assert Ta[1] == -Tb[1]


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.parametrize("function", [soft_threshold, released_threshold, released_penalty])
@pytest.mark.parametrize("xi", [-1.0, float("nan"), float("inf"), -5e-324])
def test_threshold_that_is_no_threshold_is_refused(floats: Space, function: Any, xi: float) -> None:
    with pytest.raises(SoRAError, match=r"threshold is .*: expected"):
        function(floats.asarray([1.0]), xi)


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.parametrize("function", [soft_threshold, released_threshold])
def test_threshold_that_overflows_the_dtype_is_refused(floats: Space, function: Any) -> None:
    with pytest.raises(SoRAError, match=r"threshold 1e\+39 overflows .*float32: expected at most"):
        function(floats.asarray([1.0], "float32"), 1e39)
    assert floats.to_numpy(function(floats.asarray([1.0]), 1e39))[0] == 0


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.parametrize("function", [soft_threshold, released_threshold])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threshold_may_be_the_largest_number_of_the_dtype_and_no_more(floats: Space, function: Any, dtype: str) -> None:
    x, largest = floats.asarray([1.0], dtype), float(np.finfo(dtype).max)
    assert floats.to_numpy(function(x, largest)).tolist() == [0.0]
    beyond = int(largest) + 1  # an integer, for float64 has none
    limit = re.escape(str(largest))
    with pytest.raises(SoRAError, match=rf"^threshold {beyond} overflows \S*{dtype}: expected at most {limit}$"):
        function(x, beyond)


def test_threshold_array_must_have_the_shape_of_x(floats: Space) -> None:
    with pytest.raises(SoRAError, match=r"threshold has shape \(2,\): expected \(3,\)"):
        soft_threshold(floats.asarray([1.0, 2.0, 3.0]), floats.asarray([1.0, 2.0]))


@pytest.mark.exact("SORA-PROX-1", "SORA-GATE-3")
@given(array_of((4,)), array_of((4,), DYADIC_XI))
def test_prox_with_a_diagonal_of_thresholds_acts_per_coordinate(xp: Space, x: Any, xi: Any) -> None:
    out = xp.fractions(soft_threshold(xp.asarray(x), xp.asarray(xi)))
    assert all_equal(out, [soft(v, t) for v, t in zip(x, xi, strict=True)])


@pytest.mark.exact("SORA-PROX-5")
@given(array_of((6,)), DYADIC_XI)
def test_released_map_is_zero_inside_two_xi_soft_outside_and_stays_at_its_isolated_points(
    xp: Space, x: Any, xi: Fraction
) -> None:
    out = xp.fractions(released_threshold(xp.asarray(x), xp.number(xi)))
    for before, after in zip(x, out, strict=True):
        sign = 1 if before > 0 else -1
        if abs(before) == xi:
            assert after == before
        else:
            assert after == (before - sign * xi if abs(before) >= 2 * xi else 0)


@pytest.mark.exact("SORA-PROX-5")
def test_released_map_differs_from_the_prox_exactly_between_xi_and_two_xi(xp: Space) -> None:
    x, xi = exact([Fraction(k, 8) for k in range(-24, 25)]), Fraction(1)
    plain, released = (xp.fractions(f(xp.asarray(x), xp.number(xi))) for f in (soft_threshold, released_threshold))
    assert [v for v, a, b in zip(x, plain, released, strict=True) if a != b] == [v for v in x if xi <= abs(v) < 2 * xi]


@pytest.mark.exact("SORA-PROX-5")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(data=st.data())
def test_released_map_is_hard_after_soft_off_its_isolated_points(dtype: Any, data: st.DataObject) -> None:
    width: Any = np.dtype(dtype).itemsize * 8
    numbers = st.floats(width=width, min_value=-1000, max_value=1000)
    xi = data.draw(st.floats(width=width, min_value=0, max_value=500))
    x = np.array(data.draw(st.lists(numbers | st.sampled_from([xi, 2 * xi, -2 * xi, 1.5 * xi]), min_size=1)), dtype)
    x = x[np.abs(x) != dtype(xi)]
    shrunk = soft_threshold(x, xi)
    assert all_equal(released_threshold(x, xi), np.where(np.abs(shrunk) >= dtype(xi), shrunk, dtype(0)))


@pytest.mark.exact("SORA-PROX-5")
def test_released_map_keeps_nan_and_infinities(floats: Space) -> None:
    out = floats.to_numpy(released_threshold(floats.asarray([np.nan, np.inf, -np.inf]), 0.5))
    assert [str(v) for v in out.tolist()] == ["nan", "inf", "-inf"]


def objective(grid: Any, x: Fraction, xi: Fraction) -> Any:
    return released_penalty(grid, xi) + (grid - x) ** 2 / 2


@pytest.mark.exact("SORA-PROX-6")
@pytest.mark.parametrize("xi", [Fraction(1, 2), Fraction(1), Fraction(9, 8)])
def test_released_map_minimises_the_problem_of_its_penalty_off_its_isolated_points(xi: Fraction) -> None:
    grid = exact([Fraction(k, 16) for k in range(-64, 65)])
    for x in exact([Fraction(k, 16) for k in range(-60, 61)]):
        u = exact(released_threshold(exact([x]), xi))  # NumPy writes int zeros, and 0/2 would be a float
        best = min(objective(grid, x, xi))
        assert (objective(u, x, xi)[0] == best) == (abs(x) != xi)


@pytest.mark.exact("SORA-PROX-6")
def test_released_penalty_is_xi_l1_plus_mcp(xp: Space) -> None:
    xi = Fraction(3, 2)
    u: Any = exact([Fraction(k, 4) for k in range(-12, 13)])
    mcp = exact([xi * abs(v) - v * v / 2 if abs(v) <= xi else xi * xi / 2 for v in u])
    assert all_equal(xp.fractions(released_penalty(xp.asarray(u), xp.number(xi))), abs(u) * xi + mcp)


@pytest.mark.exact("SORA-PROX-6")
def test_at_two_xi_the_minimisers_fill_the_interval_from_zero_to_xi() -> None:
    xi, grid = Fraction(1), exact([Fraction(k, 8) for k in range(-24, 25)])
    values = objective(grid, 2 * xi, xi)
    assert [u for u, v in zip(grid, values, strict=True) if v == min(values)] == [u for u in grid if 0 <= u <= xi]


@pytest.mark.exact("SORA-PROX-6")
def test_released_map_is_not_monotone_so_it_is_no_prox(xp: Space) -> None:
    at, above = xp.fractions(released_threshold(xp.asarray([1, Fraction(5, 4)]), xp.number(1)))
    assert (at, above) == (1, 0)


@pytest.mark.exact("SORA-PROX-3")
@given(array_of((3,), rationals), array_of((3,), rationals), thresholds)
def test_prox_kkt_distance_is_zero_exactly_at_the_solution(x: Any, u: Any, xi: Fraction) -> None:
    solution = soft_threshold(x, xi)
    assert prox_kkt_distance(x, solution, xi) == 0
    assert (prox_kkt_distance(x, u, xi) == 0) == all_equal(u, solution)


@pytest.mark.exact("SORA-PROX-4")
@given(array_of((4,)), array_of((4,)), DYADIC_XI)
def test_kkt_distance_is_the_largest_distance_to_the_subdifferential(
    xp: Space, g: Any, grad: Any, lam: Fraction
) -> None:
    """Distance of −grad_i to λ∂|g_i|, a point or the interval [−λ, λ]: measured by projecting on it."""
    ends = [(lam, lam) if v > 0 else (-lam, -lam) if v < 0 else (-lam, lam) for v in g]
    expected = max(abs(-d - min(max(-d, low), high)) for d, (low, high) in zip(grad, ends, strict=True))
    found = kkt_distance(xp.asarray(g), xp.asarray(grad), xp.number(lam))
    assert xp.fractions(found).item() == expected


@pytest.mark.exact("SORA-PROX-4")
@given(array_of((3,), rationals), array_of((3,), rationals), thresholds, st.fractions(Fraction(1, 9), 2))
def test_fixed_points_of_the_prox_gradient_map_are_the_stationary_points(
    g: Any, grad: Any, lam: Fraction, eta: Fraction
) -> None:
    fixed = all_equal(soft_threshold(g - eta * grad, eta * lam), g)
    assert fixed == (kkt_distance(g, grad, lam) == 0)
    tight = np.array([-lam * (1 if v > 0 else -1) if v else lam / 2 for v in g], object)
    assert all_equal(soft_threshold(g - eta * tight, eta * lam), g)


@pytest.mark.exact("SORA-PROX-4")
def test_kkt_distance_of_no_gates_is_zero_and_nan_is_never_hidden(floats: Space) -> None:
    empty = floats.asarray(np.zeros(0))
    assert float(floats.to_numpy(kkt_distance(empty, empty, 0.1))) == 0
    for g, grad in (([np.nan, 1.0], [0.0, 0.0]), ([0.0, 1.0], [np.nan, 0.0])):
        assert np.isnan(floats.to_numpy(kkt_distance(floats.asarray(g), floats.asarray(grad), 0.1)))


@pytest.mark.exact("SORA-PROX-4")
@given(st.lists(array_of((3,), dyadics), max_size=3), DYADIC_XI)
def test_l1_value_is_a_sum_over_modules_not_normalised(xp: Space, gates: list[Any], lam: Fraction) -> None:
    found = l1_value((xp.asarray(g) for g in gates), xp.number(lam))
    expected = lam * sum((abs(v) for g in gates for v in g), Fraction(0))
    assert (xp.fractions(found).item() if gates else found) == expected


@pytest.mark.parametrize("lam", [-1.0, float("nan")])
def test_l1_value_refuses_a_lambda_that_is_none(lam: float) -> None:
    with pytest.raises(SoRAError, match=r"lambda is .*: expected"):
        l1_value([], lam)


def test_kkt_distance_refuses_a_gradient_of_another_shape_or_dtype(floats: Space) -> None:
    g = floats.asarray([1.0, 2.0])
    with pytest.raises(SoRAError, match=r"gradient has shape \(3,\): expected \(2,\)"):
        kkt_distance(g, floats.asarray([1.0, 2.0, 3.0]), 0.5)
    sentence = r"^mixed dtypes \(g \S*float64, gradient \S*float32\): expected one dtype for all$"
    with pytest.raises(SoRAError, match=sentence):
        kkt_distance(g, floats.asarray([1.0, 2.0], "float32"), 0.5)
