"""SoRA, Sparse Low-rank Adaptation (Ding et al., EMNLP 2023): a verified specification that runs.

The specification is this package's own modules; what is built on it lives in `sora_ref.models`, `sora_ref.run` and
`sora_ref.peft`.  Importing this package loads NumPy and the array-compat layer, nothing else.
"""

from sora_ref.algorithm1 import Performance, Stage, StageResult, begin_stage, sparsify, stages
from sora_ref.bounds import (
    BF16,
    FP16,
    TF32,
    Precision,
    linear_backward_bound,
    linear_bound,
    merge_bound,
    precision_of,
    unmerge_bound,
)
from sora_ref.count import Counts, count_parameters, module_ranks
from sora_ref.errors import SoRAError
from sora_ref.gate import (
    ADAMW_LR_LAMBDA,
    ADAMW_METRIC,
    ADAMW_METRIC_LITERAL,
    ADAMW_XI,
    GATE_RULES,
    PAPER,
    RELEASED,
    GateRule,
    adam_step_bound,
    gate_update,
)
from sora_ref.gradients import combine_microbatches
from sora_ref.init import generator, initial_adapter, initial_dense, survival_probability
from sora_ref.linear import SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.ops import SPEC, Ops, Update, update_parameters
from sora_ref.optim import SGD, AdamW, Moments, zero_moments
from sora_ref.prox import (
    kkt_distance,
    l1_value,
    prox_kkt_distance,
    released_penalty,
    released_threshold,
    soft_threshold,
)
from sora_ref.prune import LoRA, MergedLinear, absorb_gate, delta, kept_components, merge, prune, unmerge
from sora_ref.schedules import (
    algorithm_1_values,
    constant,
    linear_warmup_decay,
    listed_values,
    released_linear,
    stage_values,
)
from sora_ref.step import Rates, Recipe, TrainState, initial_state, training_step

__version__ = "0.1.0"
SPEC_VERSION = "0.3"  # of the clauses in docs/spec.md; changes to them are listed apart in CHANGELOG.md

__all__ = [
    "ADAMW_LR_LAMBDA",
    "ADAMW_METRIC",
    "ADAMW_METRIC_LITERAL",
    "ADAMW_XI",
    "BF16",
    "FP16",
    "GATE_RULES",
    "PAPER",
    "RELEASED",
    "SGD",
    "SPEC",
    "SPEC_VERSION",
    "TF32",
    "AdamW",
    "Counts",
    "GateRule",
    "LoRA",
    "MergedLinear",
    "Moments",
    "Ops",
    "Performance",
    "Precision",
    "Rates",
    "Recipe",
    "SoRA",
    "SoRAError",
    "Stage",
    "StageResult",
    "TrainState",
    "Update",
    "absorb_gate",
    "adam_step_bound",
    "begin_stage",
    "algorithm_1_values",
    "combine_microbatches",
    "constant",
    "count_parameters",
    "delta",
    "gate_update",
    "generator",
    "initial_adapter",
    "initial_dense",
    "initial_state",
    "kept_components",
    "kkt_distance",
    "l1_value",
    "linear_backward_bound",
    "linear_bound",
    "linear_warmup_decay",
    "listed_values",
    "merge",
    "merge_bound",
    "module_ranks",
    "precision_of",
    "prox_kkt_distance",
    "prune",
    "released_linear",
    "released_penalty",
    "released_threshold",
    "soft_threshold",
    "sora_linear_backward",
    "sora_linear_forward",
    "sparsify",
    "stage_values",
    "stages",
    "survival_probability",
    "training_step",
    "unmerge",
    "unmerge_bound",
    "update_parameters",
    "zero_moments",
]
