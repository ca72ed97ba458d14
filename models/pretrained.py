"""Reads a Hugging Face folder of an architecture in the table: config.json and model.safetensors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sora_ref.errors import printable, shown
from sora_ref.models.architecture import Architecture, ModelConfig
from sora_ref.models.architectures import ARCHITECTURES
from sora_ref.preconditions import require
from sora_ref.storage.documents import decode_json
from sora_ref.storage.pointers import require_no_pointer
from sora_ref.storage.regular import read_regular
from sora_ref.storage.tensors import TensorFile, open_tensors

_LONG = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PIECE = 2**18


class Pretrained(NamedTuple):
    """A model as its folder has it."""

    architecture: Architecture
    config: ModelConfig
    params: dict[str, np.ndarray]


def read_config(folder: Path) -> tuple[Architecture, ModelConfig]:
    """The architecture and sizes in folder/config.json.

    Raises SoRAError for an architecture that is not in the table, and for what its own reader refuses.
    """
    path = folder / "config.json"
    expected_here = "the configuration of a Hugging Face model"
    data = read_regular(path, expected_here)
    require_no_pointer(path, data)
    where = printable(str(path))
    raw = decode_json(data, dict[str, Any], where, expected_here)
    kind = raw.get("model_type")
    known = isinstance(kind, str) and kind in ARCHITECTURES
    expected = " or ".join(map(repr, ARCHITECTURES))
    require(known, f"{where}: model_type is {shown(kind)}: expected {expected}")
    architecture = ARCHITECTURES[str(kind)]
    return architecture, architecture.read_config(raw, where)


def load_model(folder: Path, *, dtype: str = "float32", say: Callable[[str], None] | None = None) -> Pretrained:
    """The model in a folder: every parameter of the bare model, and of a head's dense layer that is the model's own.

    Names and shapes are compared before any tensor is read, and tensors are read one by one: the parameters are all the
    memory that this takes.  The architecture's prefix is taken off, old names are renewed, tensors of other heads are
    left out.  Parameters are cast to `dtype`, and `say` is told when that changes them.  Raises SoRAError, naming the
    file, for a folder, tensor or shape that is missing or wrong, a truncated file, integers (a quantised model), and
    values that are not finite.
    """
    architecture, config = read_config(folder)
    path = folder / "model.safetensors"
    with open_tensors(path) as file:
        keys = _keys(file, architecture)
        _require_layers(architecture, config, keys, folder)
        shapes, own = architecture.shapes(config), architecture.own_dense(config)
        if any(name in keys for name in own):
            shapes |= own
        for name, shape in shapes.items():
            require(name in keys, f"{path}: no tensor {name}: expected one of shape {shape}")
            file.require_floats(keys[name])
            there = file.entries[keys[name]].shape
            require(there == shape, f"{path}: {name} has shape {shown(there)}: expected {shape}, as config.json says")
        params = {}
        for name in shapes:
            params[name] = file.read(keys[name], dtype)
            finite = _is_finite(params[name])
            require(finite, f"{path}: {name} has values that are not finite: expected finite weights, in {dtype}")
        cast = {_LONG[file.entries[keys[name]].dtype] for name in shapes} - {dtype}
    if say and cast:
        say(f"{path}: weights cast from {', '.join(sorted(cast))} to {dtype}")
    return Pretrained(architecture, config, params)


def _keys(file: TensorFile, architecture: Architecture) -> dict[str, str]:
    """The file's keys by the plain names of what they hold."""
    keys: dict[str, str] = {}
    for key in file.entries:
        name = _plain_name(key, architecture)
        require(name not in keys, f"{file.path}: {shown(name)} is there twice, once as {shown(key)}: expected it once")
        keys[name] = key
    return keys


def _require_layers(architecture: Architecture, config: ModelConfig, names: Collection[str], folder: Path) -> None:
    """SoRAError where the configuration names more layers than there are; a list of their tensors may be endless."""
    layers = [layer for name in names if (layer := architecture.layer_of(name)) is not None]
    expected = f"tensors of {architecture.layers}, as {architecture.model_class} has them"
    require(
        bool(layers), f"{folder / 'model.safetensors'}: no layers of a {architecture.title} in it: expected {expected}"
    )
    most = max(layers) + 1
    require(
        config.num_hidden_layers <= most,
        f"{folder / 'config.json'}: num_hidden_layers is {shown(config.num_hidden_layers)}: "
        f"expected at most the {most} of model.safetensors",
    )


def _is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite, looked at in pieces that take little memory."""
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[first : first + _PIECE]).all()) for first in range(0, flat.size, _PIECE))


def _plain_name(name: str, architecture: Architecture) -> str:
    name = name.removeprefix(architecture.prefix)
    for old, new in architecture.old_names.items():
        name = name.replace(old, new)
    return name
