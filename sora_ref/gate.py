"""The gate rule: a gradient step, then a threshold (clause SORA-GATE).

    g ← T_a(descend(g, ∇_g L0))                                                       SoRA eq. 10

One function, composed of three parts a rule names: how the gate descends, which amount a is cut off, and by which map.
`strength` is what the rule's amount is made of: ξ for a constant threshold, λ for the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.optim import SGD, AdamW, Moments, Optimiser
from sora_ref.preconditions import require, require_finite_number
from sora_ref.prox import released_threshold, soft_threshold

Amount = Callable[[Any, Any, "Array | None", Moments], Any]  # (strength, lr, metric C, moments) -> threshold


def constant_xi(strength: Any, lr: Any, metric: Array | None, moments: Moments) -> Any:
    """a = ξ, whatever the learning rate: zero gates become absorbing when lr decays (SORA-REVIVAL-3)."""
    return strength


def lr_times_lambda(strength: Any, lr: Any, metric: Array | None, moments: Moments) -> Any:
    """a = η_t·λ, the paper's ξ (SoRA eq. 10), formed as a Python number and rounded once later (SORA-GATE-2)."""
    return lr * strength


def in_metric(strength: Any, lr: Any, metric: Array | None, moments: Moments) -> Any:
    """a_i = η_t·λ/C_i: the prox in the metric Adam moves in (ProxGen, Yun, Lozano & Yang 2021; SORA-GATE-3).

    Where v̂_i = 0, no gradient has come yet (at step 1, since B = 0: SORA-REVIVAL-2) and C_i is ε alone.  There a_i is
    0, and the gate keeps its value.
    """
    xp = array_namespace(metric)
    annihilating = in_metric_literal(strength, lr, metric, moments)
    return xp.where(moments.v > 0, annihilating, xp.zeros_like(annihilating))


def in_metric_literal(strength: Any, lr: Any, metric: Array | None, moments: Moments) -> Any:
    """a_i = η_t·λ/C_i also where C_i = ε: the literal form, which annihilates every gate at step 1 (SORA-GATE-3)."""
    return (lr * strength) / metric


@dataclass(frozen=True)
class GateRule:
    """A named gate rule (SORA-GATE-1).

    descend:   the optimiser of the gates, never decayed unless it says so itself.
    amount:    the threshold of this step.
    threshold: the map that cuts it off.
    loss_l1:   also add `loss_l1`·sgn(g)/(number of gates) to the gradient, before clipping: the released double L1
               (SORA-STEP-3).

    >>> rule = sr.ADAMW_XI.replace(descend=sr.AdamW(eps=1e-6))
    >>> rule.name, rule.scalar_amount(strength=0.01, lr=1e-3)
    ('adamw-xi', 0.01)
    """

    name: str
    descend: Optimiser
    amount: Amount
    threshold: Callable[[Array, Any], Array]
    loss_l1: float = 0.0

    def scalar_amount(self, strength: Any, lr: Any) -> Any | None:
        """The threshold of a step where it is one number for all gates; None for a rule in Adam's metric."""
        per_coordinate = self.amount in (in_metric, in_metric_literal)
        return None if per_coordinate else self.amount(strength, lr, None, Moments(None, None))

    def replace(self, **changes: Any) -> GateRule:
        """This rule with some parts changed."""
        return dataclasses.replace(self, **changes)


PAPER = GateRule("paper", SGD(), lr_times_lambda, soft_threshold)
"""The paper's rule: SGD, then T with η_t·λ (SoRA eq. 10; SORA-GATE-1).

>>> sr.PAPER.scalar_amount(strength=0.5, lr=0.25)
0.125
"""

ADAMW_XI = GateRule("adamw-xi", AdamW(), constant_xi, soft_threshold)
"""AdamW without decay, then T with a constant ξ: the default of `Recipe` (SORA-GATE-1).

>>> sr.ADAMW_XI.scalar_amount(strength=0.5, lr=0.25)
0.5
"""

