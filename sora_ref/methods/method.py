"""The record of a method: all that the rest of the program asks about one way of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sora_ref import GateRule, Rates, Recipe, TrainState
from sora_ref.backends import Array
from sora_ref.gradients import Params
from sora_ref.ops import Ops

Own = Literal["norms", "biases"]  # groups of the base model's own parameters
Picture = Literal["ranks", "gates"]


class Branch(NamedTuple):
    """What a configuration says of the branch that a method adds to a module.

    seed:  of the draws (SORA-INIT-1).  r: components.  alpha: the scale s is alpha/r.
    gate:  the number at which gates begin; None draws them from N(0, 1).
    dtype: "float32" or "float64".
    """

    seed: int
    r: int
    alpha: float
    gate: float | None
    dtype: str

    @property
    def scale(self) -> float:
        """s of every module: alpha/r, or alpha where there are no components (SORA-LINEAR-2)."""
        return self.alpha / max(self.r, 1)


class Added(NamedTuple):
    """The tensors that a method adds to one module, by name: those that are trained, and those that stay."""

    trained: Mapping[str, np.ndarray]
    frozen: Mapping[str, np.ndarray]


class Ending(NamedTuple):
    """What a run ends with, as far as its survivors are concerned.

    kept, components: those with a gate that is not zero, and all.
    threshold_sum:    Σ of the scalar thresholds of all steps.  steps: how many those were.
    rule, gate_gradient: of the recipe.  gate: as in `Branch`.  scheduled: whether the sparsifying scheduler ran.
    """

    kept: int
    components: int
    threshold_sum: float
    steps: int
    rule: GateRule
    gate_gradient: Literal["data", "zero"]
    gate: float | None
    scheduled: bool


class Survivors(NamedTuple):
    """Who survived, and whether chance explains it.

    null:  "threshold_sum", "kept_share" and "kept" of the null model; None where there is none.
    words: the same for a person.
    """

    null: dict[str, float] | None
    words: str


Add = Callable[[str, tuple[int, int], Branch], Added]  # (module, shape (out, in) of its weight, branch)
Step = Callable[[TrainState, Params, Rates, Recipe, Ops], tuple[TrainState, "Array | None"]]


@dataclass(frozen=True)
class Method:
    """One way of fine-tuning.

    name:      the word in a configuration.  title: the name in a sentence.
    add:       what it adds to each adapted module; None where it adapts no module.
    step:      one optimiser step of all that is trained: the state after it, and the norm of the gradients before
               clipping, None without clipping.  It is given means over the batch of the gradients of the loss alone: a
               penalty, its gradient, and the step of gates or masks are the method's own, made here.
    own:       groups of the base model's own parameters that it always trains, besides those a configuration names.
    watched:   the names of the gates (or masks) of these modules, which may close: they are logged, counted and drawn.
    survivors: who survived, beside the null model; None where nothing can close.
    pictures:  what is drawn at the end: the rank kept in each module, the gates over training.

    Whatever a method adds is read as a branch of A, g and B (`sora_ref.names`), so that pruning, merging, counting and
    export are the same for all; a method that leaves no such branch adds nothing here and trains parameters of `own`.
    """

    name: str
    title: str
    add: Add | None
    step: Step
    own: frozenset[Own] = frozenset()
    watched: Callable[[Iterable[str]], tuple[str, ...]] = lambda modules: ()
    survivors: Callable[[Ending], Survivors] | None = None
    pictures: tuple[Picture, ...] = ()
