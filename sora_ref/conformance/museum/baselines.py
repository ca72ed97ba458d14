"""The two right implementations that every mistake is one small change away from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.protocol.choices import VARIANTS
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple


class PlainAdamSoRA(PlainSoRA):
    """`PlainSoRA` with AdamW for A, B and gates, then the soft threshold at a constant ξ."""

    name = "plain NumPy with AdamW"
    choices = VARIANTS["adamw-xi"]
    betas = (0.9, 0.999)
    eps = 1e-8

    moments: dict[str, tuple[Floats, Floats]]

    def restart(self) -> None:
        """A fresh optimiser: no moments yet."""
        self.moments = {}

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:  # noqa: D102 - as in Implementation, here and below
        self.restart()
        return super().gate_steps(g, grads, plan)

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:  # noqa: D102
        self.restart()
        return super().train(layer, xs, dys, plan)

    def adam(self, name: str, grad: Floats, t: int) -> Floats:
        """m̂/(√v̂ + ε) of the parameter of this name; t counts from 0."""
        (beta1, beta2), nothing = self.betas, np.zeros_like(grad)
        m, v = self.moments.get(name, (nothing, nothing))
        m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * self.square(grad)
        self.moments[name] = m, v
        return self.direction(m, v, t + 1)

    def square(self, grad: Floats) -> Floats:
        """What v is the mean of."""
        return grad * grad

    def direction(self, m: Floats, v: Floats, t: int) -> Floats:
        """m̂/(√v̂ + ε), t from 1."""
        beta1, beta2 = self.betas
        out: Floats = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + self.eps)
        return out

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:  # noqa: D102 - as in PlainSoRA
        return self.prox(g - plan.lrs[t] * self.adam("g", grad, t), plan.strength)

    def step(self, layer: Layer, grads: Mapping[str, Floats], plan: Plan, t: int) -> Layer:  # noqa: D102
        moves = {name: self.adam(name, grads[name], t) for name in ("dA", "dB")}
        return super().step(layer, {**grads, **moves}, plan, t)


BASELINES: tuple[type[PlainSoRA], ...] = (PlainAdamSoRA, PlainSoRA)


def gate(layer: Layer) -> Floats:
    """The gate of a layer that has one."""
    return np.asarray(layer.g)


def ungated(layer: Layer) -> Layer:
    """The layer with every gate at one."""
    return layer._replace(g=np.ones_like(gate(layer)))
