"""The gate problem with A and B fixed is a Lasso: the `paper` rule beside scikit-learn's coordinate descent.

With z = x Aᵀ and y = T − x W0ᵀ − b for targets T, the objective is F(g) = ½‖vec y − D g‖² + λ‖g‖₁, whose design D has
the columns s·vec(z_i b_iᵀ).  scikit-learn divides the square by the length of vec y: its alpha is λ/(N·out).

Inputs are short dyadic numbers, so D and vec y are exact in float64 and both sides solve the same problem.  Objectives,
gaps and distances to stationarity are taken over the rationals, where nothing rounds.  With 0 < μ and L on either side
of the eigenvalues of DᵀD, strong convexity says for the solution g*

    ‖g − g*‖₂ ≤ √r·(∞-norm distance of g to stationarity)/μ        ½μ‖g − g*‖² ≤ F(g) − F* ≤ duality gap at g
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from strategies import Exact, Floats, all_equal, exact, inner

from sora_ref import SoRA, kkt_distance, sora_linear_backward, sora_linear_forward, zero_moments
from sora_ref.backends.exact_backend import Rational
from sora_ref.gate import PAPER, gate_update

linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn: pip install 'sora_ref[run]'")

IN, OUT, ROWS, RANK = 4, 3, 6, 5  # the rank is above in and above out; full column rank needs it below 18
SEEDS = range(3)
STRENGTHS = [Fraction(1, 64), Fraction(1, 8), Fraction(1, 2)]  # λ as a share of the least that closes every gate
STEPS = 32


@dataclass(frozen=True)
class Problem:
    """A SoRA linear whose gates alone are trained; over the rationals, with `in_floats` beside it."""

    x: Any
    W0: Any
    b: Any
    A: Any
    B: Any
    s: Any
    T: Any
    lam: Any

    def gradient(self, g: Any) -> Any:
        """∇ of the square at g by the specification's own backward, in the arithmetic of g."""
        at = self if g.dtype == object else self.in_floats
        y, cache = sora_linear_forward(at.x, at.W0, at.b, SoRA(at.A, g, at.B, at.s))
        return sora_linear_backward(y - at.T, cache).dg

    @cached_property
    def in_floats(self) -> Problem:
        arrays = {name: getattr(self, name).astype(float) for name in ("x", "W0", "b", "A", "B", "T")}
        return Problem(**arrays, s=float(self.s), lam=float(self.lam))

    # The same problem as a Lasso, which our functions take no part in.

    @cached_property
    def design(self) -> Exact:
        columns = [self.s * np.outer(self.x @ row, column) for row, column in zip(self.A, self.B.T, strict=True)]
        return np.stack([np.ravel(column) for column in columns], axis=1)

    @cached_property
    def target(self) -> Exact:
        return np.ravel(self.T - self.x @ self.W0.T - self.b)

    def objective(self, g: Exact) -> Fraction:
        residual = self.target - self.design @ g
        value: Fraction = inner(residual, residual) / 2 + self.lam * sum(abs(gate) for gate in g)
        return value

    def duality_gap(self, g: Exact) -> Fraction:
        """F(g) less the dual's value at the residual, scaled until it is feasible."""
        y, D = self.target, self.design
        residual = y - D @ g
        scale: Fraction = min(Fraction(1), self.lam / max(abs(value) for value in D.T @ residual))
        dual = scale * inner(residual, y) - scale**2 * inner(residual, residual) / 2
        return self.objective(g) - dual

    @cached_property
    def curvature(self) -> tuple[Fraction, Fraction]:
        """μ and L that bracket the eigenvalues of DᵀD: eigvalsh proposes, elimination over the rationals proves."""
        gram, unit = self.design.T @ self.design, exact(np.eye(len(self.A)))
        least, *_, largest = np.linalg.eigvalsh(gram.astype(float)).tolist()
        mu, L = Fraction(math.floor(2**20 * 0.999 * least), 2**20), Fraction(math.ceil(64 * 1.001 * largest), 64)
        assert mu > 0, "full column rank"
        assert positive_definite(gram - unit * Rational(mu))
        assert positive_definite(unit * Rational(L) - gram)
        return mu, L

    def by_scikit_learn(self, alpha: Fraction | None = None) -> Floats:
        reference = linear_model.Lasso(
            alpha=float(self.lam / (ROWS * OUT) if alpha is None else alpha),
            fit_intercept=False,
            tol=1e-14,
            max_iter=10**6,
        )
        return np.asarray(reference.fit(self.design.astype(float), self.target.astype(float)).coef_)


