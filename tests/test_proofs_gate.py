"""Theorems about the gate rule, for all reals: what one step solves, when it descends, when a zero gate comes back.

As in `test_proofs`, every law has a control that the same prover refutes.  A quadratic loss is expanded at g, with
gradient s and curvature h there: every quadratic is one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from symbolic import Array, Number, Term, array, assume, both, identical, iff, number, prove, refute, xp

from sora_ref import kkt_distance
from sora_ref.gate import ADAMW_METRIC, ADAMW_METRIC_LITERAL, ADAMW_XI, PAPER, GateRule, gate_update
from sora_ref.optim import Moments
from sora_ref.preconditions import require_finite_number
from sora_ref.prox import released_threshold, soft_threshold

HARDENED = PAPER.replace(threshold=released_threshold)
UNSCALED = PAPER.replace(amount=lambda strength, lr, metric, moments: strength)


@dataclass(frozen=True)
class Given:
    """An optimiser of which nothing is known: it lands on v, in the metric C, with second moment v̂."""

    v: Array
    C: Array | None = None

    def update(self, g: Array, grad: Array, moments: Moments, t: int, lr: Any) -> tuple[Array, Moments]:
        require_finite_number("learning rate", lr, least=0)  # as every optimiser does
        return self.v, moments

    def metric(self, moments: Moments, t: int) -> Array | None:
        return self.C


def step(rule: GateRule, g: Array, grad: Array, lr: Number, strength: Number, moments: Any = (None, None)) -> Array:
    """g after one step of the rule."""
    new: Array = gate_update(rule, g, grad, Moments(*moments), 1, lr, strength)[0]
    return new


def solves_equation_13(rule: GateRule) -> Term:
    g, s, u, lr, lam = array("g"), array("s"), array("u"), number("lr"), number("lam")
    new, target = step(rule, g, s, lr, lam), g - lr * s
    objective = [lr * lam * abs(w) + (w - target) * (w - target) / 2 for w in (u, new)]
    return objective[0] >= objective[1] + (u - new) * (u - new) / 2


@pytest.mark.proved("SORA-GATE-1", "SORA-OPT-1", "SORA-PROX-2")
def test_step_of_the_paper_solves_its_equation_13() -> None:
    prove(solves_equation_13, PAPER)
    refute(solves_equation_13, UNSCALED)
    refute(solves_equation_13, HARDENED)


def solves_the_problem_in_the_metric(rule: GateRule) -> Term:
    """argmin over u of η·λ·|u| + ½C(u − v)², C > 0; gates whose v̂ is zero are another law's."""
    v, u, C, second, lr, lam = (array("v"), array("u"), array("C"), array("second"), number("lr"), number("lam"))
    assume(both(C > 0, second > 0))
    new = step(rule.replace(descend=Given(v, C)), v, v, lr, lam, (second, second))
    objective = [lr * lam * abs(w) + C * (w - v) * (w - v) / 2 for w in (u, new)]
    return objective[0] >= objective[1] + C * (u - new) * (u - new) / 2


@pytest.mark.proved("SORA-GATE-3")
@pytest.mark.parametrize("rule", [ADAMW_METRIC, ADAMW_METRIC_LITERAL])
def test_metric_rules_solve_the_problem_in_the_metric_adam_moves_in(rule: GateRule) -> None:
    prove(solves_the_problem_in_the_metric, rule)
    refute(solves_the_problem_in_the_metric, rule.replace(amount=PAPER.amount))
    refute(solves_the_problem_in_the_metric, rule.replace(threshold=released_threshold))


def leaves_gates_without_a_gradient_alone(rule: GateRule) -> Term:
    v, C, second, lr, lam = array("v", size=2), array("C", size=2), array("second", size=2), number("lr"), number("lam")
    assume(both(C > 0, second == 0))
    return identical(step(rule.replace(descend=Given(v, C)), v, v, lr, lam, (second, second)), v)


@pytest.mark.proved("SORA-GATE-3")
def test_metric_rule_leaves_gates_without_a_gradient_alone_and_the_literal_one_does_not() -> None:
    prove(leaves_gates_without_a_gradient_alone, ADAMW_METRIC)
    refute(leaves_gates_without_a_gradient_alone, ADAMW_METRIC_LITERAL)


def penalised(u: Array, g: Array, s: Array, h: Array, lam: Number) -> Any:
    """A quadratic loss less its value at g, and the L1 norm."""
    return s * (u - g) + h * (u - g) * (u - g) / 2 + lam * abs(u)


def descends_by(rule: GateRule, share: Fraction) -> Term:
    """F(g⁺) ≤ F(g) − (share/η − h/2)(g⁺ − g)², for every η > 0."""
    g, s, h, lr, lam = array("g"), array("s"), array("h"), number("lr"), number("lam")
    assume(lr > 0)
    new = step(rule, g, s, lr, lam)
    gain = (share / lr - h / 2) * (new - g) * (new - g)
    return penalised(new, g, s, h, lam) <= penalised(g, g, s, h, lam) - gain


def descends_up_to(rule: GateRule, bound: Fraction) -> Term:
    """F(g⁺) ≤ F(g) while η·h ≤ bound."""
    g, s, h, lr, lam = array("g"), array("s"), array("h"), number("lr"), number("lam")
    assume(lr > 0)
    assume(lr * h <= bound)
    return penalised(step(rule, g, s, lr, lam), g, s, h, lam) <= penalised(g, g, s, h, lam)


