"""Folders of PEFT adapters, ours and other people's: adapter_config.json and the tensors beside it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from sora_ref.run.inspect import inspect_path
from tests.soak import console
from tests.soak.fuzz.documents import json_document
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.fuzz.tensors import safetensors
from tests.soak.ground import Ground

# What PEFT writes beside what we write; a case may set any of it.
_OPTIONS: dict[str, Any] = {
    "alpha_pattern": {"query": 4},
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 16,
    "modules_to_save": ["classifier"],
    "peft_version": "0.21.2",
    "rank_pattern": {"layer.0.*": 3},
    "target_modules": r".*(query|value)",
    "use_dora": False,
    "use_rslora": True,
}
_EXPRESSIONS = (
    "(a+)+$",
    "(.*a){25}",
    "(x|x)*y",
    "(",
    "[",
    "a{10000}",
    r"(?<!a)b",
    r"\1",
    "(?P<n>a)",
    "(?i)QUERY",
    "^.*$",
    "é" * 300,
    "((((((((((a" * 20,
)


def _folder(ground: Ground) -> Path:
    out = ground.folder / "formats" / "peft"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        console.run(ground.ship(["export"], out))
    return out


def _config(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.7:
        return json_document(rng, data)
    try:
        config = json.loads(data)
        key = rng.choice(sorted(_OPTIONS))
        config[key] = _OPTIONS[key]
        if rng.random() < 0.6:
            expression = rng.choice(_EXPRESSIONS)
            key = rng.choice(("target_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules"))
            config[key] = {expression: 2} if "pattern" in key else rng.choice((expression, [expression]))
        return json.dumps(config).encode()
    except (ValueError, TypeError, RecursionError):
        return json_document(rng, data)


def _damage(rng: random.Random, files: Files) -> Files:
    name = rng.choice(("adapter_config.json", "adapter_config.json", "adapter_model.safetensors", "head.safetensors"))
    if name.endswith(".json"):
        return {name: some(rng, files[name], _config)}
    return {name: some(rng, files[name], safetensors)} if name in files else {}


def _inspect(folder: Path, out: Path) -> list[str]:
    return ["inspect", str(folder), "--json"]


FORMATS = (Format("peft", _folder, _damage, inspect_path, slice=400, console=_inspect),)
