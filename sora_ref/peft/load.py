"""PEFT adapter -> LoRAs: any plain LoRA in PEFT's layout, whoever wrote it; the rest is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.linear import SoRA
from sora_ref.models import ARCHITECTURES, Architecture, Head, HeadName
from sora_ref.peft.config import listed, read_config
from sora_ref.peft.format import (
    CONFIG_FILE,
    HEAD_FILE,
    ROOT,
    WEIGHTS_FILE,
    lora_key,
)
from sora_ref.peft.matching import Selection
from sora_ref.preconditions import require
from sora_ref.pruning import LoRA
from sora_ref.storage.tensors import Tensors, read_tensors

_LINEAR = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])(?P<named>\.default)?\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<matrix>[AB])(?P<named>\.default)?")
_OTHERS = re.compile(r".+\.lora_(?:[AB]\.[^.]+\.weight|embedding_[AB]\.[^.]+)")
_KEY = re.compile(r"[!-~]{1,1000}")  # letters, digits and marks of ASCII: what a module can be called
_COMPILED = "_orig_mod. is torch.compile's: take it out of the keys, or save the model that was compiled"
_WRAPPED = (
    (f"{ROOT}_orig_mod.", _COMPILED),
    ("_orig_mod.", _COMPILED),
    (f"{ROOT}{ROOT}", f"{ROOT} stands twice, as where a PeftModel was wrapped again: take one out of the keys"),
)


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT LoRA adapter as it stands in its folder, of whatever architecture.

    loras:  our module name -> A (r, in), B (out, r), s = α/r as PEFT computes it; of an embedding, A (r, rows).
    saved:  our tensor name -> tensor stored in full; with a head file the head's too.
    config: `adapter_config.json`, untouched.
    prefix: what stood in front of the modules' names: a known architecture's, as `bert.`, under its classifier class;
            else empty.
    head:   `cls` or `mean` where the folder has such a head of a known architecture, else None.
    cast:   tensor key -> the half precision it was stored in; such tensors are float32 here.
    notes:  what PEFT would do otherwise than the configuration seems to say, a sentence each.
    """

    loras: Mapping[str, LoRA]
    saved: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    prefix: str
    head: HeadName | None
    cast: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_adapter(folder: Path) -> PeftAdapter:
    """The adapter in `folder`; SoRAError, naming the file, where it is damaged or no plain LoRA.

    It is read as PEFT reads it.  Tensors that PEFT would drop in silence, because the configuration does not select
    their layer, are an error here; names and patterns that select nothing are noted.
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    raw, options = read_config(config_path)
    selection = Selection(options, printable(str(config_path)))
    arrays, cast, _ = read_tensors(weights_path)
    where = printable(str(weights_path))
    _require_keys(where, arrays)

    matrices, named = _matrices(where, arrays)
    layers = sorted(matrices, key=_by_layer)
    require(bool(layers), f"{where} has no tensors lora_A and lora_B: expected a LoRA adapter")
    loras = {layer: _lora(where, selection, layer, matrices[layer]) for layer in layers}
    prefix = _prefix(layers)
    names = [layer.removeprefix(prefix) for layer in layers]
    require(
        len(set(names)) == len(names), f"{where}: some modules begin with {prefix} and some do not: expected one model"
    )
    known = [each for each in ARCHITECTURES.values() if prefix in ("", each.prefix) and all(map(each.is_linear, names))]

    taken = {key for pair in matrices.values() for key, _ in pair.values()}
    saved = {key.removeprefix(ROOT): array for key, array in arrays.items() if key not in taken}
    _require_saved(where, options.task_type, saved, loras)
    notes = selection.notes(layers, [name.rpartition(".")[0] for name in saved])
    if named:
        notes.append("the keys name the adapter, as state_dict() has them: PEFT reads them where it is called default")
    head = _head_inside(where, known, saved) if options.task_type == "SEQ_CLS" else None
    if options.task_type == "FEATURE_EXTRACTION" and (folder / HEAD_FILE).exists():
        head, head_file = _read_head(folder / HEAD_FILE, known)
        saved, cast = saved | head_file.arrays, cast | head_file.cast
    return PeftAdapter(
        loras={layer.removeprefix(prefix): lora for layer, lora in loras.items()},
        saved={name.removeprefix(prefix): array for name, array in saved.items()},
        config=raw,
        prefix=prefix,
        head=head,
        cast=cast,
        notes=tuple(notes),
    )


def adapters_from(peft: PeftAdapter) -> dict[str, SoRA]:
    """The same maps as SoRA adapters with every gate at 1; zero components of the layout `uniform` stay in."""
    return {module: SoRA(A, np.ones(A.shape[0], A.dtype), B, s) for module, (A, B, s) in peft.loras.items()}


def _require_keys(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """SoRAError unless every key is one of PEFT's: ASCII, and below the model that it wraps."""
    for key in arrays:
        require(
            _KEY.fullmatch(key) is not None,
            f"{where}: {shown(key)} is no key of PEFT: expected up to 1,000 letters, digits and marks of ASCII",
        )
    for begin, meaning in _WRAPPED:
        wrapped = [key for key in arrays if key.startswith(begin)]
        require(not wrapped, f"{where}: {listed(wrapped)}: PEFT would take none of these, for {meaning}")
    foreign = [key for key in arrays if not key.startswith(ROOT)]
    require(not foreign, f"{where}: {listed(foreign)} is no key of PEFT: expected it to begin with {ROOT}")


