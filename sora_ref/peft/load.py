"""PEFT adapter -> LoRAs: any LoRA for BERT in PEFT's layout, whoever wrote it; the rest is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.checks import require
from sora_ref.errors import shown
from sora_ref.linear import SoRA
from sora_ref.models.pretrained import POOLER
from sora_ref.models.tensors import Tensors, read_tensors
from sora_ref.peft import format as peft_format
from sora_ref.peft.config import listed, read_config
from sora_ref.peft.format import (
    BERT,
    CLASSIFIER,
    CONFIG_FILE,
    HEAD_FILE,
    ROOT,
    TASKS,
    WEIGHTS_FILE,
    Head,
    lora_key,
    our_name,
)
from sora_ref.prune import LoRA

_LORA_KEY = re.compile(r"(.+)\.lora_[AB]\.weight")


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT LoRA adapter as it stands in its folder.

    loras:  our module name -> A (r, in), B (out, r), s = α/r as PEFT computes it.
    saved:  our tensor name -> tensor trained in full; with mean pooling the head's too.
    config: `adapter_config.json`, untouched.
    prefix: `bert.` where the adapter belongs to a model with a head, empty for the bare encoder.
    head:   `cls`, `mean`, or None where the folder has none.
    cast:   tensor key -> the half precision it was stored in; such tensors are float32 here.
    """

    loras: Mapping[str, LoRA]
    saved: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    prefix: str
    head: Head | None
    cast: Mapping[str, str]


def read_adapter(folder: Path) -> PeftAdapter:
    """The adapter in `folder`; SoRAError, naming the file, where it is damaged or not understood.

    Tensors that PEFT would drop in silence, because target_modules or modules_to_save does not select them, are an
    error here; so are names that select nothing.
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(config_path)
    arrays, cast, _ = read_tensors(weights_path)
    foreign = [key for key in arrays if not key.startswith(ROOT)]
    require(not foreign, f"{weights_path}: {listed(foreign)} is no key of PEFT: expected it to begin with {ROOT}")

    found = {match[1].removeprefix(ROOT) for match in map(_LORA_KEY.fullmatch, arrays) if match}
    modules = sorted(found, key=_by_layer)
    require(bool(modules), f"{weights_path} has no tensors lora_A and lora_B: expected a LoRA adapter")
    loras = {module: _lora(weights_path, config, arrays, module) for module in modules}
    _require_listed_targets(config_path, config, modules)
    prefixes = {BERT if module.startswith(BERT) else "" for module in modules}
    require(len(prefixes) == 1, f"{weights_path}: some modules begin with {BERT} and some do not: expected one model")

    saved = {key.removeprefix(ROOT): array for key, array in arrays.items() if not _LORA_KEY.fullmatch(key)}
    _require_saved(weights_path, config, saved)
    task = config.get("task_type")
    head: Head | None = "cls" if task == "SEQ_CLS" else None
    if task == "FEATURE_EXTRACTION" and (folder / HEAD_FILE).exists():
        head_file = _read_head(folder / HEAD_FILE)
        head, saved, cast = _pooling(head_file), saved | head_file.arrays, cast | head_file.cast
    return PeftAdapter(
        loras={our_name(module): lora for module, lora in loras.items()},
        saved={our_name(name): array for name, array in saved.items()},
        config=config,
        prefix=prefixes.pop(),
        head=head,
        cast=cast,
    )


def adapters_from(peft: PeftAdapter) -> dict[str, SoRA]:
    """The same maps as SoRA adapters with every gate at 1; zero components of the layout `uniform` stay in."""
    return {module: SoRA(A, np.ones(A.shape[0], A.dtype), B, s) for module, (A, B, s) in peft.loras.items()}


def _lora(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], module: str) -> LoRA:
    key_A, key_B = lora_key(module, "A"), lora_key(module, "B")
    for key in (key_A, key_B):
        require(key in arrays, f"{path} has no {key}: expected both matrices of {module}")
    require(
        peft_format.is_target(config, module),
        f"{path} has a LoRA of {module}, which target_modules of {CONFIG_FILE} does not select: PEFT would drop it",
    )
    A, B, r = arrays[key_A], arrays[key_B], peft_format.rank(config, module)
    fits = A.ndim == 2 and B.ndim == 2 and A.shape[0] == r and B.shape[1] == r
    require(fits, f"{path}: {module} has A {A.shape} and B {B.shape}: expected ({r}, in) and (out, {r})")
    require(A.dtype == B.dtype, f"{path}: {module} has A {A.dtype} and B {B.dtype}: expected one dtype")
    for key in (key_A, key_B):
        require(bool(np.isfinite(arrays[key]).all()), f"{path}: {key} is not finite: expected finite numbers")
    return LoRA(A, B, peft_format.scale(config, module))


def _by_layer(name: str) -> str:
    """A key that sorts layer 2 before layer 10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(6), name)


def _require_listed_targets(path: Path, config: Mapping[str, Any], modules: list[str]) -> None:
    """SoRAError where a listed name selects no tensors: PEFT would leave random numbers in the adapter there."""
    targets = config["target_modules"]
    names = [] if isinstance(targets, str) else targets
    unused = [name for name in names if not any(m == name or m.endswith(f".{name}") for m in modules)]
    require(not unused, f"{path}: target_modules names {listed(unused)}: expected its tensors in {WEIGHTS_FILE}")


def _require_saved(path: Path, config: Mapping[str, Any], saved: Mapping[str, np.ndarray]) -> None:
    """SoRAError unless the tensors beside the LoRAs are just those of modules_to_save, and a classifier's are there."""
    modules = {name.rpartition(".")[0] for name in saved}
    dropped = [name for name in saved if not peft_format.is_saved(config, name.rpartition(".")[0])]
    require(
        not dropped,
        f"{path} has {listed(dropped)}, which modules_to_save of {CONFIG_FILE} does not select: PEFT would drop it",
    )
    unused = [
        entry
        for entry in config.get("modules_to_save") or []
        if entry not in ("classifier", "score") and not any((ROOT + module).endswith(entry) for module in modules)
    ]
    require(not unused, f"{path} has no tensors of {listed(unused)}, which modules_to_save names")
    if config.get("task_type") == "SEQ_CLS":
        _require_classifier(path, saved)
    for name, array in saved.items():
        require(bool(np.isfinite(array).all()), f"{path}: {name} is not finite: expected finite numbers")


def _read_head(path: Path) -> Tensors:
    """`head.safetensors` of an export: a classifier, on the mean or, with or without its pooler, on the first token."""
    head = read_tensors(path)
    pooling = head.metadata.get("pooling")
    require(pooling in TASKS, f"{path}: pooling is {shown(pooling)}: expected {' or '.join(map(repr, TASKS))}")
    _require_classifier(path, head.arrays)
    own = (*CLASSIFIER, *(POOLER if pooling == "cls" else ()))
    foreign = [name for name in head.arrays if name not in own]
    require(not foreign, f"{path} has {listed(foreign)}: expected {' and '.join(own)} alone")
    return head


def _pooling(head: Tensors) -> Head:
    return "cls" if head.metadata["pooling"] == "cls" else "mean"


def _require_classifier(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name in CLASSIFIER:
        require(name in arrays, f"{path} has no {name}: expected a classifier's weight and bias")
    weight, bias = (arrays[name] for name in CLASSIFIER)
    fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
    require(fits, f"{path}: classifier has weight {weight.shape} and bias {bias.shape}: expected (n, d) and (n,)")
