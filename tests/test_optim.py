"""SORA-OPT: SGD exactly, AdamW against the scalar formula in 50 digits with a derived bound."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space, all_equal, array_of, dyadics, keys, unit_roundoff

from sora_ref import SGD, AdamW, SoRAError, zero_moments
from sora_ref.optim import Moments

U64 = Decimal(2) ** -53


@pytest.mark.exact("SORA-OPT-1")
@given(array_of((3,)), array_of((3,)), dyadics.map(abs), st.booleans(), dyadics.map(abs))
def test_sgd_is_theta_minus_eta_w_theta_minus_eta_g(
    xp: Space, theta: Any, grad: Any, lr: Fraction, decay: bool, w: Fraction
) -> None:
    rule: Any = SGD(weight_decay=xp.number(w))
    start = zero_moments(xp.asarray(theta))
    new, moments = rule.update(xp.asarray(theta), xp.asarray(grad), start, 1, xp.number(lr), decay=decay)
    assert all_equal(xp.fractions(new), theta - (lr * w if decay else 0) * theta - lr * grad)
    assert moments is start


@pytest.mark.exact("SORA-OPT-3")
def test_sgd_has_no_metric(xp: Space) -> None:
    rule: Any = SGD()
    assert rule.metric(zero_moments(xp.asarray([1, 2])), 1) is None


@pytest.mark.exact("SORA-OPT-2")
def test_zero_moments_are_zero_and_of_the_parameters_shape(xp: Space) -> None:
    for part in zero_moments(xp.asarray([[1, 2, 3]])):
        assert all_equal(xp.to_numpy(part), [[0, 0, 0]])


def joined(errors: Decimal) -> Decimal:
    """Π(1+δ_i)^±1 = 1 + θ with |θ| ≤ E/(1 − E) where Σ|δ_i| ≤ E < 1 (Higham, lemma 3.1)."""
    assert errors < 1
    return errors / (1 - errors)


class Scalar:
    """AdamW of one number in 50 digits, and how far a floating-point AdamW may have drifted from it."""

    def __init__(self, theta: float, optimiser: AdamW, u: Decimal) -> None:
        self.theta, self.m, self.v, self.size = Decimal(theta), Decimal(0), Decimal(0), Decimal(0)
        self.rule, self.u, self.drift = optimiser, u, Decimal(0)

    def step(self, t: int, grad: float, lr: float, decay: bool) -> None:
        beta1, beta2 = map(Decimal, self.rule.betas)
        G, eta, eps, u = Decimal(grad), Decimal(lr), Decimal(self.rule.eps), self.u
        w = Decimal(self.rule.weight_decay) if decay else Decimal(0)
        self.m = beta1 * self.m + (1 - beta1) * G
        self.size = beta1 * self.size + (1 - beta1) * abs(G)  # m with every cancellation taken away
        self.v = beta2 * self.v + (1 - beta2) * G * G
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        raw = self.rule.eps_on == "raw"
        C = (self.v.sqrt() + eps) / c2.sqrt() if raw else (self.v / c2).sqrt() + eps
        before = self.theta
        change, size = eta * self.m / c1 / C, eta * self.size / c1 / C
        if self.rule.decays == "before":
            self.theta = before - eta * w * before - change
        else:
            self.theta = (before - change) * (1 - eta * w)
        # m: of each earlier term, per step, rounding of beta (or of 1 − beta, twice), product, sum: at most 4; v: one
        # more for G². 1 − beta^t is formed in float64: two units of beta^t, magnified by 1/(1 − beta^t), and one more;
        # it, its root, eps, the sum, both divisions, lr/c1 and the product with m round once more each: 10 are enough.
        c_errors = sum((2 * U64 * b / (1 - b) + U64) for b in (beta1**t, beta2**t))
        relative = joined((4 * t + 5 * t + 10) * u + c_errors)
        # theta: eta·w, its cast, its product, up to two differences: at most 5 roundings of each summand.
        reach = (abs(before) + self.drift + size * (1 + relative)) * (1 + eta * w)
        self.drift = (self.drift + size * relative) * (1 + eta * w) + joined(5 * u) * reach


@pytest.mark.bounded("SORA-OPT-2")
@pytest.mark.parametrize("eps_on", ["corrected", "raw"])
@pytest.mark.parametrize("decays", ["before", "after"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(key=keys, eps=st.sampled_from([1e-8, 1e-6, 0.125]), decay=st.booleans())
def test_adamw_follows_its_formula_within_the_derived_bound(
    floats: Space,
    eps_on: Literal["corrected", "raw"],
    decays: Literal["before", "after"],
    dtype: str,
    key: int,
    eps: float,
    decay: bool,
) -> None:
    rng = np.random.default_rng(key)
    optimiser = AdamW(betas=(0.9, 0.999), eps=eps, weight_decay=0.5, eps_on=eps_on, decays=decays)
    theta = rng.standard_normal(3).astype(dtype)
    with localcontext() as context:
        context.prec = 50
        u = Decimal(unit_roundoff(dtype).numerator) / Decimal(unit_roundoff(dtype).denominator)
        truth = [Scalar(float(value), optimiser, u) for value in theta]
        found, moments = floats.asarray(theta, dtype), zero_moments(floats.asarray(theta, dtype))
        for t in range(1, 7):
            grad = (rng.standard_normal(3) * 10.0 ** rng.integers(-3, 2)).astype(dtype)
            lr = float(rng.choice([0.0, 0.01, 0.25]))
            found, moments = optimiser.update(found, floats.asarray(grad, dtype), moments, t, lr, decay=decay)
            assert str(floats.to_numpy(found).dtype) == dtype
            for scalar, value, slope in zip(truth, floats.to_numpy(found), grad, strict=True):
                scalar.step(t, float(slope), lr, decay)
                assert abs(Decimal(float(value)) - scalar.theta) <= scalar.drift
                assert scalar.drift < (Decimal("1e-3") if dtype == "float32" else Decimal("1e-11"))  # it says something


@pytest.mark.bounded("SORA-OPT-2")
def test_adamw_first_step_is_lr_times_sign_but_for_eps(floats: Space) -> None:
    """m̂ = G and √v̂ = |G|, so the step is lr·G/(|G| + ε); with |G| = 1 and ε = 1 it is lr/2, to four roundings."""
    grad = floats.asarray([1.0, -1.0])
    new, _ = AdamW(eps=1.0).update(floats.asarray([0.0, 0.0]), grad, zero_moments(grad), 1, 0.5)
    errors = np.abs(floats.to_numpy(new) - [-0.25, 0.25])
    assert (errors <= 0.25 * 20 * float(unit_roundoff("float64"))).all()  # 20 > the roundings on the path


@pytest.mark.bounded("SORA-OPT-2", "SORA-OPT-3")
def test_raw_eps_is_thirty_times_corrected_eps_at_the_first_step(floats: Space) -> None:
    moments = Moments(floats.asarray([0.0]), floats.asarray([0.0]))
    corrected = floats.to_numpy(AdamW(eps=1e-6).metric(moments, 1)).item()
    raw = floats.to_numpy(AdamW(eps=1e-6, eps_on="raw").metric(moments, 1)).item()
    assert corrected == 1e-6
    # 1/√(1 − 0.999) = √1000 = 31.6…; the difference 1 − 0.999 is exact, the power, the root and the division round
    assert abs(raw / corrected - 1000**0.5) <= 1000**0.5 * 8 * 2.0**-53 + 1000**0.5 * 500 * 2.0**-53


@pytest.mark.exact("SORA-OPT-2")
def test_undecayed_groups_are_not_decayed_and_decay_is_decoupled_from_the_gradient(floats: Space) -> None:
    theta, zero = floats.asarray([8.0]), floats.asarray([0.0])
    rule = AdamW(weight_decay=0.5)
    kept, _ = rule.update(theta, zero, zero_moments(theta), 1, 0.5, decay=False)
    shrunk, moments = rule.update(theta, zero, zero_moments(theta), 1, 0.5)
    assert floats.to_numpy(kept).item() == 8
    assert floats.to_numpy(shrunk).item() == 6  # 8·(1 − 0.5·0.5)
    assert [floats.to_numpy(part).item() for part in moments] == [0, 0]


@pytest.mark.bounded("SORA-OPT-2")
def test_decay_after_acts_on_the_stepped_value(floats: Space) -> None:
    """lr 0.5, w 1, |G| = 1, ε = 1: the step is 0.25, so 4 → 4 − 2 − 0.25 before and (4 − 0.25)/2 after."""
    theta, grad = floats.asarray([4.0]), floats.asarray([1.0])
    for decays, expected in (("before", 1.75), ("after", 1.875)):
        rule = AdamW(eps=1.0, weight_decay=1.0, decays=decays)  # type: ignore[arg-type]
        new, _ = rule.update(theta, grad, zero_moments(theta), 1, 0.5)
        assert abs(floats.to_numpy(new).item() - expected) <= 8 * 20 * 2.0**-53  # ≤ 20 roundings of numbers below 8


@pytest.mark.exact("SORA-OPT-2")
@pytest.mark.parametrize(("part", "chosen", "other"), [("decays", "before", "after"), ("eps_on", "corrected", "raw")])
def test_adamw_decays_before_the_step_and_corrects_before_eps_unless_told_otherwise(
    floats: Space, part: str, chosen: str, other: str
) -> None:
    theta, grad = floats.asarray([4.0]), floats.asarray([1.0])

    def stepped(**change: Any) -> bytes:
        rule = AdamW(eps=1.0, weight_decay=1.0, **change)
        return floats.to_numpy(rule.update(theta, grad, zero_moments(theta), 1, 0.5)[0]).tobytes()

    assert stepped() == stepped(**{part: chosen})
    assert stepped() != stepped(**{part: other})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"betas": (1.0, 0.9)}, r"betas are \(1\.0, 0\.9\): expected 0 <= beta < 1"),
        ({"betas": (0.9, -0.1)}, r"betas are"),
        ({"eps": -1e-8}, r"eps is -1e-08: expected at least 0"),
        ({"eps": float("nan")}, r"eps is nan: expected a finite number"),
    ],
)
def test_adamw_refuses_settings_outside_its_range(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        AdamW(**change)


@pytest.mark.parametrize("rule", [SGD, AdamW])
def test_weight_decay_may_be_zero_and_no_less(rule: Any) -> None:
    assert rule(weight_decay=0.0).weight_decay == 0
    for decay, expected in ((-0.1, "at least 0"), (-5e-324, "at least 0"), (float("nan"), "a finite number")):
        with pytest.raises(SoRAError, match=f"^weight_decay is {decay}: expected {expected}$"):
            rule(weight_decay=decay)


@pytest.mark.parametrize("rule", [SGD(), AdamW()])
def test_update_refuses_what_does_not_fit(floats: Space, rule: Any) -> None:
    theta = floats.asarray([1.0, 2.0])
    start = zero_moments(theta)
    others = r"m \S*float64, v \S*float64"
    mixed = rf"^mixed dtypes \(parameter \S*float64, gradient \S*float32, {others}\): expected one dtype for all$"
    for grad, t, lr, sentence in (
        (floats.asarray([1.0]), 1, 0.1, r"gradient has shape \(1,\): expected \(2,\)"),
        (floats.asarray([1.0, 2.0], "float32"), 1, 0.1, mixed),
        (theta, 0, 0.1, r"step t is 0: expected 1 or more"),
        (theta, 1, -0.1, r"learning rate is -0\.1: expected at least 0"),
        (theta, 1, float("nan"), r"learning rate is nan: expected a finite number"),
    ):
        with pytest.raises(SoRAError, match=sentence):
            rule.update(theta, grad, start, t, lr)
