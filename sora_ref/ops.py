"""The operations that a faster form may replace, each with its signature; the specification's own are the defaults.

Models and training steps take `ops`, so that no hidden switch chooses: whoever wants a faster form passes
``SPEC.replace(sora_linear_forward=…)``.  A form has the signature of its Protocol here, which mypy checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypedDict, Unpack

from sora_ref.backends import Array
from sora_ref.gate import GateRule, gate_update
from sora_ref.gradients import Params, clip_by_global_norm, combine_microbatches
from sora_ref.linear import LinearGrads, SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.optim import Moments, Optimiser

Cache = Any  # what a forward keeps for the backward of the same form; nothing else looks into it


class LinearKept(Protocol):
    """What a form of the linear map keeps: its input, which others may see too; the rest is for its own backward."""

    @property
    def x(self) -> Array:
        """(n, in): the rows that were given, the leading shape flattened."""


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


class LinearForward(Protocol):
    """As `sora_linear_forward`: y, and what is kept."""

    def __call__(
        self, x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
    ) -> tuple[Array, LinearKept]:
        """See the class."""


class LinearBackward(Protocol):
    """As `sora_linear_backward`: the gradients of ⟨dy, y⟩; dx is a new array, which the caller may write into."""

    def __call__(self, dy: Array, cache: Cache, *, dx: bool = True, dW0: bool = False, db: bool = False) -> LinearGrads:
        """See the class."""


class CombineMicrobatches(Protocol):
    """As `combine_microbatches`: (Σ over microbatches)/examples, by parameter."""

    def __call__(self, summed: Sequence[Params], examples: int) -> dict[str, Array]:
        """See the class."""


class ClipByGlobalNorm(Protocol):
    """As `clip_by_global_norm`: the clipped gradients, and their norm before."""

    def __call__(self, grads: Params, limit: float, eps: float = 0.0) -> tuple[dict[str, Array], Array]:
        """See the class."""


class UpdateParameters(Protocol):
    """As `update_parameters`: every parameter and its moments after step t."""

    def __call__(self, updates: Mapping[str, Update], t: int) -> dict[str, tuple[Array, Moments]]:
        """See the class."""


class Operations(TypedDict, total=False):
    """Some of the operations of `Ops`, by name."""

    sora_linear_forward: LinearForward
    sora_linear_backward: LinearBackward
    combine_microbatches: CombineMicrobatches
    clip_by_global_norm: ClipByGlobalNorm
    update_parameters: UpdateParameters


@dataclass(frozen=True)
class Ops:
    """The specification's operations, each a pure function.

    >>> sr.SPEC.replace(clip_by_global_norm=sr.clip_by_global_norm) == sr.SPEC
    True
    """

    sora_linear_forward: LinearForward = sora_linear_forward
    sora_linear_backward: LinearBackward = sora_linear_backward
    combine_microbatches: CombineMicrobatches = combine_microbatches
    clip_by_global_norm: ClipByGlobalNorm = clip_by_global_norm
    update_parameters: UpdateParameters = update_parameters

    def replace(self, **operations: Unpack[Operations]) -> Self:
        """These operations with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **operations)


SPEC = Ops()
"""The specification's own operations, the default of every model and training step.

>>> sr.SPEC.sora_linear_forward is sr.sora_linear_forward
True
"""
