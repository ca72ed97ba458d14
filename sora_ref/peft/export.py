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
from sora_ref.checks import require, require_one_dtype
from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA, check_adapter
from sora_ref.peft import format as peft_format
from sora_ref.peft.compare import Comparison, compare_with_disk
from sora_ref.peft.documents import LOADER, readme
from sora_ref.peft.format import CLASSIFIER, ROOT, TASKS, Head, Layout, full_name, lora_key
from sora_ref.prune import LoRA, absorb_gate, kept_components, prune
from sora_ref.storage.folder import write_folder
from sora_ref.storage.weights import to_bytes


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    folder, files:   where, and the size of each file in bytes.
    task_type:       PEFT's: SEQ_CLS with head `cls`, FEATURE_EXTRACTION on the bare encoder with `mean`.
    ranks:           components kept, by module; those at 0 carry no adapter.
    rank:            the largest of the written ones: r of the configuration.
    placeholder:     the module given a rank-1 zero adapter because no module kept anything, else None.
    scales_folded:   whether B holds the scales, because `uniform` has one scale and the modules had several.
    modules_to_save: the modules written in full inside the adapter.
    comparison:      of the folder on the disk with what was meant.
    """

    folder: Path
    files: Mapping[str, int]
    layout: Layout
    task_type: str
    ranks: Mapping[str, int]
    rank: int
    placeholder: str | None
    scales_folded: bool
    modules_to_save: tuple[str, ...]
    comparison: Comparison


def export_adapter(
    folder: Path,
    adapters: Mapping[str, SoRA],
    saved: Mapping[str, np.ndarray],
    *,
    head: Head,
    layout: Layout,
    base_model: str,
    max_length: int | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> ExportReport:
    """Writes `folder`, complete or not at all, as a PEFT LoRA adapter, and reads it back (`compare_with_disk`).

    adapters:   by our module name, pruned or not, any backend, float32 or float64; the gate goes into B.
    saved:      tensors trained outside the adapters, by our name: the classifier's weight and bias always; the pooler
                and LayerNorms where trained, weight and bias together.
    head:       `cls` (BertForSequenceClassification) or `mean` (bare BertModel, plus head.safetensors and a loader).
    layout:     `compact`, each module at its own rank and scale; or `uniform`, all padded with zeros to the largest
                rank, at their common scale, or where they differ at scale 1 with each s_i multiplied into B.
    base_model: the base model's name or path, as the reader's machine knows it.
    max_length: tokens the loader of `mean` truncates to; None for the tokenizer's own limit.
    notes:      lines for the README.
    overwrite:  replace an earlier export.
    Raises SoRAError, naming the tensor, on what PEFT cannot hold: a trained bias beside an adapter, half of a
    LayerNorm, a name BERT has not got, numbers that are not finite; and on an existing folder or a disk that refuses.
    """
    require(head in TASKS, f"head is {head!r}: expected one of {', '.join(TASKS)}")
    require(layout in get_args(Layout), f"layout is {layout!r}: expected one of {', '.join(get_args(Layout))}")
    require(bool(adapters), "there is no adapter to export: expected at least one module")
    folded = {module: _folded(module, adapter) for module, adapter in adapters.items()}
    ranks = {module: _rank(lora) for module, lora in folded.items()}
    loras = {module: lora for module, lora in folded.items() if ranks[module] > 0}
    placeholder = None if loras else next(iter(folded))
    if placeholder is not None:
        loras = {placeholder: _zero_of_rank_1(folded[placeholder])}
    fold_scales = layout == "uniform" and len({lora.s for lora in loras.values()}) > 1
    if layout == "uniform":
        loras = _uniform(loras, fold_scales=fold_scales)

    tensors = _checked_saved(saved, adapters)
    beside = {name: tensors[name] for name in CLASSIFIER} if head == "mean" else {}
    inside = {name: tensor for name, tensor in tensors.items() if name not in beside}
    modules_to_save = tuple(dict.fromkeys(_module(name) for name in inside))
    config = peft_format.lora_config(loras, modules_to_save, head=head, layout=layout, base_model=base_model)
    outputs = tensors["classifier.weight"].shape[0]
    text = readme(base_model=base_model, head=head, layout=layout, outputs=outputs, ranks=ranks, notes=notes)
    files = {
        peft_format.CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        peft_format.WEIGHTS_FILE: to_bytes(_keyed(loras, inside, TASKS[head].prefix), {}),
        peft_format.README_FILE: text.encode(),
    }
    if head == "mean":
        limit = {} if max_length is None else {"max_length": str(max_length)}
        about = {"pooling": "mean", "pooled": "last hidden state, over the attention mask", **limit}
        files[peft_format.HEAD_FILE] = to_bytes(beside, about)
        files[peft_format.LOADER_FILE] = LOADER.encode()
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
        task_type=TASKS[head].task_type,
        ranks=ranks,
        rank=config["r"],
        placeholder=placeholder,
        scales_folded=fold_scales,
        modules_to_save=modules_to_save,
        comparison=comparison,
    )


def _folded(module: str, adapter: SoRA) -> LoRA:
    """The plain LoRA of the kept components, on the host: B' = B[:, kept] diag(g[kept]), scale s."""
    require(
        peft_format.ADAPTABLE.fullmatch(module) is not None,
        f"{module} carries an adapter: expected the name of a linear layer of BERT, without the prefix bert.",
    )
    A, g, B = (backends.to_host(array) for array in adapter[:3])
    host = SoRA(A, g, B, float(adapter.s))
    try:
        check_adapter(host, B.shape[0], A.shape[-1])
        require_one_dtype({"A": A, "g": g, "B": B})
        with np.errstate(over="ignore"):  # refused below, by name
            lora = absorb_gate(prune(host, kept_components(g)))
    except SoRAError as error:
        raise SoRAError(f"{module}: {error}") from error
    for name, matrix in (("A", lora.A), ("B diag(g)", lora.B)):
        _require_exportable(f"{module}: {name}", matrix)
    return lora


