"""The operations a faster backend may replace; the specification's own are the defaults.

Models and training steps take `ops`.  There is no hidden switch: who wants a faster form passes
``SPEC.replace(**backend.kernels)``, and every replacement has a differential test against the function it replaces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from sora_ref.backends import Array
from sora_ref.gate import gate_update
from sora_ref.linear import sora_linear_backward, sora_linear_forward
from sora_ref.optim import Moments, Optimiser


def optimiser_update(
    optimiser: Optimiser, theta: Array, grad: Array, moments: Moments, t: int, lr: float, *, decay: bool
) -> tuple[Array, Moments]:
    """`optimiser.update`, as a function that can be replaced."""
    return optimiser.update(theta, grad, moments, t, lr, decay=decay)


@dataclass(frozen=True)
class Ops:
    """The specification's operations, each a pure function."""

    sora_linear_forward: Callable[..., Any] = sora_linear_forward
    sora_linear_backward: Callable[..., Any] = sora_linear_backward
    optimiser_update: Callable[..., Any] = optimiser_update
    gate_update: Callable[..., Any] = gate_update

    def replace(self, **operations: Callable[..., Any]) -> Self:
        """These operations with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **operations)


SPEC = Ops()
