"""SORA-STEP as a whole: trajectories against an independent loop, and the control without the gates' gradient."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given
from strategies import all_equal, exact, keys, loop_forward

from sora_ref import (
    PAPER,
    SGD,
    Rates,
    Recipe,
    SoRA,
    TrainState,
    combine_microbatches,
    initial_state,
    sora_linear_backward,
    sora_linear_forward,
    training_step,
)

PLAIN = Recipe(optimiser=SGD(), gate_rule=PAPER)


def adapter_in(state: TrainState, s: Any) -> SoRA:
    A, g, B = (state.params[f"m.sora_{name}"] for name in "AgB")
    return SoRA(A, g, B, s)


def value(p: dict[str, Any], theta: dict[str, Any], s: Fraction) -> Any:
    return loop_forward(p["x"], p["W0"], None, theta["A"], theta["g"], theta["B"], s)


def problem(key: int, in_: int, out: int, r: int, n: int) -> dict[str, Any]:
    rng = np.random.default_rng(key)
    shapes = {"x": (n, in_), "W0": (out, in_), "A": (r, in_), "g": (r,), "B": (out, r), "y": (n, out)}
    return {name: exact(rng.integers(-3, 4, shape) / 4) for name, shape in shapes.items()}


@given(keys)
def test_sgd_and_prox_trajectory_equals_an_independent_loop_over_q(key: int) -> None:
    """Two steps on ½‖y − Y‖²; the loop differentiates by affineness, one coordinate at a time."""
    p, s, eta, gate_eta, lam = problem(key, 2, 1, 2, 2), Fraction(2), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2)
    state = initial_state({"m.sora_A": p["A"], "m.sora_g": p["g"], "m.sora_B": p["B"]})
    mine = {"A": p["A"], "g": p["g"], "B": p["B"]}
    for _ in range(2):
        adapter = adapter_in(state, s)
        y, cache = sora_linear_forward(p["x"], p["W0"], None, adapter)
        grads = sora_linear_backward(y - p["y"], cache)
        named = {"m.sora_A": grads.dA, "m.sora_g": grads.dg, "m.sora_B": grads.dB}
        state, _ = training_step(state, combine_microbatches([named], 2), Rates(eta, gate_eta, lam), PLAIN)  # type: ignore[arg-type]

        at = value(p, mine, s)
        slopes = {}
        for name, theta in mine.items():
            slopes[name] = np.zeros_like(theta)
            for index in np.ndindex(theta.shape):
                nudged = theta.copy()
                nudged[index] += 1
                there = value(p, {**mine, name: nudged}, s)
                slopes[name][index] = ((at - p["y"]) * (there - at)).sum() / 2
        v = mine["g"] - gate_eta * slopes["g"]
        cut = gate_eta * lam
        mine = {
            "A": mine["A"] - eta * slopes["A"],
            "B": mine["B"] - eta * slopes["B"],
            "g": np.array([t - cut if t > cut else t + cut if t < -cut else Fraction(0) for t in v], object),
        }
        for name, theta in mine.items():
            assert all_equal(state.params[f"m.sora_{name}"], theta), name


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


def test_zeroing_the_gates_gradient_changes_who_survives() -> None:
    """The data keep the planted direction's gate, the smallest at the start; without them the largest live longest."""
    steps = 110  # thresholds sum to 110·0.05·0.1 = 0.55
    assert survivors("data", PAPER, steps)[0]
    assert survivors("zero", PAPER, steps) == [False, False, True, True]
    assert survivors("data", PAPER, steps) != survivors("zero", PAPER, steps)
