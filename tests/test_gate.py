"""SORA-GATE and SORA-REVIVAL: each rule against a hand-computed case, and both sides of revival."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space, all_equal, array_of, dyadics, exact, keys, rationals, thresholds

from sora_ref import (
    ADAMW_XI,
    GATE_RULES,
    PAPER,
    RELEASED,
    AdamW,
    SoRA,
    SoRAError,
    gate_update,
    released_threshold,
    soft_threshold,
    sora_linear_backward,
    sora_linear_forward,
    zero_moments,
)
from sora_ref.gate import ADAMW_LR_LAMBDA, ADAMW_METRIC, ADAMW_METRIC_LITERAL, adam_step_bound
from sora_ref.optim import Moments

U = 2.0**-53


@pytest.mark.exact("SORA-GATE-1")
def test_rules_are_named_once_and_say_what_they_are() -> None:
    assert [rule.name for rule in GATE_RULES.values()] == list(GATE_RULES)
    assert set(GATE_RULES) == {
        "paper", "adamw-xi", "adamw-lr-lambda", "adamw-metric", "adamw-metric-literal", "released",
    }  # fmt: skip
    assert all(rule.loss_l1 == 0 for rule in GATE_RULES.values() if rule is not RELEASED)
    assert RELEASED.descend == AdamW(eps=1e-6, eps_on="raw")
    assert (RELEASED.loss_l1, RELEASED.replace(loss_l1=1e-3).loss_l1) == (10.0, 1e-3)


@pytest.mark.exact("SORA-GATE-1", "SORA-GATE-2")
@given(array_of((4,)), array_of((4,)), dyadics.map(abs), dyadics.map(abs))
def test_paper_rule_is_the_prox_of_eta_lambda_after_a_gradient_step(
    xp: Space, g: Any, grad: Any, eta: Fraction, lam: Fraction
) -> None:
    start = zero_moments(xp.asarray(g))
    new, moments = gate_update(PAPER, xp.asarray(g), xp.asarray(grad), start, 1, xp.number(eta), xp.number(lam))
    assert moments is start
    for before, slope, after in zip(g, grad, xp.fractions(new), strict=True):
        v = before - eta * slope
        assert after == (0 if abs(v) <= eta * lam else v - eta * lam * (1 if v > 0 else -1))


# G = 1 with beta = (0, 0.75) at step 1: v = 0.25, v̂ = 1 exactly, and with ε = 1 the metric is C = 2 and the step η/2.
HAND = AdamW(betas=(0.0, 0.75), eps=1.0)


@pytest.mark.exact("SORA-GATE-1", "SORA-GATE-2", "SORA-OPT-3")
@pytest.mark.parametrize(
    ("rule", "strength", "expected"),
    [
        (ADAMW_XI, 0.25, 3.5),  # v = 4 − 0.25; a = ξ
        (ADAMW_LR_LAMBDA, 0.25, 3.625),  # a = η·λ = 0.125
        (ADAMW_METRIC, 0.25, 3.6875),  # a = η·λ/C = 0.0625
        (ADAMW_METRIC_LITERAL, 0.25, 3.6875),
        (ADAMW_XI, 3.75, 0.0),  # a tie is closed
        (RELEASED, 0.25, 3.5),
        (RELEASED, 2.0, 0.0),  # between ξ and 2ξ: the prox would leave 1.75
        (RELEASED, 3.75, 3.75),  # the isolated point
    ],
)
def test_rule_gives_the_hand_computed_gate(floats: Space, rule: Any, strength: float, expected: float) -> None:
    g = floats.asarray([4.0])
    new, moments = gate_update(rule.replace(descend=HAND), g, floats.asarray([1.0]), zero_moments(g), 1, 0.5, strength)
    assert floats.to_numpy(new).item() == expected
    assert [floats.to_numpy(part).item() for part in moments] == [1.0, 0.25]


@pytest.mark.bounded("SORA-GATE-1", "SORA-OPT-2")
def test_released_rule_keeps_eps_on_the_raw_root(floats: Space) -> None:
    """β = (0, 0.75), G = 1: √v = 0.5 and √(1 − β₂) = 0.5, so the step is η·0.5/(0.5 + ε) = η/3 for ε = 1."""
    g = floats.asarray([4.0])
    rule = RELEASED.replace(descend=AdamW(betas=(0.0, 0.75), eps=1.0, eps_on="raw"))
    new, _ = gate_update(rule, g, floats.asarray([1.0]), zero_moments(g), 1, 0.75, 0.25)
    assert abs(floats.to_numpy(new).item() - 3.5) <= 4 * 20 * U  # fewer than 20 roundings of numbers below 4


@pytest.mark.exact("SORA-GATE-1", "SORA-PROX-5")
def test_released_and_soft_rules_differ_between_xi_and_two_xi(floats: Space) -> None:
    g, zero = floats.asarray([1.5, 0.5, 2.5, 1.0]), floats.asarray([0.0] * 4)
    soft, _ = gate_update(ADAMW_XI, g, zero, zero_moments(g), 1, 0.1, 1.0)
    hard, _ = gate_update(RELEASED, g, zero, zero_moments(g), 1, 0.1, 1.0)
    assert floats.to_numpy(soft).tolist() == [0.5, 0, 1.5, 0]
    assert floats.to_numpy(hard).tolist() == [0, 0, 1.5, 1.0]
    assert (ADAMW_XI.threshold, RELEASED.threshold) == (soft_threshold, released_threshold)


@pytest.mark.exact("SORA-GATE-1", "SORA-GATE-2")
def test_constant_xi_acts_at_learning_rate_zero_and_eta_lambda_does_not(floats: Space) -> None:
    g, grad = floats.asarray([1.0]), floats.asarray([3.0])
    for rule, expected in ((ADAMW_XI, 0.75), (ADAMW_LR_LAMBDA, 1.0), (ADAMW_METRIC, 1.0), (PAPER, 1.0)):
        new, _ = gate_update(rule, g, grad, zero_moments(g), 1, 0.0, 0.25)
        assert floats.to_numpy(new).item() == expected, rule.name


@pytest.mark.exact("SORA-GATE-3")
def test_before_any_gradient_the_metric_rule_leaves_gates_alone_and_the_literal_one_annihilates_them(
    floats: Space,
) -> None:
    """B = 0 at step 1, so v̂ = 0 and C = ε: the literal threshold is ηλ/ε, here 100."""
    g, zero = floats.asarray([1.0, -99.0, 0.0]), floats.asarray([0.0] * 3)
    alone, _ = gate_update(ADAMW_METRIC, g, zero, zero_moments(g), 1, 1e-3, 1e-3)
    none, _ = gate_update(ADAMW_METRIC_LITERAL, g, zero, zero_moments(g), 1, 1e-3, 1e-3)
    assert floats.to_numpy(alone).tolist() == [1.0, -99.0, 0.0]
    assert floats.to_numpy(none).tolist() == [0.0] * 3


@pytest.mark.exact("SORA-GATE-1", "SORA-GATE-3")
def test_metric_rule_decides_gate_by_gate(floats: Space) -> None:
    g, grad = floats.asarray([4.0, 4.0]), floats.asarray([1.0, 0.0])
    new, _ = gate_update(ADAMW_METRIC.replace(descend=HAND), g, grad, zero_moments(g), 1, 0.5, 0.25)
    assert floats.to_numpy(new).tolist() == [3.6875, 4.0]


@pytest.mark.exact("SORA-GATE-3")
@given(rationals, thresholds, st.integers(1, 8), rationals)
def test_metric_prox_solves_its_weighted_problem(v: Fraction, amount: Fraction, C: int, u: Fraction) -> None:
    """T_{ηλ/C}(v) = argmin_u ηλ|u| + ½C(u − v)², strictly convex, so any other u is worse."""
    best = soft_threshold(exact([v]), amount / C)[0]

    def value(w: Fraction) -> Fraction:
        return amount * abs(w) + C * (w - v) ** 2 / 2

    assert value(u) > value(best) or u == best


@pytest.mark.parametrize("strength", [-1e-3, float("nan"), float("inf")])
def test_strength_that_is_none_is_refused(floats: Space, strength: float) -> None:
    g = floats.asarray([1.0])
    with pytest.raises(SoRAError, match=r"strength is .*: expected"):
        gate_update(ADAMW_XI, g, g, zero_moments(g), 1, 0.1, strength)


@pytest.mark.exact("SORA-GATE-1", "SORA-GATE-2")
def test_amount_of_a_rule_is_one_number_but_for_adams_metric() -> None:
    amounts = {rule.name: rule.scalar_amount(0.5, 0.25) for rule in GATE_RULES.values()}
    assert amounts == {
        "paper": 0.125,
        "adamw-xi": 0.5,
        "adamw-lr-lambda": 0.125,
        "adamw-metric": None,
        "adamw-metric-literal": None,
        "released": 0.5,
    }


# --- revival -------------------------------------------------------------------------------------------------------


@pytest.mark.exact("SORA-REVIVAL-1")
@given(rationals, thresholds, st.fractions(Fraction(1, 9), 3))
def test_zero_gate_revives_under_the_paper_rule_exactly_when_its_gradient_exceeds_lambda(
    grad: Fraction, lam: Fraction, eta: Fraction
) -> None:
    zero = exact([0])
    new, _ = gate_update(PAPER, zero, exact([grad]), zero_moments(zero), 1, eta, lam)
    assert (new[0] != 0) == (abs(grad) > lam)


@pytest.mark.exact("SORA-REVIVAL-2")
@given(array_of((2, 3)), array_of((2,)), array_of((1, 3)), array_of((3,)))
def test_triple_with_closed_gate_and_zero_column_is_stationary(xp: Space, x: Any, dy: Any, A: Any, W0: Any) -> None:
    adapter = xp.adapter(A, [0], [[0]], 2)
    _, cache = sora_linear_forward(xp.asarray(x), xp.asarray([W0]), None, adapter)
    grads = sora_linear_backward(xp.asarray(dy.reshape(2, 1)), cache)
    for part in (grads.dA, grads.dg, grads.dB):
        assert all(value == 0 for value in xp.fractions(part).ravel())


@pytest.mark.exact("SORA-REVIVAL-1")
def test_zero_gate_with_a_nonzero_column_can_revive(xp: Space) -> None:
    one = xp.asarray([[1]])
    _, cache = sora_linear_forward(one, one, None, SoRA(one, xp.asarray([0]), one, xp.number(1)))
    dg = sora_linear_backward(xp.asarray([[3]]), cache).dg
    for lam, expected in ((2, -1), (3, 0), (4, 0)):
        new, _ = gate_update(PAPER, xp.asarray([0]), dg, zero_moments(dg), 1, xp.number(1), xp.number(lam))
        assert xp.fractions(new).tolist() == [expected]


def ratio(betas: tuple[float, float], grads: Any) -> float:
    """Largest |m̂|/√v̂ over a sequence: the step of AdamW with ε = 0 and lr = 1, from zero."""
    rule, moments, largest = AdamW(betas=betas, eps=0.0), zero_moments(np.zeros(1)), 0.0
    for t, grad in enumerate(grads, start=1):
        step, moments = rule.update(np.zeros(1), np.array([grad]), moments, t, 1.0)
        largest = max(largest, abs(step.item()))
    return largest


@pytest.mark.bounded("SORA-REVIVAL-3")
def test_growing_gradients_exceed_kingma_and_bas_bound_and_approach_the_true_one() -> None:
    """g_i ∝ (β₂/β₁)^i is the equality case of Cauchy-Schwarz; after 3,000 steps only β₂^t and rounding are missing.

    The supremum is (1−β₁)/√(1−β₂) · 1/√(1−ρ) with ρ = β₁²/β₂; at step t it is at least the geometric sums' share
    √((1−β₂ᵗ)(1−ρᵗ))/(1−β₁ᵗ) of it, and each step makes fewer than 10 roundings of each summand.
    """
    t = 3000
    found = ratio((0.9, 0.999), ((0.999 / 0.9) ** (i - t) for i in range(1, t + 1)))
    bound = adam_step_bound()
    rho = 0.81 / 0.999
    share = math.sqrt((1 - 0.999**t) * (1 - rho**t)) / (1 - 0.9**t)
    room = 20 * t * U  # γ of 10 t roundings in m and in v each
    assert bound * share * (1 - room) <= found <= bound * (1 + room)
    assert found > 7.0
    lone = ratio((0.9, 0.999), [1e-150] * 1 + [0.0] * t + [1.0])
    assert lone < math.sqrt(10)  # the case 3.16 is true of


@pytest.mark.bounded("SORA-REVIVAL-3")
@given(keys, st.sampled_from([(0.9, 0.999), (0.9, 0.82), (0.5, 0.3), (0.5, 0.5), (0.0, 0.9)]))
def test_no_gradient_sequence_moves_adam_further_than_its_bound(key: int, betas: tuple[float, float]) -> None:
    rng, steps = np.random.default_rng(key), 60
    grads = rng.standard_normal(steps) * 10.0 ** np.cumsum(rng.uniform(-0.5, 0.6, steps))
    assert ratio(betas, grads) <= adam_step_bound(betas) * (1 + 20 * steps * U)


@pytest.mark.exact("SORA-REVIVAL-3")
@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        ((0.9, 0.81), "beta1 squared below beta2"),
        ((0.99, 0.9), "beta1 squared below beta2"),
        ((0.9, 0.0), "beta1 squared below beta2"),
        *((betas, "0 <= beta < 1") for betas in ((1.0, 0.999), (1.5, 0.999), (-0.1, 0.999), (0.9, 1.0), (0.9, -0.1))),
    ],
)
def test_bound_refuses_betas_for_which_there_is_none(betas: tuple[float, float], expected: str) -> None:
    with pytest.raises(SoRAError, match=f"^betas are {re.escape(str(betas))}: expected {expected}$"):
        adam_step_bound(betas)


@pytest.mark.exact("SORA-REVIVAL-3")
@given(keys, st.sampled_from([1e-3, 1.0]))
def test_zero_gate_is_absorbed_once_xi_reaches_the_bound_times_lr(floats: Space, key: int, lr: float) -> None:
    """Adversarial sequences: random, growing at Cauchy-Schwarz's rate, and silent with one shout at the end."""
    rng, steps = np.random.default_rng(key), 50
    growth = np.outer((0.999 / 0.9) ** np.arange(steps), np.ones(2))
    shout = np.where(np.arange(steps)[:, None] == steps - 1, 1.0, 0.0) * np.ones((1, 2))
    sequence = np.concatenate([growth, shout, rng.standard_normal((steps, 2)) * 10.0 ** rng.integers(-9, 9)], axis=1)
    g = floats.asarray(np.zeros(6))
    moments = zero_moments(g)
    for t, grad in enumerate(sequence, start=1):
        g, moments = gate_update(ADAMW_XI, g, floats.asarray(grad), moments, t, lr, adam_step_bound() * lr)
        assert floats.to_numpy(g).tolist() == [0.0] * 6


