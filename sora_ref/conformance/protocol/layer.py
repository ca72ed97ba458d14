"""What a check hands to an implementation: a layer, and the settings of a run; and what training gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sora_ref import SoRA

Floats = npt.NDArray[Any]


class Layer(NamedTuple):
    """One SoRA linear layer, y = x W0ᵀ + b + s·((x Aᵀ) ⊙ g) Bᵀ.

    W0: (out, in) and b: (out,) or None, frozen.    A: (r, in), g: (r,), B: (out, r).    s: a Python number.
    g is None in a layer whose gate has been absorbed into A or B, a plain LoRA; else an array.
    """

    W0: Floats
    b: Floats | None
    A: Floats
    g: Any
    B: Floats
    s: float

    @property
    def adapter(self) -> SoRA:
        """The branch; an absorbed gate is a gate of ones."""
        g = np.ones(self.A.shape[0], self.A.dtype) if self.g is None else self.g
        return SoRA(self.A, g, self.B, self.s)


class Triple(NamedTuple):
    """What training moves: A (r, in), g (r,) and B (out, r)."""

    A: Floats
    g: Floats
    B: Floats


@dataclass(frozen=True)
class Plan:
    """The settings of a run of k steps.

    lrs:          the learning rate of step 1, …, k, and of the step that would follow, as a schedule gives them: k + 1.
    peak:         the schedule's base learning rate.
    strength:     ξ of the rules with a constant threshold, λ of the others.
    weight_decay: of A and B, decoupled.
    clip:         the largest global norm of all gradients, the gates' included; None clips nothing.
    """

    lrs: tuple[float, ...]
    peak: float
    strength: float
    weight_decay: float = 0.0
    clip: float | None = None
