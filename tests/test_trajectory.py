"""SORA-STEP as a whole over the rationals: the gate's step, revival, and trajectories against an independent loop.

Then, in floats, the control without the gates' gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Exact, all_equal, array_of, exact, inner, keys, loop_forward, rationals, thresholds

from sora_ref import (
    GATE_RULES,
    PAPER,
    RELEASED,
    SGD,
    Rates,
    Recipe,
    SoRA,
    TrainState,
    combine_microbatches,
    gate_update,
    initial_state,
    kept_components,
    prune,
    released_threshold,
    soft_threshold,
    sora_linear_backward,
    sora_linear_forward,
    training_step,
    zero_moments,
)
from sora_ref.backends import get
from sora_ref.backends.exact_backend import Rational
from sora_ref.schedules import linear_warmup_decay

to_host = get("exact").to_host
NAMES = ("A", "g", "B")
nonzero = rationals.filter(bool)


def adapter_in(state: TrainState, s: Any) -> SoRA:
    A, g, B = (state.params[f"m.sora_{name}"] for name in NAMES)
    return SoRA(A, g, B, s)


def problem(key: int, in_: int = 2, out: int = 1, r: int = 2, n: int = 3) -> dict[str, Exact]:
    rng = np.random.default_rng(key)
    shapes = {"x": (n, in_), "W0": (out, in_), "b": (out,), "A": (r, in_), "g": (r,), "B": (out, r), "y": (n, out)}
    return {name: exact(rng.integers(-3, 4, shape) / 4) for name, shape in shapes.items()}


# --- trajectories --------------------------------------------------------------------------------------------------

S, DECAY, LAM = Rational(2), Rational(1, 4), Rational(1, 2)
STEPS = 4
# η_t by the schedules' linear form, which keeps rationals rational; the gates have a peak of their own.
ETA, GATE_ETA = (linear_warmup_decay(peak, STEPS, 2) for peak in (Rational(1, 4), Rational(1, 2)))  # type: ignore[arg-type]


def rates(t: int) -> Rates:
    return Rates(ETA(t), GATE_ETA(t), LAM)  # type: ignore[arg-type]


def gradients(p: dict[str, Exact], state: TrainState, rows: slice) -> dict[str, Exact]:
    """Of ½‖y − Y‖² summed over these rows."""
    y, cache = sora_linear_forward(p["x"][rows], p["W0"], p["b"], adapter_in(state, S))
    grads = sora_linear_backward(y - p["y"][rows], cache)
    return {f"m.sora_{name}": to_host(getattr(grads, f"d{name}")) for name in NAMES}


def trajectory(
    p: dict[str, Exact], steps: int = STEPS, cuts: Sequence[int] = (1,), decay: Any = DECAY
) -> Iterator[TrainState]:
    """The states before the first step and after each, by the specification."""
    recipe = Recipe(SGD(weight_decay=decay), PAPER, decayed=lambda name: True)
    ends = [0, *cuts, len(p["x"])]
    state = initial_state({f"m.sora_{name}": p[name] for name in NAMES})
    yield state
    for t in range(1, steps + 1):
        summed = [gradients(p, state, slice(*rows)) for rows in pairwise(ends)]
        state, _ = training_step(state, combine_microbatches(summed, len(p["x"])), rates(t), recipe)
        yield state


def loss(p: dict[str, Exact], theta: dict[str, Any]) -> Fraction:
    """½‖y − Y‖² over all rows, by loops."""
    error = loop_forward(p["x"], p["W0"], p["b"], theta["A"], theta["g"], theta["B"], S) - p["y"]
    return inner(error, error) / 2


def loop_trajectory(p: dict[str, Exact], steps: int) -> Iterator[dict[str, Exact]]:
    """The same by loops: the loss is quadratic in each coordinate, so its central difference is its derivative."""
    theta = {name: p[name] for name in NAMES}
    yield theta
    for t in range(1, steps + 1):
        eta, gate_eta = (peak * min(Fraction(t, 2), Fraction(5 - t, 3)) for peak in (Fraction(1, 4), Fraction(1, 2)))
        moved = {name: value.copy() for name, value in theta.items()}
        for name, value in theta.items():
            for index in np.ndindex(value.shape):
                ahead, behind = ({**theta, name: value.copy()} for _ in range(2))
                ahead[name][index] += 1
                behind[name][index] -= 1
                slope = (loss(p, ahead) - loss(p, behind)) / 2 / len(p["x"])
                if name == "g":
                    v, cut = value[index] - gate_eta * slope, gate_eta * LAM
                    moved[name][index] = v - cut if v > cut else v + cut if v < -cut else Fraction(0)
                else:
                    moved[name][index] = value[index] - eta * slope - eta * DECAY * value[index]
        theta = moved
        yield theta


@pytest.mark.exact(
    "SORA-STEP-1", "SORA-STEP-2", "SORA-STEP-6", "SORA-STEP-7", "SORA-STEP-8", "SORA-GATE-2", "SORA-OPT-1"
)
@given(key=keys, steps=st.integers(1, STEPS), cuts=st.lists(st.integers(0, 3), max_size=2).map(sorted))
def test_trajectory_equals_an_independent_loop(key: int, steps: int, cuts: list[int]) -> None:
    p = problem(key)
    for state, theta in zip(trajectory(p, steps, cuts), loop_trajectory(p, steps), strict=True):
        for name in NAMES:
            assert all_equal(to_host(state.params[f"m.sora_{name}"]), theta[name]), name


# One gate closes early with the first key and late with the next; with the last, one closes and one opens again.
LONG = (0, 9, 13)


@cache
def long_run(key: int) -> tuple[TrainState, ...]:
    return tuple(trajectory(problem(key)))


@pytest.mark.exact("SORA-GATE-1", "SORA-REVIVAL-1")
def test_gates_close_and_open_along_the_long_trajectories() -> None:
    moves = {
        (bool(before), bool(after))
        for key in LONG
        for earlier, later in pairwise(long_run(key))
        for before, after in zip(earlier.params["m.sora_g"], later.params["m.sora_g"], strict=True)
    }
    assert moves == {(True, True), (True, False), (False, False), (False, True)}


@pytest.mark.exact("SORA-STEP-1", "SORA-STEP-2", "SORA-STEP-6", "SORA-STEP-7", "SORA-REVIVAL-1", "SORA-PRUNE-2")
@pytest.mark.parametrize("key", LONG)
def test_long_trajectory_equals_its_loop_and_pruning_its_end_keeps_the_loss(key: int) -> None:
    p = problem(key)
    for state, theta in zip(long_run(key), loop_trajectory(p, STEPS), strict=True):
        assert all(all_equal(to_host(state.params[f"m.sora_{name}"]), theta[name]) for name in NAMES)
        adapter = adapter_in(state, S)
        pruned = prune(adapter, kept_components(adapter.g))
        error = to_host(sora_linear_forward(p["x"], p["W0"], p["b"], pruned)[0]) - p["y"]
        assert inner(error, error) / 2 == loss(p, theta)
    assert pruned.rank < adapter.rank


@pytest.mark.exact("SORA-REVIVAL-2", "SORA-STEP-6")
@pytest.mark.parametrize("dead", ["B_i is zero", "a_i x is zero"])
@pytest.mark.parametrize("decay", [Rational(0), DECAY])
@given(key=keys)
def test_closed_gate_without_a_gradient_never_comes_back(dead: str, decay: Any, key: int) -> None:
    """Its triple moves by decay alone, however long the others train."""
    p = problem(key)
    p["g"][0] = Rational(0)
    if dead == "B_i is zero":
        p["B"][:, 0] = Rational(0)
    else:
        p["B"][:, 0] = Rational(1)
        p["x"] = p["x"][:, :1] * exact([-1, 1]) * p["A"][0, ::-1]
    shrunk: Any = Rational(1)
    for t, state in enumerate(trajectory(p, decay=decay)):
        shrunk = shrunk * (1 - rates(t).lr * decay if t else 1)
        A, g, B, _ = adapter_in(state, S)
        assert g[0] == 0
        assert all_equal(to_host(A[0]), shrunk * p["A"][0])
        assert all_equal(to_host(B[:, 0]), shrunk * p["B"][:, 0])


# --- the gate over Q -----------------------------------------------------------------------------------------------


@pytest.mark.exact("SORA-PROX-2", "SORA-PROX-3")
@given(st.data(), st.integers(0, 5))
def test_prox_steps_with_a_threshold_for_each_gate_add_up(data: st.DataObject, r: int) -> None:
    x, a, b = (exact(data.draw(array_of((r,), kind))) for kind in (rationals, thresholds, thresholds))
    composed = soft_threshold(soft_threshold(x, b), a)
    assert all_equal(to_host(composed), to_host(soft_threshold(x, a + b)))
    assert all_equal(to_host(soft_threshold(soft_threshold(x, a), b)), to_host(composed))


@pytest.mark.exact("SORA-PROX-2", "SORA-PROX-5")
@pytest.mark.parametrize("threshold", [soft_threshold, released_threshold])
@given(data=st.data(), r=st.integers(0, 5), xi=thresholds, c=nonzero)
def test_thresholds_scale_with_their_argument_and_are_odd(
    threshold: Any, data: st.DataObject, r: int, xi: Fraction, c: Fraction
) -> None:
    """T_{|c|ξ}(c·x) = c·T_ξ(x), ties at ξ and 2ξ among the x; and T_0 is the identity."""
    x = exact(data.draw(array_of((r,), rationals | st.sampled_from([xi, -xi, 2 * xi, -2 * xi]))))
    size = Rational(c)
    assert all_equal(to_host(threshold(size * x, abs(size) * xi)), size * to_host(threshold(x, Rational(xi))))
    assert all_equal(to_host(threshold(x, 0)), x)


@pytest.mark.exact("SORA-PROX-5", "SORA-GATE-1")
@given(st.data(), thresholds, thresholds)
def test_released_rule_after_an_sgd_step_runs_its_three_lines(data: st.DataObject, xi: Fraction, eta: Fraction) -> None:
    """Its own AdamW has a root; the rest of the rule is rational.  Gates land on ±ξ and ±2ξ too."""
    grad = exact(data.draw(array_of((5,), rationals)))
    landing = data.draw(array_of((5,), rationals | st.sampled_from([xi, -xi, 2 * xi, -2 * xi])))
    g, rate, strength = exact(landing) + Rational(eta) * grad, Rational(eta), Rational(xi)
    new, _ = gate_update(RELEASED.replace(descend=SGD()), g, grad, zero_moments(g), 1, rate, strength)
    for before, after in zip(landing, to_host(new), strict=True):
        shrunk = abs(before) - xi
        assert abs(after) == (xi if shrunk == 0 else shrunk if shrunk >= xi else 0)
        assert before * after >= 0


@pytest.mark.exact("SORA-OPT-2", "SORA-GATE-1")
@pytest.mark.parametrize(
    "rule", [rule for rule in GATE_RULES.values() if rule is not PAPER], ids=lambda rule: rule.name
)
def test_rules_that_descend_by_adam_are_not_rational(rule: Any) -> None:
    """√v̂ leaves the rationals, and AdamW's own constants are floats: `paper` alone is an exact rule as it stands."""
    g = exact([1, 2])
    with pytest.raises(TypeError):
        gate_update(rule, g, g, zero_moments(g), 1, Rational(1), Rational(1))


