"""What is in a run, a pruned or merged folder, or a PEFT adapter, without loading the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref import SoRA, count_parameters, module_ranks
from sora_ref.errors import SoRAError, printable
from sora_ref.methods import HEAD, LORA, SORA
from sora_ref.models import OUTPUT_LAYERS
from sora_ref.names import adapter_names, is_adapter, is_gate, unpack
from sora_ref.peft import adapters_from, read_adapter
from sora_ref.preconditions import require
from sora_ref.run.checkpoint import read_checkpoint
from sora_ref.run.trained import find_checkpoint, progress_of


def inspect_path(path: Path, stage: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """Facts for a program, and lines for a person; SoRAError where `path` is none of the four."""
    require(path.exists(), f"{path}: no such file or folder: expected a run, a pruned folder or a PEFT adapter")
    _require_no_adapters_below(path)
    if (path / "adapter_config.json").is_file():
        peft = read_adapter(path)
        adapters, saved = _counted(adapters_from(peft)), peft.saved
        facts: dict[str, Any] = {
            "file": str(path),
            "kind": "PEFT adapter",
            "base": peft.config.get("base_model_name_or_path"),
            "task": peft.config.get("task_type"),
            "saved": sorted(saved),
            "notes": list(peft.notes),
        }
        gated = False
    else:
        _, file = find_checkpoint(path, stage)
        trained = read_checkpoint(file)
        params = trained.params
        gated = any(map(is_gate, params))
        kind = SORA if gated else LORA if trained.scales else HEAD
        adapters = {module: _adapter(params, module, s) for module, s in trained.scales.items()}
        saved = {name: array for name, array in params.items() if not is_adapter(name)}
        facts = {"file": str(file), "kind": kind.title, "step": trained.position.step}
        unfinished = progress_of(path, file, trained)
        if unfinished is not None:
            facts["unfinished"] = unfinished
        facts |= {"task": trained.labels.kind, "labels": list(trained.labels.names)}

    hidden = _hidden(adapters, saved)
    counts = count_parameters(adapters, hidden=hidden or 1, head=sum(array.size for array in saved.values()))._asdict()
    if hidden is None:
        counts["released"] = (
            None  # it deducts by the width of the model, which neither a classifier nor the adapters' shapes tell
        )
    ranks = module_ranks(adapters)
    facts |= {"counts": counts, "scales": {m: a.s for m, a in adapters.items()}, "ranks": ranks}
    if gated:
        facts["gates"] = {module: adapter.g.tolist() for module, adapter in adapters.items()}
    return facts, _lines(facts, adapters, gated)


def _require_no_adapters_below(path: Path) -> None:
    """SoRAError, naming one, where a folder that is no run and no adapter holds adapters in folders of its own."""
    if any((path / name).exists() for name in ("adapter_config.json", "adapter_model.safetensors", "checkpoints")):
        return
    below = sorted(file.parent for file in path.glob("*/adapter_config.json"))
    if below:
        raise SoRAError(
            f"{printable(str(path))} is no adapter, but holds {len(below)} in folders of its own: expected one of "
            f"them, as {printable(str(below[-1]))}"
        )


_READS_HIDDEN = (
    *("query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin", "gate_proj", "up_proj"),
    *("intermediate.dense", "lin1", "pooler.dense", "score", "lm_head"),
)
_WRITES_HIDDEN = (
    *("output.dense", "o_proj", "down_proj", "out_lin", "lin2", "pooler.dense", "embed_tokens", "word_embeddings"),
)


def _hidden(adapters: Mapping[str, SoRA], saved: Mapping[str, np.ndarray]) -> int | None:
    """The hidden size: of a linear classifier, else of modules that read or write it; None where these differ."""
    for name in (f"{out}.weight" for out in OUTPUT_LAYERS):
        if name in saved and saved[name].ndim == 2:
            return int(saved[name].shape[1])

    def ends(module: str, names: tuple[str, ...]) -> bool:
        return any(module == name or module.endswith(f".{name}") for name in names)

    widths = {adapter.A.shape[1] for module, adapter in adapters.items() if ends(module, _READS_HIDDEN)}
    widths |= {adapter.B.shape[0] for module, adapter in adapters.items() if ends(module, _WRITES_HIDDEN)}
    return int(widths.pop()) if len(widths) == 1 else None


def _adapter(params: Mapping[str, np.ndarray], module: str, s: float) -> SoRA:
    names = adapter_names(module)
    A = params[names.A]
    return unpack({names.g: np.ones(A.shape[0], A.dtype), **params}, module, s)


def _counted(adapters: Mapping[str, SoRA]) -> dict[str, SoRA]:
    """A plain LoRA with a gate of 0 for each component that adds nothing: its row of A or column of B is exactly zero.

    So are those that the layout `uniform` pads with.
    """

    def counted(A: np.ndarray, g: np.ndarray, B: np.ndarray, s: float) -> SoRA:
        return SoRA(A, g * (np.any(A != 0, axis=1) & np.any(B != 0, axis=0)), B, s)

    return {module: counted(*adapter) for module, adapter in adapters.items()}


def _lines(facts: Mapping[str, Any], adapters: Mapping[str, SoRA], gated: bool) -> list[str]:
    counts = facts["counts"]
    lines = [
        f"{facts['kind']} in {facts['file']}",
        f"components kept: {counts['kept']} of {counts['components']}",
        f"parameters retained: {counts['retained']:,} of {counts['total']:,}; with gates {counts['with_gates']:,}; "
        f"with head {counts['with_head']:,}"
        + ("" if counts["released"] is None else f"; the released counter says {counts['released']:,}"),
        *(f"note: {note}" for note in facts.get("notes", ())),
    ]
    if "unfinished" in facts:
        whole = f" of {facts['unfinished']['of']}" if "of" in facts["unfinished"] else ""
        lines.insert(1, f"the run is not finished: this is step {facts['step']}{whole}")
    width = max((len(module) for module in adapters), default=0)
    for module, adapter in adapters.items():
        kept = facts["ranks"][module]
        rank = f"rank {kept} of {adapter.rank}" if gated else f"rank {adapter.rank}, {kept} kept"
        line = f"  {module:<{width}}  {rank}  s {adapter.s:g}"
        if gated and adapter.rank:
            line += "  g " + " ".join("0" if g == 0 else f"{g:+.3f}" for g in adapter.g.tolist())
        lines.append(line)
    return lines
