"""SoRA adapters -> a PEFT LoRA adapter.

    A_i' = A[kept]     B_i' = B[:, kept] diag(g[kept])     α_i/r_i = s_i        so that   s_i·B_i' A_i' = ΔW_i

Just the components with g_i ≠ 0 are written, so the folder does not depend on whether pruning came before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sora_ref import backends
from sora_ref.errors import shown
from sora_ref.linear import SoRA
from sora_ref.models import Architecture, Head, HeadName
from sora_ref.peft import format as peft_format
from sora_ref.peft import loaders
from sora_ref.peft.card import Labels, adapter_card, labels_of
from sora_ref.peft.compare import Comparison, compare_with_disk
from sora_ref.peft.format import ROOT, Layout, PeftTask, lora_key, task_of
from sora_ref.peft.layouts import arranged, require_exportable
from sora_ref.peft.rounding import format_of, rounding_bound, stored_lora
from sora_ref.preconditions import require
from sora_ref.pruning import LoRA
from sora_ref.storage.folder import write_folder
from sora_ref.storage.tensors import PYTORCH, tensor_bytes


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    folder, files:   where, and the size of each file in bytes.
    base_model:      what the configuration calls it;  local_base: that is no name on a hub, but a folder's.
    task_type:       PEFT's: SEQ_CLS with the head inside, FEATURE_EXTRACTION on the bare model otherwise.
    ranks:           components kept, by module; those at 0 carry no adapter.
    rank:            the largest of the written ones: r of the configuration.
    placeholder:     the module given a rank-1 zero adapter because no module kept anything, else None.
    scales_folded:   whether B holds the scales, because `uniform` has one scale and the modules had several.
    modules_to_save: the modules written in full inside the adapter, by PEFT's names.
    dtype:           what A and B are stored in.
    rounding:        how far storing them may move an entry of ΔW at most, by module; a derived bound (`peft.rounding`).
    comparison:      of the folder on the disk with what was meant.
    """

    folder: Path
    files: Mapping[str, int]
    layout: Layout
    base_model: str
    local_base: bool
    task_type: str
    ranks: Mapping[str, int]
    rank: int
    placeholder: str | None
    scales_folded: bool
    modules_to_save: tuple[str, ...]
    dtype: str
    rounding: Mapping[str, float]
    comparison: Comparison


def export_adapter(
    folder: Path,
    adapters: Mapping[str, SoRA],
    saved: Mapping[str, np.ndarray],
    *,
    architecture: Architecture,
    head: HeadName,
    layout: Layout,
    base_model: str,
    revision: str | None = None,
    local_base: bool = False,
    without_head: bool = False,
    dtype: str | None = None,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    licence: str | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> ExportReport:
    """Writes `folder`, complete or not at all, as a PEFT LoRA adapter, and reads it back (`compare_with_disk`).

    adapters:   by our module name, pruned or not, any backend, float32 or float64; the gate goes into B.
    saved:      tensors trained outside the adapters, by our name: the head's always; the model's own dense layer of it
                and norms where trained, weight and bias together.
    architecture, head: of the model.  A head that transformers' classifier has is written inside the adapter; `mean`
                stands beside it, in head.safetensors, and the adapter belongs to the bare model.
    layout:     see `peft.layouts`.
    base_model: the base model's name or path, as the reader's machine knows it; revision: its commit on the hub.
    local_base: it is no name on a hub, but a folder's, which the README says.
    without_head: the adapter holds LoRA matrices alone, of the bare model; the head stands beside it.
    dtype:      float32, float64, float16 or bfloat16, of A and B; the adapters' own by default.
    labels:     names of the outputs, in order; none for transformers' LABEL_0 …, or for regression.
    max_length: tokens the loader truncates to; None for the tokenizer's own limit.
    licence:    as the hub names it.  notes: lines for the README.
    overwrite:  replace an earlier export.
    Raises SoRAError, naming the tensor, on what PEFT cannot hold: a trained bias beside an adapter, half of a norm, a
    name that the architecture has not got, numbers that are not finite or not in `dtype`; and on an existing folder or
    a disk that refuses.
    """
    offered = architecture.heads
    require(head in offered, f"head is {head!r}: expected one of {', '.join(offered)}")
    record = offered[head]
    require(layout in get_args(Layout), f"layout is {layout!r}: expected one of {', '.join(get_args(Layout))}")
    whole = base_model.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in base_model)
    require(whole, f"base model {shown(base_model)} is no Unicode text: expected a name that others can read")
    require(bool(adapters), "there is no adapter to export: expected at least one module")
    _require_adaptable(architecture, adapters)
    made = arranged(adapters, layout)
    loras, rounding = _stored(made.loras, adapters, dtype)
    tensors = _checked_saved(architecture, record, saved, adapters)
    task = task_of(architecture, record, without_head=without_head)
    beside = _beside(tensors, record, without_head)
    inside = {name: tensor for name, tensor in tensors.items() if name not in beside}
    modules_to_save = tuple(dict.fromkeys(task.saved_module(name) for name in inside))
    config = peft_format.lora_config(
        loras, modules_to_save, task=task, layout=layout, base_model=base_model, revision=revision
    )
    about = labels_of(tensors[f"{record.out}.weight"].shape[0], labels, max_length)
    stored_as = dtype or str(next(iter(loras.values())).A.dtype)
    text = adapter_card(
        architecture=architecture,
        base_model=base_model,
        local=local_base,
        whole=not beside,
        saved=modules_to_save,
        layout=layout,
        dtype=stored_as,
        labels=about,
        ranks=made.ranks,
        licence=licence,
        notes=notes,
    )
    keyed = _keyed(loras, inside, task)
    halves = {key: stored_as for key in keyed if ".lora_" in key}
    files = {
        peft_format.CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        peft_format.WEIGHTS_FILE: tensor_bytes(keyed, PYTORCH, halves),
        peft_format.LABELS_FILE: about.as_json().encode(),
        peft_format.README_FILE: text.encode(),
        peft_format.LOADER_FILE: (loaders.PEFT_BESIDE if beside else loaders.PEFT_WHOLE).encode(),
    }
    if beside:
        files[peft_format.HEAD_FILE] = head_bytes(beside, record, head, about)
    comparison = write_folder(
        folder,
        files,
        overwrite=overwrite,
        replaceable=peft_format.FILES,
        check=lambda written: compare_with_disk(written, files, loras, tensors),
    )
    return ExportReport(
        folder=folder,
        files={name: len(data) for name, data in files.items()},
        layout=layout,
        base_model=base_model,
        local_base=local_base,
        task_type=task.task_type,
        ranks=made.ranks,
        rank=config["r"],
        placeholder=made.placeholder,
        scales_folded=made.scales_folded,
        modules_to_save=modules_to_save,
        dtype=stored_as,
        rounding=rounding,
        comparison=comparison,
    )