def positive_definite(matrix: Exact) -> bool:
    """Whether every pivot of Gaussian elimination is positive."""
    rest = matrix
    while len(rest):
        if rest[0, 0] <= 0:
            return False
        rest = rest[1:, 1:] - np.outer(rest[1:, 0], rest[0, 1:]) / rest[0, 0]
    return True


def make_problem(seed: int, strength: Fraction = STRENGTHS[1]) -> Problem:
    rng = np.random.default_rng(seed)
    shapes = {"x": (ROWS, IN), "W0": (OUT, IN), "b": (OUT,), "A": (RANK, IN), "B": (OUT, RANK), "T": (ROWS, OUT)}
    drawn = {name: exact(rng.integers(-8, 9, shape)) / Rational(4) for name, shape in shapes.items()}
    problem = Problem(**drawn, s=Rational(3, 2), lam=Rational(0))
    closing = max(abs(value) for value in problem.design.T @ problem.target)
    return replace(problem, lam=Rational(strength * closing))


def step(g: Any, gradient: Any, eta: Any, lam: Any) -> Any:
    """One step of the `paper` rule, which keeps no state."""
    return gate_update(PAPER, g, gradient, zero_moments(g), 1, eta, lam)[0]


def solved(problem: Problem, L: Fraction | None = None) -> Floats:
    """The gates after `paper` steps in float64 to where the distance to stationarity is 2⁻⁴⁰ of λ."""
    g, eta, lam = np.ones(len(problem.A)), float(1 / (L or problem.curvature[1])), float(problem.lam)
    for _ in range(20_000):
        gradient = problem.gradient(g)
        if kkt_distance(g, gradient, lam) <= 2.0**-40 * lam:
            return g
        g = step(g, gradient, eta, lam)
    raise AssertionError("the steps do not reach a stationary point")


def norm(values: Any) -> float:
    return float(np.linalg.norm(np.asarray(values, float)))


def from_stationarity(problem: Problem, g: Floats, mu: Fraction) -> float:
    """How far g may be from the solution, by its distance to stationarity."""
    distance = kkt_distance(exact(g), problem.gradient(exact(g)), problem.lam)
    return math.sqrt(len(g)) * float(distance / mu)


def from_gap(problem: Problem, g: Floats, mu: Fraction) -> float:
    """How far g may be from the solution, by its duality gap."""
    return math.sqrt(float(2 * problem.duality_gap(exact(g)) / mu))


@pytest.mark.exact("SORA-LINEAR-3")
@pytest.mark.independent("SORA-LINEAR-3")
@pytest.mark.parametrize("seed", SEEDS)
def test_curvature_of_the_gate_problem_is_the_closed_form(seed: int) -> None:
    """DᵀD = s²(ZᵀZ) ⊙ (BᵀB), the design's and the specification's own: ∇(g) − ∇(0) = DᵀD g."""
    problem = make_problem(seed)
    z, gram = problem.x @ problem.A.T, problem.design.T @ problem.design
    assert all_equal(gram, problem.s**2 * (z.T @ z) * (problem.B.T @ problem.B))
    for g in exact(np.eye(RANK)):
        assert all_equal(problem.gradient(g) - problem.gradient(g * 0), gram @ g)
    mu, L = problem.curvature
    assert 0.99 <= float(L) / np.linalg.norm(problem.design.astype(float), 2) ** 2 <= 1.01
    assert 0 < mu < L


@pytest.mark.independent("SORA-GATE-1", "SORA-PROX-1", "SORA-PROX-4", "SORA-LINEAR-3")
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", SEEDS)
def test_paper_rule_converges_to_the_solution_of_scikit_learn(seed: int, strength: Fraction) -> None:
    problem = make_problem(seed, strength)
    mu, L = problem.curvature
    ours, theirs = solved(problem), problem.by_scikit_learn()
    near, far = from_stationarity(problem, ours, mu), from_gap(problem, theirs, mu)
    assert near < 2.0**-20 * norm(theirs)
    assert far < 2.0**-10 * norm(theirs)
    assert norm(ours - theirs) <= near + far

    pull = np.abs(problem.gradient(exact(ours))).astype(float)
    closed = ours == 0
    assert np.all(float(problem.lam) - pull[closed] > float(L) * near), "strict complementarity"
    assert np.all(np.abs(ours[~closed]) > near + far)
    assert np.array_equal(closed, theirs == 0)
    assert np.array_equal(np.sign(ours), np.sign(theirs))