@pytest.mark.exact("SORA-REVIVAL-1", "SORA-LINEAR-4")
@given(keys, st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2)]), nonzero.map(abs))
def test_closed_gate_revives_exactly_when_its_gradient_exceeds_lambda(key: int, share: Fraction, eta: Fraction) -> None:
    """∂ of a real backward, every gate closed and B_i ≠ 0; λ is |∂_i|, its half or its double: the tie stays closed."""
    p = problem(key, in_=3, out=2, r=4)
    closed = exact(np.zeros(4))
    p["B"] = p["B"] + exact(p["B"] == 0)
    state = initial_state({"m.sora_A": p["A"], "m.sora_g": closed, "m.sora_B": p["B"]})
    dg = gradients(p, state, slice(None))["m.sora_g"]
    for slope in dg:
        lam = share * abs(slope)
        new, _ = gate_update(PAPER, closed, dg, zero_moments(closed), 1, Rational(eta), lam)
        for gate, at in zip(to_host(new), dg, strict=True):
            assert (gate != 0) == (abs(at) > lam)
            assert gate == (0 if abs(at) <= lam else -eta * (at - lam if at > 0 else at + lam))


# --- the gates' gradient set to zero -------------------------------------------------------------------------------


def survivors(gate_gradient: Any, rule: Any, steps: int) -> list[bool]:
    """Which gates of a regression on one planted direction are open at the end."""
    rng = np.random.default_rng(3)
    x, direction = rng.standard_normal((32, 4)), np.array([1.0, 0.0, 0.0, 0.0])
    target = np.outer(x @ direction, [2.0, -1.0, 1.0])
    A = np.vstack([direction, np.eye(4)[1:]]) + 0.01 * rng.standard_normal((4, 4))
    params = {"m.sora_A": A, "m.sora_g": np.array([0.2, 0.5, 0.6, 0.7]), "m.sora_B": 0.1 * rng.standard_normal((3, 4))}
    state, recipe = initial_state(params), Recipe(SGD(), rule, gate_gradient=gate_gradient)
    for _ in range(steps):
        adapter = adapter_in(state, 1.0)
        y, cache = sora_linear_forward(x, np.zeros((3, 4)), None, adapter)
        grads = sora_linear_backward(y - target, cache)
        named = {"m.sora_A": grads.dA, "m.sora_g": grads.dg, "m.sora_B": grads.dB}
        state, _ = training_step(state, combine_microbatches([named], 32), Rates(0.05, 0.05, 0.1), recipe)
    return [bool(gate != 0) for gate in state.params["m.sora_g"]]


@pytest.mark.measured("SORA-GATE-1")
def test_zeroing_the_gates_gradient_changes_who_survives() -> None:
    """The data keep the planted direction's gate, the smallest at the start; without them the largest live longest."""
    steps = 110  # thresholds sum to 110·0.05·0.1 = 0.55
    assert survivors("data", PAPER, steps)[0]
    assert survivors("zero", PAPER, steps) == [False, False, True, True]
    assert survivors("data", PAPER, steps) != survivors("zero", PAPER, steps)
