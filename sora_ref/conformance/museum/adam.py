"""Mistakes in AdamW, and where it meets the threshold: the base declares `adamw-xi`."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sora_ref.conformance.museum.baselines import PlainAdamSoRA
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan


@mistake("SORA-GATE-1", seen="BERTAdam")
class NoBiasCorrection(PlainAdamSoRA):
    """m/(√v + ε): the moments are not corrected for beginning at zero."""

    def direction(self, m: Floats, v: Floats, t: int) -> Floats:
        out: Floats = m / (np.sqrt(v) + self.eps)
        return out


@mistake("SORA-GATE-1", seen="transformers' old AdamW, not declared")
class EpsOnTheRawRoot(PlainAdamSoRA):
    """ε is added to √v before the correction of its bias."""

    def direction(self, m: Floats, v: Floats, t: int) -> Floats:
        beta1, beta2 = self.betas
        out: Floats = m / (1 - beta1**t) * (1 - beta2**t) ** 0.5 / (np.sqrt(v) + self.eps)
        return out


@mistake("SORA-GATE-1", seen="optax's eps_root")
class EpsInsideTheRoot(PlainAdamSoRA):
    """√(v̂ + ε) where √v̂ + ε is meant."""

    def direction(self, m: Floats, v: Floats, t: int) -> Floats:
        beta1, beta2 = self.betas
        out: Floats = m / (1 - beta1**t) / np.sqrt(v / (1 - beta2**t) + self.eps)
        return out


@mistake("SORA-GATE-1")
class CountedFromTwo(PlainAdamSoRA):
    """t has been advanced before the first step."""

    def adam(self, name: str, grad: Floats, t: int) -> Floats:
        return super().adam(name, grad, t + 1)


@mistake("SORA-GATE-1")
class SizeForSquare(PlainAdamSoRA):
    """v is the mean of |G| where that of G² is meant."""

    def square(self, grad: Floats) -> Floats:
        return np.abs(grad)


@mistake("SORA-LINEAR-5")
class MomentsOfTheLastRun(PlainAdamSoRA):
    """A new run goes on with the moments of the one before, and in their dtype."""

    def restart(self) -> None:
        self.moments = getattr(self, "moments", {})


@mistake("SORA-GATE-1", seen="public re-implementations")
class XiTimesRate(PlainAdamSoRA):
    """The threshold is η_t·ξ where a constant ξ is declared."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return self.prox(g - plan.lrs[t] * self.adam("g", grad, t), plan.lrs[t] * plan.strength)


@mistake("SORA-OPT-2")
class BetasSwapped(PlainAdamSoRA):
    """β₁ stands in the second moment, and β₂ in the first."""

    betas = (0.999, 0.9)


@mistake("SORA-OPT-2")
class SecondMomentNeverFalls(PlainAdamSoRA):
    """Of the old v and the new one the larger is kept, as AMSGrad does beside v."""

    def adam(self, name: str, grad: Floats, t: int) -> Floats:
        _, before = self.moments.get(name, (grad, np.zeros_like(grad)))
        super().adam(name, grad, t)
        m, v = self.moments[name]
        self.moments[name] = m, np.maximum(v, before)
        return self.direction(*self.moments[name], t + 1)


@mistake("SORA-OPT-2", seen="optimisers that skip what is pruned")
class MomentsEndAtZero(PlainAdamSoRA):
    """A gate that becomes zero loses its moments."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        g = super().gate_step(g, grad, plan, t)
        m, v = self.moments["g"]
        self.moments["g"] = np.where(g == 0, 0, m), np.where(g == 0, 0, v)
        return g


@mistake("SORA-STEP-1")
class OneCountForAll(PlainAdamSoRA):
    """A, B and g advance one counter, so no two of them see the same t."""

    def restart(self) -> None:
        super().restart()
        self.calls = 0

    def adam(self, name: str, grad: Floats, t: int) -> Floats:
        self.calls += 1
        return super().adam(name, grad, self.calls - 1)


@mistake("SORA-STEP-6", seen="torch.optim.Adam's weight_decay")
class DecayInTheGradient(PlainAdamSoRA):
    """wθ is added to the gradient of A and B: Adam with an L2 term, and not AdamW."""

    def step(self, layer: Layer, grads: Mapping[str, Floats], plan: Plan, t: int) -> Layer:
        w = plan.weight_decay
        coupled = {**grads, "dA": grads["dA"] + w * layer.A, "dB": grads["dB"] + w * layer.B}
        return super().step(layer, coupled, replace(plan, weight_decay=0.0), t)


@mistake("SORA-STEP-6", seen="transformers' old AdamW, not declared")
class DecayAfterTheStep(PlainAdamSoRA):
    """A and B decay by their value after the step."""

    def step(self, layer: Layer, grads: Mapping[str, Floats], plan: Plan, t: int) -> Layer:
        moved = super().step(layer, grads, replace(plan, weight_decay=0.0), t)
        kept = 1 - plan.lrs[t] * plan.weight_decay
        return moved._replace(A=moved.A * kept, B=moved.B * kept)


@mistake("SORA-STEP-6", seen="public re-implementations: one group for all parameters")
class DecayOfGatesToo(PlainAdamSoRA):
    """The weight decay of A and B acts on the gates as well."""

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        return super().gate_step(g * (1 - plan.lrs[t] * plan.weight_decay), grad, plan, t)
