"""What an implementation shows the kit: one class, NumPy arrays in and out, every method optional.

    class Mine(Implementation):
        name = "my SoRA"

        def forward(self, layer, x): ...

A method that a subclass does not override is a capability that the implementation lacks.  The kit skips the checks that
need it, and the report says so.  (A method may also raise `Missing` with what it lacks.)  Attributes declare what the
implementation means to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sora_ref import SPEC_VERSION
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple
from sora_ref.conformance.protocol.storage_layout import StorageLayout


class Implementation:
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
    layout: ClassVar[StorageLayout] = StorageLayout()
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
    name for name, value in vars(Implementation).items() if callable(value) and not name.startswith("_")
)


def capabilities(implementation: Any) -> tuple[str, ...]:
    """What an implementation can do: the methods that it overrides, or what its `declared()` lists.

    `declared` is for bases that derive some methods from others: such a base overrides more than a subclass can do.
    """
    if callable(getattr(implementation, "declared", None)):
        return tuple(implementation.declared())
    return tuple(
        name
        for name in CAPABILITIES
        if callable(own := getattr(implementation, name, None))
        and getattr(own, "__func__", own) is not vars(Implementation)[name]
    )
