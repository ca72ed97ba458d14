"""What leaves a run: the pruned adapter, the merged model, the PEFT adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec.structs import replace as replace_fields

from sora_ref import kept_components, merge, prune
from sora_ref.backends import Array
from sora_ref.errors import printable
from sora_ref.methods import HEAD, SORA
from sora_ref.names import adapter_names, is_adapter, pack
from sora_ref.peft import ExportReport, export_adapter
from sora_ref.peft.format import Layout, task_of
from sora_ref.peft.rounding import Format, format_of
from sora_ref.preconditions import require
from sora_ref.run.checkpoint import Trained, checkpoint_bytes, without_moments
from sora_ref.run.config import Config, dump_config
from sora_ref.run.hub import repository, revision
from sora_ref.run.merged import hub_commit, hub_name, labels_of_setup, merged_config, merged_extras
from sora_ref.run.setup import Params, Setup, to_host
from sora_ref.run.tokens import read_tokenizer_files
from sora_ref.run.trained import ADAPTER, Loaded
from sora_ref.storage.folder import write_folder
from sora_ref.storage.tensors import PYTORCH, tensor_bytes


def pruned_params(setup: Setup, params: Params) -> dict[str, Array]:
    """The trained parameters with every component whose gate is exactly zero dropped (SORA-PRUNE-2)."""
    kept: dict[str, Array] = dict(params)
    for module, adapter in setup.adapters(params).items():
        kept |= pack(module, prune(adapter, kept_components(adapter.g)))
    return kept


def merged_params(setup: Setup, params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    """The frozen weights with every adapter merged in, and the trained parameters that are left (SORA-PRUNE-4)."""
    frozen = {name: array for name, array in setup.frozen.items() if not is_adapter(name)}
    merged = dict(frozen)
    for module, adapter in setup.adapters(params).items():
        name = f"{module}.weight"
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused before it is written
            merged[name] = merge(frozen[name], adapter, name=name, others=frozen, keep_base=False).W
    return merged, setup.head(params)


def write_pruned(loaded: Loaded, out: Path) -> dict[str, int]:
    """Write the pruned adapter into a new folder that every command accepts; returns the rank of each module."""
    _require_finite(loaded)
    setup = loaded.setup
    params = to_host(setup, pruned_params(setup, loaded.params))
    config = replace_fields(setup.config, method=SORA.name) if setup.scales else setup.config
    _write(out, _run_files(config, replace(loaded.trained, params=params)))
    return {module: params[adapter_names(module).g].shape[0] for module in setup.scales}


def write_merged(
    loaded: Loaded, out: Path, *, dtype: str | None = None, licence: str | None = None
) -> dict[str, float]:
    """Write the merged model as a Hugging Face folder that every command, and transformers, accepts.

    With a head that transformers has it is the architecture's classifier class; else the bare model, the head beside
    it, in adapter.safetensors for us and in head.safetensors for the loader that comes with it.

    dtype:   float32, float64, float16 or bfloat16, of all weights; that of the work by default.
    licence: as the hub names it, for the README.
    Returns how far storing may move an entry of each merged weight: u|W| + σ (see `peft.rounding`), 0 as computed.
    Raises SoRAError, naming the tensor, where a weight is not finite, or not in `dtype`.
    """
    setup = loaded.setup
    require(setup.folder != loaded.file.parent, f"{loaded.file.parent} is merged already: expected a run")
    _require_finite(loaded)
    merged, trained = merged_params(setup, loaded.params)
    weights = to_host(setup, {**merged, **trained})
    model = setup.model
    if not model.head_record.in_transformers:
        weights = {name: array for name, array in weights.items() if name not in model.head_record.outer}
    form = format_of(dtype or setup.config.dtype)
    stored = {name: _stored(name, array, setup.config.dtype, form) for name, array in weights.items()}
    bounds = {
        module: 0.0
        if form.name in (setup.config.dtype, "float64")
        else form.unit * float(np.max(np.abs(weights[f"{module}.weight"]), initial=0)) + form.spacing
        for module in setup.scales
    }

    here = replace_fields(
        setup.config,
        model=replace_fields(setup.config.model, path="."),
        method=HEAD.name,
        adapter=replace_fields(setup.config.adapter, kinds=()),
        train=replace_fields(setup.config.train, also=()),
    )
    named = {task_of(model.architecture, model.head_record).full_name(name): array for name, array in stored.items()}
    head = {name: array for name, array in to_host(setup, trained).items() if name in setup.new_head_names}
    files = {
        "config.json": (json.dumps(merged_config(setup, form.name), indent=2) + "\n").encode(),
        "model.safetensors": tensor_bytes(named, PYTORCH, dict.fromkeys(named, form.name)),
        **read_tokenizer_files(setup.folder),
        **merged_extras(setup, head, licence),
    }
    base = hashlib.sha256(files["model.safetensors"]).hexdigest()
    shipped = replace(loaded.trained, params=head, scales={}, base=base)
    _write(out, files | _run_files(here, shipped))
    return bounds


def write_peft(
    loaded: Loaded,
    out: Path,
    layout: Layout,
    base_model: str | None = None,
    *,
    without_head: bool = False,
    dtype: str | None = None,
    licence: str | None = None,
) -> ExportReport:
    """Write a PEFT LoRA adapter, read it back and compare (see `peft.export_adapter`).

    base_model: what the adapter's configuration calls its base, for the hub org/name or org/name@revision; by default
    the hub's name of a fetched model, else the name of its folder, without the path, which would mean nothing on
    another machine.
    """
    setup = loaded.setup
    require(bool(setup.scales), f"{loaded.file}: no adapters in it: expected a run with adapters")
    _require_finite(loaded)
    named = (repository(base_model) or base_model) if base_model else hub_name(setup)
    labels = labels_of_setup(setup)
    return export_adapter(
        out,
        setup.adapters(loaded.params),
        to_host(setup, setup.head(loaded.params)),
        architecture=setup.model.architecture,
        head=setup.model.head,
        layout=layout,
        base_model=named or setup.folder.name,
        revision=revision(base_model) if base_model else hub_commit(setup),
        local_base=named is None or repository(named) is None,
        without_head=without_head,
        dtype=dtype,
        labels=setup.labels.names,
        max_length=labels.max_length,
        licence=licence,
    )


def _require_finite(loaded: Loaded) -> None:
    """SoRAError, naming the tensor, where what was trained is not finite: nothing of it shall leave."""
    for name, array in to_host(loaded.setup, loaded.params).items():
        _require_sound(printable(name), array, f"not finite, in {printable(str(loaded.file))}: expected finite numbers")


def _stored(name: str, array: np.ndarray, own: str, form: Format) -> np.ndarray:
    """A weight in the format it is stored in; SoRAError where it overflowed when it was merged, or does so now."""
    merged = f"not finite once merged in {own}: expected numbers that {own} can hold"
    _require_sound(name, array, merged)
    stored = form.round(array)
    _require_sound(name, stored, f"not finite in {form.name}: expected numbers that it can hold")
    return stored


def _require_sound(name: str, array: np.ndarray, what: str) -> None:
    require(bool(np.isfinite(array).all()), f"{name} is {what}")


def _run_files(config: Config, trained: Trained) -> dict[str, bytes]:
    """A run's configuration and parameters, without the seconds it took, in which equal runs differ."""
    timeless = replace(without_moments(trained), position=replace(trained.position, seconds=0.0))
    return {"config.toml": dump_config(config).encode(), ADAPTER: checkpoint_bytes(timeless)}


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """A new folder, complete or not at all."""
    write_folder(out, files, overwrite=False, replaceable=(), check=lambda folder: None)
