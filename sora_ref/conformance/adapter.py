"""What an implementation shows the kit: one class, NumPy arrays in and out, every method optional.

    class Mine(Adapter):
        name = "my SoRA"

        def forward(self, layer, x): ...

A method that is not overridden is a capability the implementation has not got; the checks that need it are skipped, and
the report says so.  (A method may also raise `Missing` with what it lacks.)  Attributes declare what the implementation
means to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from sora_ref import SPEC_VERSION, SoRA
from sora_ref.conformance.choices import Choices

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


@dataclass(frozen=True)
class Layout:
    """How the implementation stores a layer, where it is not (out, in); the kit converts on the way in and out.

    transposed: W0 is (in, out), A (in, r) and B (r, out), as in Hugging Face's Conv1D.
    groups:     the layer is several projections in one, as a fused QKV is: the outputs fall into this many equal
                slices, each with a triple of its own.  A is (groups·r, in) and g (groups·r,), group after group, and
                B (out, r): the rows of a slice belong to its group.
    sites:      the triple is tied: it serves this many frozen layers.  x, W0, b, y, dx and dy then have a leading axis
                of sites, and dA, dg, dB are sums over them.
    """

    transposed: bool = False
    groups: int = 1
    sites: int = 1


class Adapter:
    """The protocol between an implementation and the kit.  Subclass it and override what the implementation can do.

    Arrays arrive in the dtype of the run, and results are to be arrays of that dtype.  Arguments must not be changed.

    name:         what reports call it.
    spec_version: the version of the specification it targets; clauses that came later are skipped.
    dtypes:       those it can compute in, best first.
    precision:    where it computes in less than the arrays' dtype: "tf32", "bf16" or "fp16" (matrix products whose
                  inputs are rounded), or the same with ", stored" appended, where every result is.
    choices:      the gate rule, and whatever else it does in a way of its own.
    layout:       how it stores a layer.
    gated:        False for a plain LoRA: every gate given to it is one.
    least_rank:   the smallest rank it takes.
    biased:       whether a layer may have a bias.
    """

    name: ClassVar[str] = ""
    spec_version: ClassVar[str] = SPEC_VERSION
    dtypes: ClassVar[Sequence[str]] = ("float64", "float32")
    precision: ClassVar[str | None] = None
    choices: ClassVar[Choices] = Choices()
    layout: ClassVar[Layout] = Layout()
    gated: ClassVar[bool] = True
    least_rank: ClassVar[int] = 0
    biased: ClassVar[bool] = True

    # --- the linear map (core: forward, gradients) ---

    def forward(self, layer: Layer, x: Floats) -> Floats:
        """The y of this layer, (..., out), for x (..., in), in evaluation (SORA-LINEAR-1)."""
        raise Missing("forward")

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        """Gradients of ⟨dy, y⟩: "dx", "dA", "dg" and "dB", each shaped as its variable (SORA-LINEAR-3)."""
        raise Missing("gradients")

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        """The y of this layer in training with dropout p; equal seeds, equal masks (SORA-LINEAR-1)."""
        raise Missing("training_forward")

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> Mapping[str, Floats]:
        """As `gradients`, with the mask that `training_forward` draws from this seed (SORA-LINEAR-3)."""
        raise Missing("training_gradients")

    # --- gates (core: prox) ---

    def prox(self, v: Floats, xi: float) -> Floats:
        """The threshold map at ξ ≥ 0 (SORA-PROX-1).  By default: a gate step with a gradient of zero."""
        raise Missing("prox")

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:
        """The gates (k, r) after each of k steps from a fresh optimiser (SORA-GATE-1).

        g: (r,); grads: (k, r), the gradient of every step.
        """
        raise Missing("gate_steps")

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        """λ Σ‖g‖₁, what the gates add to the objective (SORA-PROX-4)."""
        raise Missing("penalty")

    # --- training ---

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
        """A, g and B after each of k steps from a fresh optimiser, on the loss ⟨dy_t, y_t⟩ in step t (SORA-STEP).

        xs: (k, n, in), dys: (k, n, out).
        """
        raise Missing("train")

    def accumulate(self, layer: Layer, microbatches: Sequence[tuple[Floats, Floats]]) -> Mapping[str, Floats]:
        """Gradients "dA", "dg", "dB" of the mean of ⟨dy_e, y_e⟩ over all examples e of all microbatches (SORA-STEP-2).

        A microbatch is x (n, in) and dy (n, out), n rows or examples; n differs between them.
        """
        raise Missing("accumulate")

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:
        """The learning rates of steps 1, …, total: linear warm-up, then linear decay (SORA-SCHED-1)."""
        raise Missing("learning_rates")

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:
        """The thresholds of a "linear", "log_linear" or "exp_linear" schedule (SORA-SCHED-3)."""
        raise Missing("stage_values")

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:
        """The thresholds of the sparsifying scheduler's stages (SORA-SCHED-4)."""
        raise Missing("algorithm_1")

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> Sequence[Sequence[float]]:
        """The learning rate of every step of every stage, each of `total` steps (SORA-STAGE-1)."""
        raise Missing("stage_rates")

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        """A fresh branch for a module of this name; W0 and b may be anything of their shape (SORA-INIT)."""
        raise Missing("initial")

    # --- what is left (core: prune) ---

    def prune(self, layer: Layer) -> Layer:
        """The layer without its closed components; with g None where the gate is absorbed (SORA-PRUNE-1, -2, -3)."""
        raise Missing("prune")

    def merge(self, layer: Layer) -> Floats:
        """W = W0 + s·B diag(g) A (SORA-PRUNE-4)."""
        raise Missing("merge")

    def unmerge(self, layer: Layer) -> Floats:
        """W0 as it is after merging and unmerging this layer (SORA-PRUNE-5)."""
        raise Missing("unmerge")

    def refuse_merge(self, layer: Layer, case: str) -> None:
        """Try to merge where that is wrong: "again", "tied" or "dropout"; has to raise (SORA-PRUNE-4)."""
        raise Missing("refuse_merge")

    def count(self, layers: Mapping[str, Layer]) -> int:
        """Parameters retained: entries of A and B in components whose gate is open (SORA-COUNT-2)."""
        raise Missing("count")

    def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:
        """Open components by module (SORA-COUNT-1)."""
        raise Missing("ranks")

    def save(self, layer: Layer, folder: Path) -> None:
        """Write the branch into an empty folder (SORA-STORE-1)."""
        raise Missing("save")

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        """The layer that `save` wrote there, with W0 and b as they are given (SORA-STORE-1)."""
        raise Missing("load")


class Missing(NotImplementedError):  # noqa: N818 - no error: a capability that is not there
    """The implementation has not got this capability."""


CAPABILITIES: tuple[str, ...] = tuple(
    name for name, value in vars(Adapter).items() if callable(value) and not name.startswith("_")
)


def capabilities(adapter: Any) -> tuple[str, ...]:
    """The capabilities of an adapter: its methods, but for those it has from `Adapter`; or what its `declared()` says.

    `declared` is for bases that derive methods from others and so define more than a subclass of theirs can do.
    """
    if callable(getattr(adapter, "declared", None)):
        return tuple(adapter.declared())
    return tuple(
        name
        for name in CAPABILITIES
        if callable(own := getattr(adapter, name, None)) and getattr(own, "__func__", own) is not vars(Adapter)[name]
    )
