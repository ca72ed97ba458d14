"""Reading `adapter_config.json`: what a plain LoRA for BERT may say, and one sentence for everything else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sora_ref.checks import require
from sora_ref.errors import SoRAError
from sora_ref.peft import format as peft_format
from sora_ref.storage.documents import read_json


def read_config(path: Path) -> dict[str, Any]:
    """The configuration, untouched; SoRAError where it is absent, malformed, or asks for more than a plain LoRA."""
    config = read_json(path, dict[str, Any], "PEFT's configuration")
    kind = config.get("peft_type")
    require(kind == "LORA", f"{path}: peft_type is {kind!r}: expected 'LORA'")
    tasks = [task.task_type for task in peft_format.TASKS.values()]
    task = config.get("task_type")
    require(task is None or task in tasks, f"{path}: task_type is {task!r}: expected {' or '.join(tasks)}")
    bias = config.get("bias", "none")
    require(bias == "none", f"{path}: bias is {bias!r}: expected 'none', trained biases are not understood here")
    initial = config.get("init_lora_weights", True)
    require(
        initial in peft_format.PLAIN_INITIALISATIONS,
        f"{path}: init_lora_weights is {initial!r}, which changes the base weights: expected one that does not",
    )
    known = peft_format.LAYOUT_OPTIONS | peft_format.HARMLESS_OPTIONS
    unknown = [option for option, value in config.items() if option not in known and value]
    require(not unknown, f"{path}: option {listed(unknown)} is set: expected a plain LoRA")
    _require_layout(path, config)
    return dict(config)


def _require_layout(path: Path, config: Mapping[str, Any]) -> None:
    """SoRAError unless ranks, scales, patterns, target_modules and modules_to_save have the types PEFT gives them."""
    patterns = {name: config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        require(isinstance(pattern, dict), f"{path}: {name} is {pattern!r}: expected an object")
    ranks = {"r": config.get("r"), **patterns["rank_pattern"]}
    for key, value in ranks.items():
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(fits, f"{path}: rank {key} is {value!r}: expected a whole number from 1 up")
    alphas = {"lora_alpha": config.get("lora_alpha"), **patterns["alpha_pattern"]}
    for key, value in alphas.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        require(fits, f"{path}: scale {key} is {value!r}: expected a finite number")

    targets, saved = config.get("target_modules"), config.get("modules_to_save") or []
    require(
        isinstance(targets, str) or _is_names(targets),
        f"{path}: target_modules is {targets!r}: expected a list of names or one regular expression",
    )
    require(_is_names(saved), f"{path}: modules_to_save is {saved!r}: expected a list of names")
    expressions = [*patterns["rank_pattern"], *patterns["alpha_pattern"], *saved]
    for expression in [*expressions, targets] if isinstance(targets, str) else expressions:
        try:
            re.compile(expression)
        except re.error as error:
            raise SoRAError(f"{path}: {expression!r} is no regular expression: {error}") from error


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
