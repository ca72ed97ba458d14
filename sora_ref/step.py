"""One training step, written down once (clause SORA-STEP).

  SORA-STEP-1  Gradients of A, B, g, head and whatever else is trained are taken at the same iterate θ_t.
  SORA-STEP-2  G = (Σ over microbatches of the summed per-example gradients) / (examples of the optimiser batch).
  SORA-STEP-3  Released rule only: G_g += loss_l1·sgn(g)/(number of gates), part of what is clipped.
  SORA-STEP-4  c = min(1, τ/(‖G‖₂ + ε_c)) over all parameters, gates included; G ← c·G.  ε_c is 0 (torch: 1e-6).
  SORA-STEP-5  η_t and η^g_t are the learning rates of *this* step; step 1 has peak/W, not 0 (see schedules).
  SORA-STEP-6  Every parameter but the gates takes an optimiser step; biases and norms are not decayed.  Which
               parameters those are, the caller says: a model knows its norms, the specification knows no model.
               A_i and B_i keep moving by momentum and decay while g_i = 0.
  SORA-STEP-7  Gates follow the gate rule with the same t and η^g_t.
  SORA-STEP-8  The schedules advance: t ← t + 1.

Parameters are a flat mapping from name to array; a gate is known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.gate import (
    ADAMW_LR_LAMBDA,
    ADAMW_METRIC,
    ADAMW_METRIC_LITERAL,
    ADAMW_XI,
    PAPER,
    RELEASED,
    GateRule,
)
from sora_ref.gradients import Params
from sora_ref.names import is_gate
from sora_ref.ops import SPEC, Ops, Update
from sora_ref.optim import SGD, AdamW, Moments, Optimiser, zero_moments
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Recipe:
    """What stays the same from step to step.

    optimiser:     for everything but the gates.
    gate_rule:     for the gates.
    clip, clip_eps: τ and ε_c of SORA-STEP-4; τ None clips nothing.
    gate_gradient: "data"; or "zero", the control experiment in which the data have no say in who survives
                   (SORA-NULL-1).
    decayed:       whether weight decay acts on the parameter of this name, which is no gate: true of weights, false of
                   biases and norms (SORA-STEP-6).  There is no default for an optimiser that decays: SoRAError.

    >>> weights = {"query.sora_A", "query.sora_B", "classifier.weight"}
    >>> recipe = sr.Recipe(sr.AdamW(weight_decay=0.1), clip=1.0, decayed=weights.__contains__)
    >>> recipe.gate_rule is sr.ADAMW_XI, recipe.decayed("norm.weight")
    (True, False)
    """

    optimiser: Optimiser = AdamW()
    gate_rule: GateRule = ADAMW_XI
    clip: float | None = None
    clip_eps: float = 0.0
    gate_gradient: Literal["data", "zero"] = "data"
    decayed: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        decay = self.optimiser.weight_decay
        require(
            self.decayed is not None or not decay,
            f"weight decay is {decay} and `decayed` is missing: expected a predicate that is false of biases and norms",
        )


RECIPES: Mapping[str, Recipe] = {
    PAPER.name: Recipe(SGD(), PAPER),
    **{rule.name: Recipe(AdamW(), rule) for rule in (ADAMW_XI, ADAMW_LR_LAMBDA, ADAMW_METRIC, ADAMW_METRIC_LITERAL)},
    RELEASED.name: Recipe(AdamW(eps_on="raw", decays="after"), RELEASED, clip_eps=1e-6),
}
"""What is run beside each gate rule, by the rule's name: the optimiser of all other parameters, and ε_c.

Deviation: the released code's optimiser is transformers' old AdamW (SORA-OPT-2), and its clipping, torch's, adds 1e-6
to the norm (SORA-STEP-4).

