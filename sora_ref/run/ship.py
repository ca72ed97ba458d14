"""What leaves a run: the pruned adapter, the merged model, the PEFT adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as replace_fields

from sora_ref import kept_components, merge, prune
from sora_ref.backends import Array
from sora_ref.checks import require
from sora_ref.peft import ExportReport, export_adapter
from sora_ref.peft.format import Layout
from sora_ref.run.checkpoint import checkpoint_bytes, without_moments
from sora_ref.run.config import Config, dump_config
from sora_ref.run.fetch import ARTEFACTS
from sora_ref.run.setup import Params, Setup, to_host
from sora_ref.run.text import tokenizer_files
from sora_ref.run.trained import ADAPTER, Loaded
from sora_ref.storage.folder import write_folder
from sora_ref.storage.weights import to_bytes


def pruned_params(setup: Setup, params: Params) -> dict[str, Array]:
    """The trained parameters with every component whose gate is exactly zero dropped (SORA-PRUNE-2)."""
    kept: dict[str, Array] = dict(params)
    for module, adapter in setup.adapters(params).items():
        smaller = prune(adapter, kept_components(adapter.g))
        kept |= {f"{module}.sora_A": smaller.A, f"{module}.sora_g": smaller.g, f"{module}.sora_B": smaller.B}
    return kept


def merged_params(setup: Setup, params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    """The frozen weights with every adapter merged in, and the trained parameters that are left (SORA-PRUNE-4)."""
    frozen = {name: array for name, array in setup.frozen.items() if ".sora_" not in name}
    merged = dict(frozen)
    for module, adapter in setup.adapters(params).items():
        name = f"{module}.weight"
        merged[name] = merge(frozen[name], adapter, name=name, others=frozen, keep_base=False).W
    return merged, setup.head(params)


def write_pruned(loaded: Loaded, out: Path) -> dict[str, int]:
    """Write the pruned adapter into a new folder that every command accepts; returns the rank of each module."""
    setup = loaded.setup
    params = to_host(setup, pruned_params(setup, loaded.params))
    config = replace_fields(setup.config, adapter=replace_fields(setup.config.adapter, gated=True))
    files = _run_files(config, checkpoint_bytes(replace(without_moments(loaded.trained), params=params)))
    _write(out, files)
    return {module: params[f"{module}.sora_g"].shape[0] for module in setup.scales}


def write_merged(loaded: Loaded, out: Path) -> None:
    """Write the merged model as a Hugging Face folder that every command, and transformers, accepts.

    With the CLS head it is a BertForSequenceClassification; with mean pooling a BertModel, the linear head beside it in
    adapter.safetensors.
    """
    setup = loaded.setup
    require(setup.folder != loaded.file.parent, f"{loaded.file.parent} is merged already: expected a run")
    merged, trained = merged_params(setup, loaded.params)
    weights = to_host(setup, {**merged, **trained})
    cls = setup.model.head == "cls"
    if not cls:
        weights = {name: array for name, array in weights.items() if not name.startswith("classifier.")}

    config = json.loads((setup.folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = setup.config.dtype
    config.pop("torch_dtype", None)
    config["architectures"] = ["BertForSequenceClassification" if cls else "BertModel"]
    if cls:
        names = setup.labels.names or ("value",)
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
        regression = setup.labels.kind == "regression"
        config["problem_type"] = "regression" if regression else "single_label_classification"
    here = replace_fields(
        setup.config,
        model=replace_fields(setup.config.model, path="."),
        adapter=replace_fields(setup.config.adapter, kinds=[], norms=False, biases=False),
    )
    head = {name: array for name, array in to_host(setup, trained).items() if name in setup.fresh}
    files = {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": to_bytes({_hugging_face_name(name, cls): array for name, array in weights.items()}, {}),
        **{path.name: path.read_bytes() for path in tokenizer_files(setup.folder)},
    }
    base = hashlib.sha256(files["model.safetensors"]).hexdigest()
    shipped = replace(without_moments(loaded.trained), params=head, scales={}, base=base)
    _write(out, files | _run_files(here, checkpoint_bytes(shipped)))


def write_peft(loaded: Loaded, out: Path, layout: Layout, base_model: str | None = None) -> ExportReport:
    """Write a PEFT LoRA adapter, read it back and compare (see `peft.export_adapter`).

    base_model: what the adapter's configuration calls its base; by default the hub's name of a fetched model, else
    the folder.
    """
    setup = loaded.setup
    require(bool(setup.scales), f"{loaded.file}: no adapters in it: expected a run with adapter.kinds")
    path = setup.config.model.path
    named = ARTEFACTS[path].hub if path in ARTEFACTS else None
    return export_adapter(
        out,
        setup.adapters(loaded.params),
        to_host(setup, setup.head(loaded.params)),
        head=setup.model.head,
        layout=layout,
        base_model=base_model or named or str(setup.folder),
        max_length=setup.config.model.max_length,
    )


def _run_files(config: Config, adapter: bytes) -> dict[str, bytes]:
    return {"config.toml": dump_config(config).encode(), ADAPTER: adapter}


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """A new folder, complete or not at all."""
    write_folder(out, files, overwrite=False, replaceable=(), check=lambda folder: None)


def _hugging_face_name(name: str, cls: bool) -> str:
    return f"bert.{name}" if cls and not name.startswith("classifier.") else name