def _rank(lora: LoRA) -> int:
    return int(lora.A.shape[0])


def _zero_of_rank_1(lora: LoRA) -> LoRA:
    """PEFT refuses rank 0 and an adapter without modules, so where nothing was kept one module says ΔW = 0."""
    A, B, s = lora
    return LoRA(np.zeros((1, A.shape[1]), A.dtype), np.zeros((B.shape[0], 1), B.dtype), s)


def _uniform(loras: Mapping[str, LoRA], *, fold_scales: bool) -> dict[str, LoRA]:
    """Every A (r_i, in) and B (out, r_i) padded with zeros to (R, in) and (out, R), at one scale."""
    R = max(map(_rank, loras.values()))
    padded = {}
    for module, (A, B, s) in loras.items():
        missing = R - A.shape[0]
        wide_A, wide_B = np.pad(A, ((0, missing), (0, 0))), np.pad(B, ((0, 0), (0, missing)))
        padded[module] = LoRA(wide_A, s * wide_B, 1.0) if fold_scales else LoRA(wide_A, wide_B, s)
    return padded


def _checked_saved(saved: Mapping[str, Any], adapters: Mapping[str, SoRA]) -> dict[str, np.ndarray]:
    """The tensors on the host; SoRAError for the first that modules_to_save cannot hold.

    PEFT replaces a module as a whole, and loads it only if all its tensors are there.
    """
    for name in (*CLASSIFIER, *saved):
        module = _module(name)
        adaptable = peft_format.ADAPTABLE.fullmatch(module) and not peft_format.SAVABLE.fullmatch(module)
        require(
            module not in adapters and not adaptable,
            f"{name} is trained in a layer made for an adapter: expected it frozen, PEFT's LoRA holds no bias",
        )
        fits = peft_format.SAVABLE.fullmatch(module) is not None and name in (f"{module}.weight", f"{module}.bias")
        require(fits, f"{name} is trained: expected weights and biases of classifier, pooler.dense or LayerNorms alone")
        for whole in (f"{module}.weight", f"{module}.bias"):
            require(
                whole in saved, f"{whole} is missing: expected weight and bias of {module}, PEFT loads both or none"
            )
    tensors = {name: backends.to_host(tensor) for name, tensor in saved.items()}
    for name, tensor in tensors.items():
        _require_exportable(name, tensor)
    return tensors


def _require_exportable(name: str, array: np.ndarray) -> None:
    require(array.dtype in (np.float32, np.float64), f"{name} has dtype {array.dtype}: expected float32 or float64")
    require(bool(np.isfinite(array).all()), f"{name} is not finite: expected finite numbers")


def _module(name: str) -> str:
    """`pooler.dense.weight` -> `pooler.dense`."""
    return name.rpartition(".")[0]


def _keyed(loras: Mapping[str, LoRA], saved: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Everything in `adapter_model.safetensors`, by PEFT's key."""
    keyed = {ROOT + full_name(name, prefix): tensor for name, tensor in saved.items()}
    for module, (A, B, _) in loras.items():
        full = full_name(module, prefix)
        keyed |= {lora_key(full, "A"): A, lora_key(full, "B"): B}
    return keyed
