"""PEFT's LoRA format for BERT, as one table: file names, tensor keys, configuration, and how PEFT matches names.

A folder holds `adapter_config.json` and `adapter_model.safetensors`.  A module has two names here.  Ours is the
checkpoint's without `bert.`, as `encoder.layer.0.output.dense`; the full one is PEFT's, relative to the model it wraps:
`bert.encoder.layer.0.output.dense` under BertForSequenceClassification, ours unchanged under the bare BertModel.

Source: peft 0.21.2 (`tuners/lora/model.py`, `tuners/tuners_utils.py`, `utils/other.py`), read and measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from sora_ref.prune import LoRA

Head = Literal["cls", "mean"]
Layout = Literal["compact", "uniform", "folded"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
LOADER_FILE = "load_with_peft.py"
LABELS_FILE = "labels.json"
README_FILE = "README.md"
FILES = (CONFIG_FILE, WEIGHTS_FILE, HEAD_FILE, LABELS_FILE, LOADER_FILE, README_FILE)

BERT = "bert."
ROOT = "base_model.model."  # PEFT's own wrapping, in front of every full name
CLASSIFIER = ("classifier.weight", "classifier.bias")


class Task(NamedTuple):
    """What a head is in PEFT: the task type, and the prefix of the encoder's names in the model that PEFT wraps."""

    task_type: str
    prefix: str


TASKS: Mapping[Head, Task] = {"cls": Task("SEQ_CLS", BERT), "mean": Task("FEATURE_EXTRACTION", "")}

_BLOCK = r"encoder\.layer\.\d+\."
ADAPTABLE = re.compile(
    _BLOCK + r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
    r"|pooler\.dense"
)
SAVABLE = re.compile(rf"classifier|pooler\.dense|embeddings\.LayerNorm|{_BLOCK}(attention\.)?output\.LayerNorm")

# What PEFT writes or reads beside the layout, and what changes nothing in a trained adapter.  Any other option has to
# be empty (None, False, "", [], {}), or the adapter means something that is not understood here.
LAYOUT_OPTIONS = frozenset(
    {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "bias",
        "init_lora_weights",
    }
)
HARMLESS_OPTIONS = frozenset(
    {
        "peft_version",
        "auto_mapping",
        "revision",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "ensure_weight_tying",
    }
)
# Initialisations that leave the base weights alone; the others (pissa, olora, loftq …) subtract something from them.
PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")


def full_name(name: str, prefix: str) -> str:
    """Our name of a module or tensor -> PEFT's; the classifier stands outside the encoder and takes no prefix."""
    return name if name.startswith("classifier") else prefix + name


def our_name(full: str) -> str:
    """PEFT's name of a module or tensor -> ours; the inverse of `full_name` for either prefix."""
    return full.removeprefix(BERT)


def lora_key(full: str, matrix: Literal["A", "B"]) -> str:
    """The tensor key of A (r, in) or B (out, r)."""
    return f"{ROOT}{full}.lora_{matrix}.weight"


def lora_config(
    loras: Mapping[str, LoRA], saved: Collection[str], *, task: Task, layout: Layout, base_model: str
) -> dict[str, Any]:
    r"""The contents of `adapter_config.json`.

        r = R = max r_i     lora_alpha = s·R     compact: rank_pattern r_i, alpha_pattern s_i·r_i
                                                 folded:  rank_pattern r_i, for s_i·r_i = R in every module

    loras: what is written, by our name, arranged for the layout.  saved: modules written in full.

    Targets and pattern keys are full names as they stand: each matches its own module and no other in every PEFT from
    0.13 on.  PEFT 0.15 and later match `(.*\.)?(key)$`, where a dot of the key stands for any character, and no name
    of this table is another's end; 0.14 and earlier match `.*\.key$`, which no full name does, and then look the name
    itself up, which neither `^` nor an escaped dot may alter.
    """
    task_type, prefix = task
    largest = max(loras.values(), key=lambda lora: lora.A.shape[0])
    names = {full_name(module, prefix): lora for module, lora in loras.items()}
    ranks = {name: lora.A.shape[0] for name, lora in names.items()}
    alphas = {name: _alpha(lora) for name, lora in names.items()}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "bias": "none",
        "use_rslora": False,
        "lora_dropout": 0.0,
        "r": largest.A.shape[0],
        "lora_alpha": _alpha(largest),
        "target_modules": list(names),
        "rank_pattern": {} if layout == "uniform" else ranks,
        "alpha_pattern": alphas if layout == "compact" else {},
        "modules_to_save": [full_name(module, prefix) for module in saved] or None,
    }


def _alpha(lora: LoRA) -> int | float:
    alpha = lora.s * lora.A.shape[0]
    return int(alpha) if alpha == int(alpha) else alpha


def scale(config: Mapping[str, Any], full: str) -> float:
    """s of a module as PEFT computes it: α_i/r_i, or α_i/√r_i under rsLoRA."""
    r, alpha = rank(config, full), _pattern_value(config, "alpha_pattern", full, config["lora_alpha"])
    return float(alpha / (math.sqrt(r) if config.get("use_rslora") else r))


def rank(config: Mapping[str, Any], full: str) -> int:
    """r_i of a module as PEFT looks it up."""
    return int(_pattern_value(config, "rank_pattern", full, config["r"]))


def _pattern_value(config: Mapping[str, Any], pattern: str, full: str, default: float) -> float:
    r"""The value of the first key that matches `(.*\.)?(key)$`, else the global one (`get_pattern_key` in PEFT)."""
    table: Mapping[str, float] = config.get(pattern) or {}
    return next((value for key, value in table.items() if re.match(rf"(.*\.)?({key})$", full)), default)


def is_target(config: Mapping[str, Any], full: str) -> bool:
    """Whether PEFT gives this module a LoRA: one expression matches in full, a list by equality or dotted suffix.

    A module that modules_to_save names never gets one.
    """
    if any(re.match(rf"(^|.*\.){entry}($|\..*)", full) for entry in saved_entries(config)):
        return False
    targets = config["target_modules"]
    if isinstance(targets, str):
        return re.fullmatch(targets, full) is not None
    return any(full == target or full.endswith(f".{target}") for target in targets)


def is_saved(config: Mapping[str, Any], full: str) -> bool:
    """Whether PEFT loads this module in full: its name ends with an entry, mid-word included (`_set_trainable`)."""
    return any((ROOT + full).endswith(entry) for entry in saved_entries(config))


def saved_entries(config: Mapping[str, Any]) -> list[str]:
    """modules_to_save, with the two names PEFT adds by itself to every sequence classifier."""
    added = ["classifier", "score"] if config.get("task_type") == "SEQ_CLS" else []
    return [*(config.get("modules_to_save") or []), *added]
