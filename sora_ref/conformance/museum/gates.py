"""Mistakes in the threshold, in the gate's step and in the penalty: g ← T(g − η_t ∇, η_t·λ), λ Σ‖g‖₁."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Plan

# --- the threshold ---


@mistake("SORA-PROX-1", seen="released code, and public re-implementations that copy it")
class ThreeLinesInSequence(PlainSoRA):
    """What lies between ξ and 2ξ is shrunk by one line and zeroed by the next: a dead zone of 2ξ."""

    def prox(self, v: Floats, xi: float) -> Floats:
        u = v.copy()
        u[u > xi] -= xi
        u[u < -xi] += xi
        u[np.abs(u) < xi] = 0
        return u


@mistake("SORA-PROX-1")
class HardAfterSoft(PlainSoRA):
    """A hard threshold at ξ after the soft one: the dead zone of 2ξ without the released code's isolated points."""

    def prox(self, v: Floats, xi: float) -> Floats:
        u = super().prox(v, xi)
        return np.where(np.abs(u) < xi, 0, u)


@mistake("SORA-PROX-1", seen="magnitude pruning")
class HardThreshold(PlainSoRA):
    """What exceeds ξ is kept as it is, and not shrunk."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return np.where(np.abs(v) > xi, v, 0)


@mistake("SORA-PROX-1", seen="L1 terms in a loss")
class SubgradientForProx(PlainSoRA):
    """v − ξ·sgn(v), which crosses zero and hardly ever stays there."""

    def prox(self, v: Floats, xi: float) -> Floats:
        out: Floats = v - xi * np.sign(v)
        return out


@mistake("SORA-PROX-1")
class NegativeGatesCut(PlainSoRA):
    """relu(v − ξ): every negative gate becomes zero."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return np.maximum(v - xi, 0)


@mistake("SORA-PROX-1")
class RidgeForLasso(PlainSoRA):
    """v/(1 + ξ), the prox of a squared norm, which makes nothing zero."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return v / (1 + xi)


@mistake("SORA-PROX-1", seen="group lasso")
class GroupThreshold(PlainSoRA):
    """All gates of a module shrink by one factor: the prox of ‖g‖₂, not of ‖g‖₁."""

    def prox(self, v: Floats, xi: float) -> Floats:
        size = float(np.sqrt((v * v).sum()))
        return v * max(0.0, 1 - xi / size) if size else v


@mistake("SORA-PROX-1")
class DivisorLeavesResidue(PlainSoRA):
    """The sign is taken as v/(|v| + 10⁻⁸), which is a little less than one."""

    def prox(self, v: Floats, xi: float) -> Floats:
        out: Floats = v / (np.abs(v) + 1e-8) * np.maximum(np.abs(v) - xi, 0)
        return out


@mistake("SORA-PROX-1.zero")
class RoundingLeavesResidue(PlainSoRA):
    """v + (|v − ξ| − |v + ξ|)/2 is T in exact arithmetic, and a rounding away from zero in floats."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return v + (np.abs(v - xi) - np.abs(v + xi)) / 2


@mistake("SORA-PROX-1.special")
class NanBecomesZero(PlainSoRA):
    """where(|v| > ξ, …, 0) is false for NaN: a broken gate is pruned, and never seen."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return np.where(np.abs(v) > xi, super().prox(v, xi), 0)


@mistake("SORA-PROX-1.special", seen="nan_to_num as a safeguard")
class InfinityBecomesLarge(PlainSoRA):
    """An infinite gate becomes the largest number there is."""

    def prox(self, v: Floats, xi: float) -> Floats:
        return np.nan_to_num(super().prox(v, xi), nan=np.nan)


# --- the step ---


@mistake("SORA-LINEAR-5", seen="g.sub_(…) under no_grad")
class GatesChangedInPlace(PlainSoRA):
    """The caller's gates are what is thresholded."""

    def prox(self, v: Floats, xi: float) -> Floats:
        v[...] = super().prox(v, xi)
        return v.copy()


@mistake("SORA-GATE-1", seen="public re-implementations")
class ThresholdWithoutRate(PlainSoRA):
    """The threshold is λ where η_t·λ is declared."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[t] * grad, plan.strength)


@mistake("SORA-GATE-1")
class ThresholdWithRateTwice(PlainSoRA):
    """The threshold is η_t²·λ: the caller has multiplied by η_t already."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[t] * grad, plan.lrs[t] ** 2 * plan.strength)


@mistake("SORA-GATE-1")
class ThresholdBeforeDescent(PlainSoRA):
    """The prox comes before the gradient step, so zeros do not stay zero."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g, plan.lrs[t] * plan.strength) - plan.lrs[t] * grad


@mistake("SORA-GATE-1", seen="L1 terms in a loss")
class PenaltyInTheGradient(PlainSoRA):
    """λ·sgn(g) is added to the gradient, and there is no prox."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return g - plan.lrs[t] * (grad + plan.strength * np.sign(g))


@mistake("SORA-GATE-1", seen="released code; public re-implementations")
class PenaltyTwice(PlainSoRA):
    """λ·sgn(g)/(number of gates) is added to the gradient, and the prox acts as well."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return super().gate_step(g, grad + plan.strength * np.sign(g) / len(g), plan, t)


@mistake("SORA-GATE-1", seen="public re-implementations: one group for all parameters")
class GatesDecay(PlainSoRA):
    """The gates decay by 0.01, as everything in their optimiser's group does."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return super().gate_step(g, grad + 0.01 * g, plan, t)


@mistake("SORA-GATE-1", seen="masks in the manner of pruning")
class ZeroForGood(PlainSoRA):
    """A gate that is zero stays zero."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return np.where(g == 0, g, super().gate_step(g, grad, plan, t))


@mistake("SORA-GATE-1", seen="gates taken for probabilities")
class GatesClamped(PlainSoRA):
    """Gates are kept between 0 and 1."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return np.clip(super().gate_step(g, grad, plan, t), 0, 1)


@mistake("SORA-GATE-2", seen="public re-implementations")
class ThresholdAtThePeak(PlainSoRA):
    """The threshold is made of the schedule's peak, and does not follow the learning rate."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[t] * grad, plan.peak * plan.strength)


@mistake("SORA-GATE-2", seen="public re-implementations: the scheduler steps before the prox")
class ThresholdOfTheNextStep(PlainSoRA):
    """The threshold is made of the learning rate of the step to come."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[t] * grad, plan.lrs[t + 1] * plan.strength)


@mistake("SORA-GATE-2")
class DescentOfTheFirstStep(PlainSoRA):
    """The gates descend by the rate that their optimiser was made with, and the threshold follows the schedule."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[0] * grad, plan.lrs[t] * plan.strength)


# --- the penalty ---


@mistake("SORA-PROX-4", seen="released code")
class PenaltyAveraged(PlainSoRA):
    """The sum of |g| is divided by the number of gates."""

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        return super().penalty(gates, lam) / max(sum(g.size for g in gates), 1)


@mistake("SORA-PROX-4")
class PenaltyMeanOverModules(PlainSoRA):
    """The sum of |g| is divided by the number of modules."""

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        return super().penalty(gates, lam) / max(len(gates), 1)


@mistake("SORA-PROX-4")
class PenaltyOfSquares(PlainSoRA):
    """g² is summed where |g| is meant."""

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        return super().penalty([g * g for g in gates], lam)


@mistake("SORA-PROX-4")
class PenaltyWithSigns(PlainSoRA):
    """The gates are summed with their signs, so opposite ones cancel."""

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        return lam * sum(float(g.sum()) for g in gates)
