"""The operations a faster backend may replace; the specification's own are the defaults.

Models and training steps take `ops`.  There is no hidden switch: who wants a faster form passes
``SPEC.replace(**backend.kernels)``, and every replacement has a differential test against the function it replaces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from sora_ref.backends import Array
from sora_ref.gate import GateRule, gate_update
from sora_ref.linear import sora_linear_backward, sora_linear_forward
from sora_ref.optim import Moments, Optimiser


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


def update_parameters(updates: Mapping[str, Update], t: int) -> dict[str, tuple[Array, Moments]]:
    """Every parameter and its moments after step t, by name: none depends on another (SORA-STEP-6, SORA-STEP-7)."""
    return {name: update.step(t) for name, update in updates.items()}


@dataclass(frozen=True)
class Ops:
    """The specification's operations, each a pure function."""

    sora_linear_forward: Callable[..., Any] = sora_linear_forward
    sora_linear_backward: Callable[..., Any] = sora_linear_backward
    update_parameters: Callable[..., Any] = update_parameters

    def replace(self, **operations: Callable[..., Any]) -> Self:
        """These operations with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **operations)


SPEC = Ops()
