"""What the specification leaves open or names as a deviation: the choices an implementation declares.

The kit checks that an implementation does what it declares.  A choice that departs from a clause is reported as such
even where it is verified: a declaration explains a deviation, it does not make it conform.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sora_ref.gate import Amount, GateRule, constant_xi, in_metric, in_metric_literal, lr_times_lambda
from sora_ref.optim import SGD, AdamW, Optimiser
from sora_ref.prox import released_threshold, soft_threshold
from sora_ref.step import RECIPES, Recipe

Descent = Literal["sgd", "adamw", "adamw-raw"]
AmountName = Literal["xi", "lr-lambda", "metric", "metric-literal"]
Threshold = Literal["soft", "released"]
ReadsLr = Literal["current", "base", "next"]

_AMOUNTS: dict[AmountName, Amount] = {
    "xi": constant_xi,
    "lr-lambda": lr_times_lambda,
    "metric": in_metric,
    "metric-literal": in_metric_literal,
}
_THRESHOLDS: dict[Threshold, Any] = {"soft": soft_threshold, "released": released_threshold}


@dataclass(frozen=True)
class Choices:
    """The gate rule and whatever else implementations differ in (clauses SORA-GATE-1, SORA-LINEAR-2, SORA-STEP).

    descend:      how gates descend: SGD, or Adam with ε added to √v̂ ("adamw") or to √v ("adamw-raw").
    amount:       the threshold: constant ξ, η_t·λ, or η_t·λ/C_i in Adam's metric (literally, or only where v̂_i > 0).
    threshold:    the map: the soft threshold, or the released code's three lines.
    reads_lr:     the learning rate in the amount: this step's, the schedule's peak, or the next step's.
    loss_l1:      c of a second L1 term c·Σ|g|/(number of gates) in the loss.
    gate_decay:   decoupled weight decay of the gates.
    betas, eps:   Adam's, for gates and weights alike.
    weights:      how A and B descend; "adamw-raw" is transformers' old AdamW, which also decays after the step.  Their
                  decay is the plan's.
    clip_eps:     what is added to the norm by which clipping divides; torch's clip_grad_norm_ adds 1e-6.
    scale_after_pruning: whether pruning keeps s, or recomputes it from the rank that is left.
    """

    descend: Descent = "sgd"
    amount: AmountName = "lr-lambda"
    threshold: Threshold = "soft"
    reads_lr: ReadsLr = "current"
    loss_l1: float = 0.0
    gate_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weights: Descent = "sgd"
    clip_eps: float = 0.0
    scale_after_pruning: Literal["kept", "recomputed"] = "kept"

    def replace(self, **changes: Any) -> Choices:
        """These choices with some changed."""
        return dataclasses.replace(self, **changes)

    def rule(self) -> GateRule:
        """The specification's gate rule of these choices."""
        descend = _optimiser(self.descend, self, self.gate_decay)
        return GateRule("declared", descend, _AMOUNTS[self.amount], _THRESHOLDS[self.threshold], self.loss_l1)

    def optimiser(self, weight_decay: float) -> Optimiser:
        """That of A and B."""
        return _optimiser(self.weights, self, weight_decay)

    def describe(self) -> str:
        """The rule's name where it is one of the specification's, with what differs from the rule in brackets."""
        for name, choices in VARIANTS.items():
            differences = [
                f"{field.name} {getattr(self, field.name)}"
                for field in dataclasses.fields(self)
                if getattr(self, field.name) != getattr(choices, field.name)
            ]
            if not any(text.split()[0] in ("descend", "amount", "threshold") for text in differences):
                return f"{name} ({', '.join(differences)})" if differences else name
        return f"{self.descend}, {self.amount}, {self.threshold}"


def _optimiser(descend: Descent, choices: Choices, weight_decay: float) -> Optimiser:
    if descend == "sgd":
        return SGD(weight_decay)
    adam = AdamW(betas=choices.betas, eps=choices.eps, weight_decay=weight_decay)
    return adam if descend == "adamw" else dataclasses.replace(adam, eps_on="raw", decays="after")


def _choices(recipe: Recipe) -> Choices:
    """A recipe of the specification's in these words; Adam's numbers are those of its gates."""
    rule = recipe.gate_rule
    adam = rule.descend if isinstance(rule.descend, AdamW) else AdamW()
    return Choices(
        descend=_descent(rule.descend),
        amount=next(name for name, amount in _AMOUNTS.items() if amount is rule.amount),
        threshold=next(name for name, threshold in _THRESHOLDS.items() if threshold is rule.threshold),
        loss_l1=rule.loss_l1,
        betas=adam.betas,
        eps=adam.eps,
        weights=_descent(recipe.optimiser),
        clip_eps=recipe.clip_eps,
    )


def _descent(optimiser: Optimiser) -> Descent:
    if isinstance(optimiser, SGD):
        return "sgd"
    return "adamw" if optimiser.eps_on == "corrected" else "adamw-raw"


VARIANTS: dict[str, Choices] = {name: _choices(recipe) for name, recipe in RECIPES.items()}