ADAMW_LR_LAMBDA = GateRule("adamw-lr-lambda", AdamW(), lr_times_lambda, soft_threshold)
ADAMW_METRIC = GateRule("adamw-metric", AdamW(), in_metric, soft_threshold)
ADAMW_METRIC_LITERAL = GateRule("adamw-metric-literal", AdamW(), in_metric_literal, soft_threshold)

RELEASED = GateRule("released", AdamW(eps=1e-6, eps_on="raw"), constant_xi, released_threshold, loss_l1=10.0)
"""The released code's rule (SORA-GATE-1).

Deviation: the authors' optimiser is transformers' old AdamW with an ε of its own, it thresholds with the dead zone 2ξ,
and the loss carries a second L1 term: 10 in their script without a schedule, 1e-3 in the one with.

>>> sr.RELEASED.threshold(np.array([1.5]), 1.0)
array([0.])
"""

GATE_RULES = {
    rule.name: rule for rule in (PAPER, ADAMW_XI, ADAMW_LR_LAMBDA, ADAMW_METRIC, ADAMW_METRIC_LITERAL, RELEASED)
}
"""Every gate rule by its name (SORA-GATE-1).

>>> list(sr.GATE_RULES)
['paper', 'adamw-xi', 'adamw-lr-lambda', 'adamw-metric', 'adamw-metric-literal', 'released']
"""


def gate_update(
    rule: GateRule, g: Array, grad: Array, moments: Moments, t: int, lr: Any, strength: Any
) -> tuple[Array, Moments]:
    """g after step t of the rule, and the moments (SORA-GATE-1; SORA-STEP-7).

    g, grad:  (r,); grad is the data gradient at the same iterate as those of A and B, already clipped.
    lr:       η_t of this step, of the gates' own schedule where they have one; the amount uses the same (SORA-GATE-2).
    strength: ξ or λ, finite and ≥ 0.
    Under T a gate at zero leaves it exactly when the descent takes it further than the amount (SORA-REVIVAL-1).
    Raises SoRAError for a strength or learning rate that is negative or not finite, and for shapes or dtypes that
    differ.

    >>> g, grad = np.array([1.0, 0.1]), np.array([0.5, 0.0])
    >>> sr.gate_update(sr.PAPER, g, grad, sr.zero_moments(g), t=1, lr=0.5, strength=0.5)[0]
    array([0.5, 0. ])
    """
    require_finite_number("strength", strength, least=0)
    v, moments = rule.descend.update(g, grad, moments, t, lr)
    amount = rule.amount(strength, lr, rule.descend.metric(moments, t), moments)
    return rule.threshold(v, amount), moments


def adam_step_bound(betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """sup |m̂|/√v̂ over all gradient sequences and steps, in units of the learning rate (SORA-REVIVAL-3).

    By Cauchy-Schwarz it is (1−β₁)/√(1−β₂)/√(1−β₁²/β₂), approached by gradients that grow by β₂/β₁ a step: 7.27 for the
    usual betas.  A zero gate is absorbing once ξ ≥ this · η_t.  Deviation: Kingma & Ba's 3.16, the first factor alone,
    is reached by a lone gradient after many zeros; it bounds that case and not every sequence.
    Raises SoRAError where β₁ > 0 and β₁² ≥ β₂: the ratio is then unbounded.

    >>> round(sr.gate.adam_step_bound(), 2)
    7.27
    """
    beta1, beta2 = betas
    require(0 <= beta1 < 1 and 0 <= beta2 < 1, f"betas are {betas}: expected 0 <= beta < 1")
    require(beta1 == 0 or beta1 * beta1 < beta2, f"betas are {betas}: expected beta1 squared below beta2")
    ratio = beta1 * beta1 / beta2 if beta1 else 0.0
    return (1 - beta1) / math.sqrt(1 - beta2) / math.sqrt(1 - ratio)
