"""The operations a faster backend may replace; the specification's own are the defaults.

Models and training steps take `ops`.  There is no hidden switch: who wants a faster form passes
``SPEC.replace(**backend.kernels)``, and every replacement has a differential test against the function it replaces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from sora_ref import gate, prox
from sora_ref.backends import Array, float_info
from sora_ref.gate import GateRule, gate_update
from sora_ref.gradients import clip_by_global_norm, combine_microbatches
from sora_ref.linear import sora_linear_backward, sora_linear_forward
from sora_ref.optim import AdamW, Moments, Optimiser

_THRESHOLDS: dict[Any, int] = {None: 0, prox.soft_threshold: 1, prox.released_threshold: 2}
_METRICS: dict[Any, int] = {
    None: 0,
    gate.constant_xi: 0,
    gate.lr_times_lambda: 0,
    gate.in_metric: 1,
    gate.in_metric_literal: 2,
}


class StepNumbers(NamedTuple):
    """One parameter's step in numbers alone, for a kernel that makes the steps of all parameters at once.

    adam:          AdamW, else SGD.  raw, after: whether `eps_on` is "raw" and `decays` is "after".
    beta1, rest1, beta2, rest2: β₁, 1 − β₁, β₂, 1 − β₂.
    rate:          η/(1 − β₁ᵗ); η for SGD.
    correction:    1 − β₂ᵗ, its root where ε is on the raw √v.
    shrink:        ηw.
    threshold:     0 for none, 1 for `soft_threshold`, 2 for `released_threshold`.
    amount:        what it cuts off, a number; over the metric C where `metric` is 1 (`in_metric`) or 2 (its literal
                   form).
    """

    adam: bool
    rate: float
    shrink: float
    threshold: int
    amount: float
    metric: int
    beta1: float = 0.0
    rest1: float = 0.0
    beta2: float = 0.0
    rest2: float = 0.0
    correction: float = 1.0
    eps: float = 0.0
    raw: bool = False
    after: bool = False


class Update(NamedTuple):
    """All that one parameter's step depends on, but its number t.

    rule:     the gate rule of a gate, the optimiser of any other parameter.
    lr:       η_t, of the gates' own schedule for a gate.
    strength: ξ or λ of the gate rule; 0 for what is no gate.
    decay:    whether the parameter's group is decayed.
    """

    theta: Array
    grad: Array
    moments: Moments
    rule: GateRule | Optimiser
    lr: float
    strength: float = 0.0
    decay: bool = False

    def step(self, t: int) -> tuple[Array, Moments]:
        """The parameter and its moments after step t."""
        theta, grad, moments, rule, lr, strength, decay = self
        if isinstance(rule, GateRule):
            return gate_update(rule, theta, grad, moments, t, lr, strength)
        return rule.update(theta, grad, moments, t, lr, decay=decay)

    def numbers(self, t: int) -> StepNumbers | None:
        """Step t in numbers; None where the rule is made of other parts, or `step` would refuse."""
        rule, lr, decay, cut, metric, amount = self.rule, self.lr, self.decay, None, None, 0.0
        if isinstance(rule, GateRule):
            cut, metric, rule, decay = rule.threshold, rule.amount, rule.descend, True
            amount = self.strength if metric is gate.constant_xi else lr * self.strength
        known = cut in _THRESHOLDS and metric in _METRICS and (isinstance(rule, AdamW) or _METRICS[metric] == 0)
        given = (self.theta, self.grad, *self.moments)
        alike = len({(x.shape, x.dtype) for x in given}) == 1
        finite = 0 <= lr < math.inf and 0 <= self.strength < math.inf
        if not (known and alike and finite and t >= 1 and amount <= float_info(self.theta).max):
            return None
        shrink = lr * rule.weight_decay if decay else 0.0
        if not isinstance(rule, AdamW):
            return StepNumbers(False, lr, shrink, _THRESHOLDS[cut], amount, 0)
        beta1, beta2 = rule.betas
        correction, raw = 1 - beta2**t, rule.eps_on == "raw"
        return StepNumbers(
            adam=True,
            rate=lr / (1 - beta1**t),
            shrink=shrink,
            threshold=_THRESHOLDS[cut],
            amount=amount,
            metric=_METRICS[metric],
            beta1=beta1,
            rest1=1 - beta1,
            beta2=beta2,
            rest2=1 - beta2,
            correction=correction**0.5 if raw else correction,
            eps=rule.eps,
            raw=raw,
            after=rule.decays == "after",
        )


def update_parameters(updates: Mapping[str, Update], t: int) -> dict[str, tuple[Array, Moments]]:
    """Every parameter and its moments after step t, by name: none depends on another (SORA-STEP-6, SORA-STEP-7)."""
    return {name: update.step(t) for name, update in updates.items()}


@dataclass(frozen=True)
class Ops:
    """The specification's operations, each a pure function."""

    sora_linear_forward: Callable[..., Any] = sora_linear_forward
    sora_linear_backward: Callable[..., Any] = sora_linear_backward
    combine_microbatches: Callable[..., Any] = combine_microbatches
    clip_by_global_norm: Callable[..., Any] = clip_by_global_norm
    update_parameters: Callable[..., Any] = update_parameters

    def replace(self, **operations: Callable[..., Any]) -> Self:
        """These operations with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **operations)


SPEC = Ops()