@pytest.mark.independent("SORA-PROX-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_solution_of_scikit_learn_is_stationary_as_far_as_its_gap_allows(seed: int) -> None:
    """With the solution's support and signs, ∇ + λ sgn g differs from the solution's by at most L‖g − g*‖."""
    problem = make_problem(seed)
    mu, L = problem.curvature
    theirs = problem.by_scikit_learn()
    distance = kkt_distance(exact(theirs), problem.gradient(exact(theirs)), problem.lam)
    assert float(distance) <= float(L) * from_gap(problem, theirs, mu)


@pytest.mark.exact("SORA-PROX-4")
@pytest.mark.independent("SORA-PROX-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_gate_closes_from_the_largest_pull_at_zero_on(seed: int) -> None:
    closed = exact(np.zeros(RANK))
    for strength, stationary in ((Fraction(15, 16), False), (Fraction(1), True), (Fraction(17, 16), True)):
        problem = make_problem(seed, strength)
        assert (kkt_distance(closed, problem.gradient(closed), problem.lam) == 0) == stationary
        if strength != 1:  # there scikit-learn's own rounding decides
            assert np.any(problem.by_scikit_learn()) == (not stationary)
            assert np.any(solved(problem)) == (not stationary)


@pytest.mark.parametrize("seed", SEEDS)
def test_control_alpha_of_another_scale_has_another_solution(seed: int) -> None:
    problem = make_problem(seed)
    mu, _ = problem.curvature
    ours, wrong = solved(problem), problem.by_scikit_learn(problem.lam / ROWS)
    assert norm(ours - wrong) > 2.0**-4 * norm(ours)
    assert from_gap(problem, wrong, mu) > 2.0**-4 * norm(ours)


@pytest.mark.exact("SORA-GATE-1")
@pytest.mark.independent("SORA-GATE-1")
@pytest.mark.parametrize("share", [Fraction(1), Fraction(3, 2), Fraction(2)])
@pytest.mark.parametrize("seed", SEEDS)
def test_objective_never_rises_while_eta_is_at_most_two_over_l(seed: int, share: Fraction) -> None:
    """Over the rationals; for η = 1/L also at the rate F(g_k) − F(u) ≤ L‖g_0 − u‖²/(2k), u scikit-learn's solution."""
    problem = make_problem(seed)
    values, L = trajectory(problem, share)
    assert all(after <= before for before, after in pairwise(values))
    if share == 1:
        u = exact(problem.by_scikit_learn())
        away = exact(np.ones(RANK)) - u
        for k, value in enumerate(values[1:], start=1):
            assert value - problem.objective(u) <= L * inner(away, away) / (2 * k)


@pytest.mark.parametrize("seed", SEEDS)
def test_control_objective_rises_beyond(seed: int) -> None:
    values, _ = trajectory(make_problem(seed), Fraction(5, 2))
    assert any(after > before for before, after in pairwise(values))


def trajectory(problem: Problem, share: Fraction) -> tuple[list[Fraction], Fraction]:
    """F along `paper` steps of η = share/L from gates of 1, and L."""
    L = problem.curvature[1]
    g, eta = exact(np.ones(RANK)), Rational(share / L)
    values = [problem.objective(g)]
    for _ in range(STEPS):
        g = step(g, problem.gradient(g), eta, problem.lam)
        values.append(problem.objective(g))
    return values, L


@pytest.mark.independent("SORA-PROX-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_without_full_column_rank_objectives_agree_where_solutions_do_not(seed: int) -> None:
    """Two components that are twins: the rule leaves equal gates, coordinate descent serves the first."""
    problem = make_problem(seed, STRENGTHS[0])
    L = problem.curvature[1]
    twins = replace(problem, A=problem.A[[0, 1, 2, 3, 4, 4]], B=problem.B[:, [0, 1, 2, 3, 4, 4]])
    ours, theirs = solved(twins, 2 * L), twins.by_scikit_learn()
    assert ours[-2] == ours[-1]
    assert abs(theirs[-2] - theirs[-1]) > 2.0**-10 * norm(theirs)
    gaps = [twins.duality_gap(exact(g)) for g in (ours, theirs)]
    assert abs(twins.objective(exact(ours)) - twins.objective(exact(theirs))) <= max(gaps)
    assert max(gaps) <= twins.objective(exact(theirs)) / 2**20
