"""PEFT's LoRA format: file names, tensor keys, and the configuration that is written.

A folder holds `adapter_config.json` and `adapter_model.safetensors`.  A module has two names here.  Ours is the bare
model's, as `encoder.layer.0.output.dense`; the full one is PEFT's, relative to the model it wraps: with the
architecture's prefix, as `bert.encoder.layer.0.output.dense`, under transformers' classifier, ours unchanged under the
bare model.

Source: peft 0.21.2 (`tuners/lora/model.py`, `tuners/tuners_utils.py`, `utils/other.py`), read and measured.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from sora_ref.models import Architecture, Head
from sora_ref.pruning import LoRA

Layout = Literal["compact", "uniform", "folded"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
LOADER_FILE = "load_with_peft.py"
LABELS_FILE = "labels.json"
README_FILE = "README.md"
FILES = (CONFIG_FILE, WEIGHTS_FILE, HEAD_FILE, LABELS_FILE, LOADER_FILE, README_FILE)

ROOT = "base_model.model."  # PEFT's own wrapping, in front of every full name


class PeftTask(NamedTuple):
    """The model that PEFT wraps: transformers' classifier with this head inside; the bare model where that is None."""

    architecture: Architecture
    head: Head | None

    @property
    def task_type(self) -> str:
        """PEFT's word for it."""
        return "FEATURE_EXTRACTION" if self.head is None else "SEQ_CLS"

    @property
    def prefix(self) -> str:
        """What stands in front of the bare model's names."""
        return "" if self.head is None else self.architecture.prefix

    def full_name(self, name: str) -> str:
        """Our name of a module or tensor -> PEFT's; a head outside the bare model takes no prefix."""
        return name if self.head is not None and self.head.is_outside(name) else self.prefix + name

    def saved_module(self, name: str) -> str:
        """The entry of modules_to_save for a tensor: the module that transformers' classifier holds it in."""
        if self.head is not None and self.head.is_outside(name):
            return name.partition(".")[0]
        return self.full_name(name.rpartition(".")[0])


def task_of(architecture: Architecture, head: Head, *, without_head: bool = False) -> PeftTask:
    """The model to wrap for a head, which stays outside where transformers has no class with it, or on demand."""
    return PeftTask(architecture, head if head.in_transformers and not without_head else None)


def lora_key(full: str, matrix: str) -> str:
    """The tensor key of A (r, in) or B (out, r)."""
    return f"{ROOT}{full}.lora_{matrix}.weight"


def lora_config(
    loras: Mapping[str, LoRA],
    saved: Collection[str],
    *,
    task: PeftTask,
    layout: Layout,
    base_model: str,
    revision: str | None = None,
) -> dict[str, Any]:
    r"""The contents of `adapter_config.json`.

        r = R = max r_i     lora_alpha = s·R     compact: rank_pattern r_i, alpha_pattern s_i·r_i
                                                 folded:  rank_pattern r_i, for s_i·r_i = R in every module

    loras: what is written, by our name, arranged for the layout.  saved: entries of modules_to_save.

    Targets and pattern keys are full names as they stand: each matches its own module and no other in every PEFT from
    0.13 on.  PEFT 0.15 and later match `(.*\.)?(key)$`, where a dot of the key stands for any character, and no name
    of this table is another's end; 0.14 and earlier match `.*\.key$`, which no full name does, and then look the name
    itself up, which neither `^` nor an escaped dot may alter.

    For the bare encoder the targets are one expression, which matches whole names (`re.fullmatch`): a list would match
    their ends as well, and transformers' text-classification pipeline would run the adapter under a classifier drawn at
    random; so it finds no module and fails.  `uniform` stays a list, which servers iterate over.
    """
    largest = max(loras.values(), key=lambda lora: lora.A.shape[0])
    names = {task.full_name(module): lora for module, lora in loras.items()}
    ranks = {name: lora.A.shape[0] for name, lora in names.items()}
    alphas = {name: _alpha(lora) for name, lora in names.items()}
    return {
        "peft_type": "LORA",
        "task_type": task.task_type,
        "base_model_name_or_path": base_model,
        "revision": revision,
        "inference_mode": True,
        "bias": "none",
        "use_rslora": False,
        "lora_dropout": 0.0,
        "r": largest.A.shape[0],
        "lora_alpha": _alpha(largest),
        "target_modules": list(names) if task.prefix or layout == "uniform" else "|".join(map(re.escape, names)),
        "rank_pattern": {} if layout == "uniform" else ranks,
        "alpha_pattern": alphas if layout == "compact" else {},
        "modules_to_save": list(saved) or None,
    }


def _alpha(lora: LoRA) -> int | float:
    alpha = lora.s * lora.A.shape[0]
    return int(alpha) if alpha == int(alpha) else alpha