def head_bytes(tensors: Mapping[str, np.ndarray], head: Head, name: HeadName, labels: Labels) -> bytes:
    """`head.safetensors`: the trained head, and in its notes what it is a map of, and how its layers are called."""
    pooled = {"mean": "last hidden state, over the attention mask", "first": "first token"}[head.pooling]
    notes = {"pooling": name, "out": head.out}
    if head.dense is not None:
        pooled = f"{pooled}, dense layer, {head.activation}"
        notes |= {"dense": head.dense, "activation": head.activation}
    limit = {} if labels.max_length is None else {"max_length": str(labels.max_length)}
    return tensor_bytes(tensors, {**PYTORCH, **notes, "pooled": pooled, **limit})


def _stored(
    loras: Mapping[str, LoRA], adapters: Mapping[str, SoRA], dtype: str | None
) -> tuple[dict[str, LoRA], dict[str, float]]:
    """The LoRAs in the dtype they are written in, by default each adapter's own; and the bound of their rounding."""
    stored, bounds = {}, {}
    for module, lora in loras.items():
        own = str(backends.to_host(adapters[module].A).dtype)
        form = format_of(dtype or own)
        stored[module] = stored_lora(module, lora, form)
        keeps_A = form.name in (own, "float64")
        bounds[module] = float(np.max(rounding_bound(lora, form, keeps_A=keeps_A), initial=0.0))
    return stored, bounds


def _require_adaptable(architecture: Architecture, adapters: Mapping[str, SoRA]) -> None:
    for module in adapters:
        require(
            architecture.is_linear(module),
            f"{module} carries an adapter: expected the name of a linear layer of {architecture.title}, without the "
            f"prefix {architecture.prefix}",
        )


def _beside(tensors: Mapping[str, np.ndarray], head: Head, without_head: bool) -> dict[str, np.ndarray]:
    """What goes into head.safetensors: a head that transformers has not got, and on demand any.

    SoRAError, by name, where more than the head would have to stay inside.
    """
    if not without_head:
        return {} if head.in_transformers else {name: tensors[name] for name in head.outer}
    beside = {name: tensor for name, tensor in tensors.items() if name in head.names}
    left = [name for name in tensors if name not in beside]
    require(not left, f"{left[0] if left else ''} is trained: expected LoRA matrices alone, where the head is left out")
    return beside


def _checked_saved(
    architecture: Architecture, head: Head, saved: Mapping[str, Any], adapters: Mapping[str, SoRA]
) -> dict[str, np.ndarray]:
    """The tensors on the host; SoRAError for the first that modules_to_save cannot hold.

    PEFT replaces a module as a whole, and loads it only if all its tensors are there.
    """
    heads = {name for each in architecture.heads.values() for name in each.inner}.union(head.names)
    for name in (*head.outer, *saved):
        module = name.rpartition(".")[0]
        savable = name in heads or (architecture.is_norm(name) and name in (f"{module}.weight", f"{module}.bias"))
        require(
            module not in adapters and (savable or not architecture.is_linear(module)),
            f"{name} is trained in a layer made for an adapter: expected it frozen, PEFT's LoRA holds no bias",
        )
        require(savable, f"{name} is trained: expected weights and biases of the head and of norms alone")
        for whole in (f"{module}.weight", f"{module}.bias"):
            require(
                whole in saved, f"{whole} is missing: expected weight and bias of {module}, PEFT loads both or none"
            )
    tensors = {name: backends.to_host(tensor) for name, tensor in saved.items()}
    for name, tensor in tensors.items():
        require_exportable(name, tensor)
    return tensors


def _keyed(loras: Mapping[str, LoRA], saved: Mapping[str, np.ndarray], task: PeftTask) -> dict[str, np.ndarray]:
    """Everything in `adapter_model.safetensors`, by PEFT's key."""
    keyed = {ROOT + task.full_name(name): tensor for name, tensor in saved.items()}
    for module, (A, B, _) in loras.items():
        full = task.full_name(module)
        keyed |= {lora_key(full, "A"): A, lora_key(full, "B"): B}
    return keyed