def _matrices(
    where: str, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, dict[str, tuple[str, np.ndarray]]], bool]:
    """Full module name -> "A", "B" -> key and matrix; and whether any key names the adapter."""
    found: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    named = False
    for key, array in arrays.items():
        match = _LINEAR.fullmatch(key) or _EMBEDDING.fullmatch(key)
        if match is not None:
            layer, matrix = match["module"].removeprefix(ROOT), match["matrix"]
            twice = found.setdefault(layer, {}).get(matrix)
            if twice is not None:
                raise SoRAError(f"{where}: {listed([twice[0], key])} are one matrix: expected it once")
            found[layer][matrix] = key, array
            named = named or match["named"] is not None
            continue
        require(
            _OTHERS.fullmatch(key) is None,
            f"{where}: {listed([key])} names an adapter behind lora_A or lora_B, which PEFT leaves out when it saves "
            "and so does not find: expected keys without it",
        )
    return found, named


def _lora(where: str, selection: Selection, layer: str, pair: Mapping[str, tuple[str, np.ndarray]]) -> LoRA:
    for matrix in ("A", "B"):
        require(matrix in pair, f"{where} has no {lora_key(layer, matrix)}: expected both matrices of {layer}")
    require(
        selection.is_target(layer, linear=pair["A"][0].endswith(".weight")),
        f"{where} has a LoRA of {layer}, which {CONFIG_FILE} does not select (target_modules, exclude_modules, "
        "layers_to_transform, modules_to_save): PEFT would drop it",
    )
    (key_A, A), (key_B, B) = pair["A"], pair["B"]
    r = selection.rank(layer)
    fits = A.ndim == 2 and B.ndim == 2 and A.shape[0] == r and B.shape[1] == r
    require(fits, f"{where}: {layer} has A {A.shape} and B {B.shape}: expected ({r}, in) and (out, {r})")
    require(A.dtype == B.dtype, f"{where}: {layer} has A {A.dtype} and B {B.dtype}: expected one dtype")
    for key, array in ((key_A, A), (key_B, B)):
        require(bool(np.isfinite(array).all()), f"{where}: {key} is not finite: expected finite numbers")
    return LoRA(A, B, selection.scale(layer))


def _by_layer(name: str) -> str:
    """A key that sorts layer 2 before layer 10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(6), name)


def _require_saved(where: str, task: str | None, saved: Mapping[str, np.ndarray], loras: Mapping[str, LoRA]) -> None:
    """SoRAError for tensors beside the LoRAs that PEFT would drop, or that no plain LoRA has, or lacks.

    PEFT restores every parameter of the base model that the file names, listed in modules_to_save or not; but for the
    own weight of a layer with a LoRA, which is `base_layer.weight` then.
    """
    for name, array in saved.items():
        layer, _, parameter = name.rpartition(".")
        require(".lora_" not in name, f"{where}: {name} is no tensor of a plain LoRA: expected lora_A and lora_B")
        require(
            layer not in loras,
            f"{where} has {name}, whose layer has a LoRA: PEFT would drop it, expected {layer}.base_layer.{parameter}",
        )
        require(bool(np.isfinite(array).all()), f"{where}: {name} is not finite: expected finite numbers")
    if task == "SEQ_CLS":
        heads = [name for name in saved if re.match(r"(.*\.)?(classifier|score)\.", name)]
        require(
            bool(heads),
            f"{where} has no tensors of a classifier or score: PEFT loads no SEQ_CLS adapter without its head",
        )


def _prefix(layers: Sequence[str]) -> str:
    """The prefix of a known architecture that one of the layers has; else none."""
    found = (each.prefix for each in ARCHITECTURES.values() if any(layer.startswith(each.prefix) for layer in layers))
    return next(found, "")


def _head_inside(where: str, known: Sequence[Architecture], saved: Mapping[str, np.ndarray]) -> HeadName | None:
    """The head that a classifier of one of the architectures has among the tensors in full; None where none fits."""
    for architecture in known:
        for name, head in architecture.heads.items():
            if head.in_transformers and any(outer in saved for outer in head.outer):
                _require_head(where, head, saved)
                return name
    return None


def _read_head(path: Path, known: Sequence[Architecture]) -> tuple[HeadName, Tensors]:
    """`head.safetensors` of an export: a head of one of the architectures, or of any where none is known.

    The dense layer that is the model's own may be in it or not.
    """
    file, where = read_tensors(path), printable(str(path))
    pooling = file.metadata.get("pooling")
    heads = [(name, head) for each in (known or ARCHITECTURES.values()) for name, head in each.heads.items()]
    names = dict.fromkeys(name for name, _ in heads)
    require(pooling in names, f"{where}: pooling is {shown(pooling)}: expected {' or '.join(map(repr, names))}")
    offered = [(name, head) for name, head in heads if name == pooling]
    name, head = next(((n, h) for n, h in offered if set(h.outer) <= file.arrays.keys()), offered[0])
    _require_head(where, head, file.arrays)
    foreign = [key for key in file.arrays if key not in head.names]
    require(not foreign, f"{where} has {listed(foreign)}: expected {' and '.join(head.names)} alone")
    for key, array in file.arrays.items():
        require(bool(np.isfinite(array).all()), f"{where}: {key} is not finite: expected finite numbers")
    return name, file


def _require_head(where: str, head: Head, arrays: Mapping[str, np.ndarray]) -> None:
    for name in head.outer:
        require(name in arrays, f"{where} has no {name}: expected a classifier's weight and bias")
    for module in dict.fromkeys(name.rpartition(".")[0] for name in head.outer):
        weight, bias = (arrays[f"{module}.{part}"] for part in ("weight", "bias"))
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
        require(fits, f"{where}: {module} has weight {weight.shape} and bias {bias.shape}: expected (n, d) and (n,)")