@pytest.mark.proved("SORA-PROX-2", "SORA-GATE-1")
def test_step_descends_on_a_quadratic_model_for_every_learning_rate_up_to_two_over_l() -> None:
    """Both constants are sharp: a hundredth more of either has a counterexample."""
    hundredth = Fraction(1, 100)
    for law, constant in ((descends_by, Fraction(1)), (descends_up_to, Fraction(2))):
        prove(law, PAPER, constant)
        refute(law, PAPER, constant + hundredth)
        refute(law, UNSCALED, constant)


class Quadratic:
    """Two gates, a symmetric curvature H, and a bound L on it: H ⪯ L·1 by the minors of L·1 − H."""

    def __init__(self) -> None:
        self.L, self.a, self.b, self.c = (number(name) for name in ("L", "a", "b", "c"))

    def bounded(self) -> Term:
        minor = (self.L - self.a) * (self.L - self.c) >= self.b * self.b
        return both(self.a <= self.L, self.c <= self.L, minor)

    def form(self, d: Array) -> Array:
        """dᵀHd."""
        x, y = (Array([term], ()) for term in d.terms)
        form: Array = self.a * x * x + 2 * self.b * x * y + self.c * y * y
        return form


def curvature_is_bounded_along_every_direction(minors: bool) -> Term:
    H, d = Quadratic(), array("d", size=2)
    assume(H.bounded() if minors else both(H.a <= H.L, H.c <= H.L))
    return H.form(d) <= H.L * xp.sum(d * d)


def gains(new: Array, g: Array, s: Array, lr: Number, lam: Number) -> Any:
    """Coordinate by coordinate: the linear model and the L1 norm fall by (g⁺ − g)²/η at least."""
    d = new - g
    return s * d + lam * (abs(new) - abs(g)) <= -(d * d) / lr


def step_gains_on_each_coordinate(rule: GateRule) -> Term:
    g, s, lr, lam = array("g", size=2), array("s", size=2), number("lr"), number("lam")
    assume(lr > 0)
    return gains(step(rule, g, s, lr, lam), g, s, lr, lam)


def gains_add_up_to_descent(share: Fraction) -> Term:
    """F(g⁺) ≤ F(g) − (share/η − L/2)‖g⁺ − g‖² for whatever gains so, with `form`, dᵀHd, at most L‖d‖²."""
    new, g, s, lr, lam = array("new", size=2), array("g", size=2), array("s", size=2), number("lr"), number("lam")
    L, form, d = number("L"), array("form"), new - g
    assume(both(lr > 0, gains(new, g, s, lr, lam), form <= L * xp.sum(d * d)))
    change = xp.sum(s * d) + form / 2 + lam * (xp.sum(abs(new)) - xp.sum(abs(g)))
    return change <= (L / 2 - share / lr) * xp.sum(d * d)


@pytest.mark.proved("SORA-PROX-2", "SORA-GATE-1")
def test_step_descends_on_a_quadratic_model_of_two_gates() -> None:
    """In three lemmas that join to F(g⁺) ≤ F(g) − (1/η − L/2)‖g⁺ − g‖²; in one piece z3 cannot tell."""
    prove(curvature_is_bounded_along_every_direction, True)
    refute(curvature_is_bounded_along_every_direction, False)
    prove(step_gains_on_each_coordinate, PAPER)
    refute(step_gains_on_each_coordinate, UNSCALED)
    prove(gains_add_up_to_descent, Fraction(1))
    refute(gains_add_up_to_descent, Fraction(101, 100))


def is_fixed_exactly_where_stationary(rule: GateRule, size: int, moving: bool = True) -> Term:
    g, s, lr, lam = array("g", size=size), array("s", size=size), number("lr"), number("lam")
    if moving:
        assume(lr > 0)
    return iff(identical(step(rule, g, s, lr, lam), g), kkt_distance(g, s, lam) == 0)


@pytest.mark.proved("SORA-PROX-4")
@pytest.mark.parametrize("size", [1, 2])
def test_fixed_points_of_the_step_are_the_stationary_points(size: int) -> None:
    prove(is_fixed_exactly_where_stationary, PAPER, size)
    refute(is_fixed_exactly_where_stationary, PAPER, size, False)
    refute(is_fixed_exactly_where_stationary, UNSCALED, size)


def revives_exactly_above_lambda(rule: GateRule, moving: bool = True) -> Term:
    s, lr, lam = array("s"), number("lr"), number("lam")
    if moving:
        assume(lr > 0)
    return iff(step(rule, xp.zeros_like(s), s, lr, lam) != 0, abs(s) > lam)


def revives_exactly_above_the_amount(threshold: Callable[[Any, Any], Any]) -> Term:
    """An AdamW rule of scalar amount: from zero it lands on minus the step."""
    v, lr, xi = array("v"), number("lr"), number("xi")
    rule = ADAMW_XI.replace(descend=Given(v), threshold=threshold)
    return iff(step(rule, xp.zeros_like(v), v, lr, xi) != 0, abs(v) > xi)


@pytest.mark.proved("SORA-REVIVAL-1")
def test_zero_gate_revives_exactly_when_its_step_exceeds_the_amount() -> None:
    prove(revives_exactly_above_lambda, PAPER)
    refute(revives_exactly_above_lambda, PAPER, False)
    refute(revives_exactly_above_lambda, HARDENED)
    prove(revives_exactly_above_the_amount, soft_threshold)
    refute(revives_exactly_above_the_amount, released_threshold)
