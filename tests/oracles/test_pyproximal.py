"""The L1 prox and the `paper` rule beside PyProximal's L1 and its proximal gradient.

PyProximal computes sign(x)·max(|x| − t, 0): one rounding, as x − clip(x, −t, t) has one.  So results are compared with
`==`, which lets −0 be 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import Floats

from sora_ref import SoRA, l1_value, soft_threshold, sora_linear_backward, sora_linear_forward, zero_moments
from sora_ref.gate import ADAMW_METRIC_LITERAL, PAPER, gate_update

pyproximal = pytest.importorskip("pyproximal", reason="needs pyproximal: pip install 'sora_ref[oracles]'")
pylops = pytest.importorskip("pylops", reason="needs pylops, which pyproximal brings")

LIMIT = 1e150  # so that no product overflows
floats = arrays(np.float64, (6,), elements=st.floats(-LIMIT, LIMIT))
numbers = st.floats(0, LIMIT)
steps = st.floats(2.0**-30, 2.0**30)  # PyProximal refuses a step of 0


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.independent("SORA-PROX-1", "SORA-PROX-2")
@given(x=floats, sigma=numbers, tau=steps)
def test_soft_threshold_equals_pyproximals(x: Floats, sigma: float, tau: float) -> None:
    assert np.array_equal(soft_threshold(x, tau * sigma), pyproximal.L1(sigma=sigma).prox(x, tau))


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.independent("SORA-PROX-1")
@given(sigma=numbers, tau=steps)
def test_they_agree_on_both_sides_of_the_boundary(sigma: float, tau: float) -> None:
    t = tau * sigma
    x = np.array([t, np.nextafter(t, np.inf), np.nextafter(t, 0.0)])
    x = np.concatenate([x, -x, [np.inf, -np.inf, np.nan]])
    ours, theirs = soft_threshold(x, t), pyproximal.L1(sigma=sigma).prox(x, tau)
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert (ours[0], ours[3]) == (0, 0)


@pytest.mark.exact("SORA-PROX-2")
@pytest.mark.independent("SORA-PROX-2")
@given(x=floats, sigma=numbers)
def test_what_the_prox_takes_off_is_pyproximals_projection_on_the_dual_ball(x: Floats, sigma: float) -> None:
    """Moreau: x = T(x) + P(x), of which T(x) is the rounded difference."""
    assert np.array_equal(soft_threshold(x, sigma), x - pyproximal.L1(sigma=sigma).proxdual(x, 1.0))


@pytest.mark.exact("SORA-GATE-1")
@pytest.mark.independent("SORA-GATE-1", "SORA-GATE-2", "SORA-OPT-1")
@given(g=floats, grad=floats, lam=numbers, eta=steps)
def test_paper_rule_is_a_gradient_step_and_pyproximals_prox(g: Floats, grad: Floats, lam: float, eta: float) -> None:
    found, _ = gate_update(PAPER, g, grad, zero_moments(g), 1, eta, lam)
    assert np.array_equal(found, pyproximal.L1(sigma=lam).prox(g - eta * grad, eta))


@pytest.mark.independent("SORA-GATE-1", "SORA-GATE-3", "SORA-OPT-3")
@pytest.mark.parametrize("seed", range(20))
def test_metric_rule_is_pyproximals_prox_with_a_weight_for_each_gate(seed: int) -> None:
    """In the metric C the step is −η·m̂/C and the penalty's weight λ/C_i; the literal rule has it at C = ε too."""
    rng = np.random.default_rng(seed)
    g, grad = rng.standard_normal((2, 6))
    eta, lam = (float(number) for number in rng.uniform(0.1, 0.5, 2))
    v, moments = ADAMW_METRIC_LITERAL.descend.update(g, grad, zero_moments(g), 1, eta)
    metric = np.asarray(ADAMW_METRIC_LITERAL.descend.metric(moments, 1))
    found, _ = gate_update(ADAMW_METRIC_LITERAL, g, grad, zero_moments(g), 1, eta, lam)
    assert np.array_equal(found, pyproximal.L1(sigma=(eta * lam) / metric).prox(v, 1.0))


@pytest.mark.exact("SORA-PROX-4")
@pytest.mark.independent("SORA-PROX-4")
@given(key=st.integers(0, 2**31), lam=st.integers(0, 64))
def test_l1_value_equals_pyproximals(key: int, lam: int) -> None:
    gates = np.random.default_rng(key).integers(-64, 65, (3, 4)) / 8
    assert l1_value(list(gates), lam / 4) == sum(pyproximal.L1(sigma=lam / 4)(g) for g in gates)


@pytest.mark.exact("SORA-GATE-1")
@pytest.mark.independent("SORA-GATE-1", "SORA-LINEAR-3", "SORA-PROX-4")
@pytest.mark.parametrize("seed", range(4))
def test_steps_on_the_gate_problem_equal_pyproximals_proximal_gradient(seed: int) -> None:
    """Two steps on numbers so short that nothing rounds in either."""
    rng = np.random.default_rng(seed)
    x, A, B, T = (rng.integers(-2, 3, shape).astype(float) for shape in ((5, 3), (4, 3), (2, 4), (5, 2)))
    s, eta, lam, g0 = 0.5, 2.0**-6, 16.0, np.array([1.0, -1.0, 0.5, 0.0])
    design = np.stack([s * np.outer(x @ a, b).ravel() for a, b in zip(A, B.T, strict=True)], axis=1)

    theirs: list[Floats] = []
    pyproximal.optimization.primal.ProximalGradient(
        pyproximal.L2(Op=pylops.MatrixMult(design), b=T.ravel()),
        pyproximal.L1(sigma=lam),
        x0=g0.copy(),
        tau=eta,
        niter=2,
        callback=lambda iterate: theirs.append(np.array(iterate)),
    )
    g: Any = g0
    for expected in theirs:
        y, cache = sora_linear_forward(x, np.zeros((2, 3)), None, SoRA(A, g, B, s))
        g, _ = gate_update(PAPER, g, sora_linear_backward(y - T, cache).dg, zero_moments(g), 1, eta, lam)
        assert np.array_equal(g, expected)
    assert len(theirs) == 2
    assert any(0 in iterate for iterate in theirs)
    assert np.any(g != 0)
