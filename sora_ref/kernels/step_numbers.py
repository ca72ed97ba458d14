"""An optimiser step in numbers alone, which is how a kernel gets to know it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sora_ref import gate, prox
from sora_ref.backends import float_info
from sora_ref.gate import GateRule
from sora_ref.ops import Update
from sora_ref.optim import AdamW

_THRESHOLDS: dict[Any, int] = {None: 0, prox.soft_threshold: 1, prox.released_threshold: 2}
_METRICS: dict[Any, int] = {
    None: 0,
    gate.constant_xi: 0,
    gate.lr_times_lambda: 0,
    gate.in_metric: 1,
    gate.in_metric_literal: 2,
}


class StepNumbers(NamedTuple):
    """One parameter's step; its fields are those of `struct Update` in cuda/kernels.cu, and mean the same.

    adam:          AdamW, else SGD.
    rate:          η/(1 − β₁ᵗ); η for SGD.
    shrink:        ηw.
    threshold:     0 for none, 1 for `soft_threshold`, 2 for `released_threshold`.
    amount:        what it cuts off, a number; over the metric C where `metric` is 1 (`in_metric`) or 2 (its literal
                   form).
    beta1, one_minus_beta1, beta2, one_minus_beta2: β₁, 1 − β₁, β₂, 1 − β₂, each rounded once.
    correction:    1 − β₂ᵗ, its root where ε is on the raw √v.
    raw, after:    whether `eps_on` is "raw", and `decays` "after".
    """

    adam: bool
    rate: float
    shrink: float
    threshold: int
    amount: float
    metric: int
    beta1: float = 0.0
    one_minus_beta1: float = 0.0
    beta2: float = 0.0
    one_minus_beta2: float = 0.0
    correction: float = 1.0
    eps: float = 0.0
    raw: bool = False
    after: bool = False


def step_numbers(updates: Mapping[str, Update], t: int) -> dict[str, StepNumbers | None]:
    """Step t of every parameter in numbers, by name.

    None where the rule is made of parts that the kernels lack, where `Update.step` would refuse, and for SGD with a
    decay of η·w = 0, which is no step without a decay: it adds 0·θ.
    Hundreds of parameters have few rules; each is put into numbers once.
    """
    made: dict[tuple[Any, ...], StepNumbers | None] = {}
    found: dict[str, StepNumbers | None] = dict.fromkeys(updates)
    for name, (theta, grad, (m, v), rule, lr, strength, decay) in updates.items():
        if theta.shape == grad.shape == m.shape == v.shape and theta.dtype == grad.dtype == m.dtype == v.dtype:
            key = id(rule), lr, strength, decay, theta.dtype
            if key not in made:
                made[key] = _of_rule(updates[name], t)
            found[name] = made[key]
    return found


def _of_rule(update: Update, t: int) -> StepNumbers | None:
    """The step in numbers of an update whose arrays have one shape and one dtype."""
    rule, lr, decay, cut, metric, amount = update.rule, update.lr, update.decay, None, None, 0.0
    if isinstance(rule, GateRule):
        cut, metric, rule, decay = rule.threshold, rule.amount, rule.descend, True
        amount = update.strength if metric is gate.constant_xi else lr * update.strength
    known = cut in _THRESHOLDS and metric in _METRICS and (isinstance(rule, AdamW) or _METRICS[metric] == 0)
    plain = type(lr) in (int, float) and type(update.strength) in (int, float)  # no NumPy scalar, which would promote
    finite = 0 <= lr < math.inf and 0 <= update.strength < math.inf
    if not (known and plain and finite and t >= 1 and amount <= float_info(update.theta).max):
        return None
    shrink = lr * float(rule.weight_decay) if decay else 0.0
    if not isinstance(rule, AdamW):
        adds_nothing = decay and rule.weight_decay > 0 and shrink == 0
        return None if adds_nothing else StepNumbers(False, float(lr), shrink, _THRESHOLDS[cut], float(amount), 0)
    beta1, beta2 = map(float, rule.betas)
    correction, raw = 1 - beta2**t, rule.eps_on == "raw"
    return StepNumbers(
        adam=True,
        rate=lr / (1 - beta1**t),
        shrink=shrink,
        threshold=_THRESHOLDS[cut],
        amount=float(amount),
        metric=_METRICS[metric],
        beta1=beta1,
        one_minus_beta1=1 - beta1,
        beta2=beta2,
        one_minus_beta2=1 - beta2,
        correction=correction**0.5 if raw else correction,
        eps=float(rule.eps),
        raw=raw,
        after=rule.decays == "after",
    )
