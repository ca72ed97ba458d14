"""SoRA, Sparse Low-rank Adaptation (Ding et al., EMNLP 2023): a verified specification that runs.

The specification is this package's own modules; what is built on it lives in `sora_ref.models`, `sora_ref.run` and
`sora_ref.peft`.  Importing this package loads NumPy and the array-compat layer, nothing else.

    >>> import numpy as np
    >>> import sora_ref as sr
    >>> adapter = sr.SoRA(A=np.ones((2, 4)), g=np.array([0.5, 0.0]), B=np.ones((3, 2)), s=2.0)
    >>> y, cache = sr.sora_linear_forward(np.ones((1, 4)), np.eye(3, 4), None, adapter)
    >>> y
    array([[5., 5., 5.]])

Two namespaces: `sr.schedules` for learning rates and strengths over time, `sr.bounds` for rounding.
"""

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
from sora_ref.prune import LoRA, absorb_gate, delta, kept_components, merge, prune, unmerge
from sora_ref.schedules import Schedule
from sora_ref.step import RECIPES, Rates, Recipe, TrainState, initial_state, training_step

__version__ = "0.1.0"
SPEC_VERSION = "0.3"
"""The version of the clauses in docs/spec.md, whose changes are listed apart in CHANGELOG.md.

>>> sr.SPEC_VERSION
'0.3'
"""

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