>>> sr.RECIPES["released"].clip_eps
1e-06
"""


class Rates(NamedTuple):
    """The numbers of one step: η_t, η^g_t and the strength (ξ or λ) of the gate rule (SORA-STEP-5).

    >>> sr.Rates(lr=1e-3, gate_lr=1e-2, strength=1e-4).gate_lr
    0.01
    """

    lr: float
    gate_lr: float
    strength: float


class TrainState(NamedTuple):
    """The iterate: parameters, their moments, and how many steps were made.

    >>> state = sr.initial_state({"classifier.weight": np.ones((2, 3))})
    >>> state.t, state.moments["classifier.weight"].m.shape
    (0, (2, 3))
    """

    params: Params
    moments: Mapping[str, Moments]
    t: int


def initial_state(params: Params) -> TrainState:
    """The state before step 1.

    >>> sr.initial_state({"w": np.ones(2)}).moments["w"].v
    array([0., 0.])
    """
    return TrainState(dict(params), {name: zero_moments(theta) for name, theta in params.items()}, 0)


def training_step(
    state: TrainState, grads: Params, rates: Rates, recipe: Recipe, ops: Ops = SPEC
) -> tuple[TrainState, Array | None]:
    """State after one step, and the gradient norm before clipping (0-d; None where nothing clips).

    grads: means over the optimiser batch at `state.params`, one for every parameter (SORA-STEP-1, SORA-STEP-2).
    rates: those of the step that is made (SORA-STEP-5).
    To the gradients comes the released rule's L1 term (SORA-STEP-3); they are clipped (SORA-STEP-4); every parameter
    takes its optimiser's step (SORA-STEP-6), the gates their rule's (SORA-STEP-7); t advances (SORA-STEP-8).
    Raises SoRAError where there are no parameters, and where gradients and parameters differ in their names.

    >>> state = sr.initial_state({"m.sora_g": np.array([1.0, 0.1]), "head.bias": np.array([1.0])})
    >>> grads = {"m.sora_g": np.array([0.5, 0.0]), "head.bias": np.array([1.0])}
    >>> recipe, rates = sr.Recipe(sr.SGD(), sr.PAPER), sr.Rates(lr=0.5, gate_lr=0.5, strength=0.5)
    >>> state, norm = sr.training_step(state, grads, rates, recipe)
    >>> state.params["m.sora_g"], state.params["head.bias"], state.t
    (array([0.5, 0. ]), array([0.5]), 1)
    """
    require(len(state.params) > 0, "there are no parameters: expected at least one to train")
    require(grads.keys() == state.params.keys(), _name_mismatch(grads, state.params))
    t = state.t + 1
    rule = recipe.gate_rule
    gates = [name for name in state.params if is_gate(name)]

    grads = dict(grads)
    for name in gates:
        if recipe.gate_gradient == "zero":
            grads[name] = array_namespace(grads[name]).zeros_like(grads[name])
        if rule.loss_l1:
            count = sum(state.params[gate].shape[0] for gate in gates) or 1
            grads[name] = grads[name] + (rule.loss_l1 / count) * array_namespace(grads[name]).sign(state.params[name])
    norm = None
    if recipe.clip is not None:
        grads, norm = ops.clip_by_global_norm(grads, recipe.clip, recipe.clip_eps)

    updates: dict[str, Update] = {}
    for name, theta in state.params.items():
        moments = state.moments[name]
        if is_gate(name):
            updates[name] = Update(theta, grads[name], moments, rule, rates.gate_lr, rates.strength)
        else:
            decay = recipe.decayed is not None and recipe.decayed(name)
            updates[name] = Update(theta, grads[name], moments, recipe.optimiser, rates.lr, decay=decay)
    after = ops.update_parameters(updates, t)
    params = {name: theta for name, (theta, _) in after.items()}
    return TrainState(params, {name: moments for name, (_, moments) in after.items()}, t), norm


def _name_mismatch(grads: Params, params: Params) -> str:
    odd = sorted(grads.keys() ^ params.keys())
    return f"gradients and parameters differ in {', '.join(odd[:4])}: expected one gradient for every parameter"
