"""The names that `import sora_ref as sr` gives, each from the module that says what it is."""

from sora_ref import bounds, schedules
from sora_ref.algorithm1 import Performance, Stage, begin_stage, sparsify, stages
from sora_ref.count import count_parameters, module_ranks
from sora_ref.errors import SoRAError
from sora_ref.gate import ADAMW_XI, GATE_RULES, PAPER, RELEASED, GateRule, gate_update
from sora_ref.gradients import clip_by_global_norm, combine_microbatches
from sora_ref.init import generator, initial_adapter, survival_probability
from sora_ref.linear import LinearGrads, SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.names import pack, pack_gradients, unpack
from sora_ref.ops import SPEC, Ops
from sora_ref.optim import SGD, AdamW, Optimiser, zero_moments
from sora_ref.prox import kkt_distance, l1_value, released_threshold, soft_threshold
from sora_ref.pruning import LoRA, absorb_gate, delta, kept_components, merge, prune, unmerge
from sora_ref.schedules import Schedule
from sora_ref.step import RECIPES, Rates, Recipe, TrainState, initial_state, training_step
from sora_ref.version import SPEC_VERSION

__all__ = [
    "ADAMW_XI",
    "GATE_RULES",
    "PAPER",
    "RECIPES",
    "RELEASED",
    "SGD",
    "SPEC",
    "SPEC_VERSION",
    "AdamW",
    "GateRule",
    "LinearGrads",
    "LoRA",
    "Ops",
    "Optimiser",
    "Performance",
    "Rates",
    "Recipe",
    "Schedule",
    "SoRA",
    "SoRAError",
    "Stage",
    "TrainState",
    "absorb_gate",
    "begin_stage",
    "bounds",
    "clip_by_global_norm",
    "combine_microbatches",
    "count_parameters",
    "delta",
    "gate_update",
    "generator",
    "initial_adapter",
    "initial_state",
    "kept_components",
    "kkt_distance",
    "l1_value",
    "merge",
    "module_ranks",
    "pack",
    "pack_gradients",
    "prune",
    "released_threshold",
    "schedules",
    "soft_threshold",
    "sora_linear_backward",
    "sora_linear_forward",
    "sparsify",
    "stages",
    "survival_probability",
    "training_step",
    "unmerge",
    "unpack",
    "zero_moments",
]