@pytest.mark.exact("SORA-REVIVAL-1")
def test_zero_gate_revives_under_adam_when_its_step_exceeds_xi(floats: Space) -> None:
    zero, grad = floats.asarray([0.0]), floats.asarray([1.0])
    below, _ = gate_update(ADAMW_XI.replace(descend=HAND), zero, grad, zero_moments(zero), 1, 0.5, 0.125)
    at, _ = gate_update(ADAMW_XI.replace(descend=HAND), zero, grad, zero_moments(zero), 1, 0.5, 0.25)
    assert floats.to_numpy(below).tolist() == [-0.125]
    assert floats.to_numpy(at).tolist() == [0.0]


@pytest.mark.exact("SORA-GATE-1")
def test_gate_update_leaves_its_moments_to_the_descent_alone(floats: Space) -> None:
    """What is thresholded away is not fed back: moments depend on gradients only."""
    g, grad = floats.asarray([1.0]), floats.asarray([0.5])
    start = Moments(floats.asarray([0.25]), floats.asarray([0.5]))
    kinds = [gate_update(ADAMW_XI, g, grad, start, 3, 0.1, xi)[1] for xi in (0.0, 100.0)]
    assert all_equal(floats.to_numpy(kinds[0].m), floats.to_numpy(kinds[1].m))
    assert all_equal(floats.to_numpy(kinds[0].v), floats.to_numpy(kinds[1].v))


@pytest.mark.exact("SORA-REVIVAL-3")
def test_adam_has_a_bound_exactly_where_beta1_squared_is_below_beta2() -> None:
    assert adam_step_bound((0.0, 0.0)) == 1  # sign descent
    with pytest.raises(SoRAError, match="beta1 squared below beta2"):
        adam_step_bound((0.9, 0.8))
