"""Reads any Hugging Face BERT folder: config.json and model.safetensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.errors import printable, shown
from sora_ref.models.bert import BertConfig
from sora_ref.preconditions import require
from sora_ref.storage.documents import decode_json
from sora_ref.storage.pointers import require_no_pointer
from sora_ref.storage.regular import read_regular
from sora_ref.storage.tensors import TensorFile, open_tensors

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_LONG = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LAYER = re.compile(r"encoder\.layer\.([0-9]{1,9})\.")
_PIECE = 2**18
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's names
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def read_config(folder: Path) -> BertConfig:
    """The sizes in folder/config.json; SoRAError for another architecture, activation or a size that is missing."""
    path = folder / "config.json"
    expected_here = "the configuration of a Hugging Face model"
    data = read_regular(path, expected_here)
    require_no_pointer(path, data)
    raw = decode_json(data, dict[str, Any], printable(str(path)), expected_here)
    for key, expected in _EXPECTED.items():
        require(raw.get(key, expected) == expected, f"{path}: {key} is {shown(raw.get(key))}: expected {expected!r}")
    require(not raw.get("is_decoder"), f"{path}: is_decoder is true: expected an encoder")
    for key in _SIZES:
        size = raw.get(key)
        require(type(size) is int and size > 0, f"{path}: {key} is {shown(size)}: expected a positive int")
    eps = raw.get("layer_norm_eps", 1e-12)
    sound = type(eps) in (int, float) and 0 < eps < 1
    require(sound, f"{path}: layer_norm_eps is {shown(eps)}: expected a number between 0 and 1")
    return BertConfig(**{key: raw[key] for key in _SIZES}, layer_norm_eps=eps)


def load_bert(
    folder: Path, *, dtype: str = "float32", say: Callable[[str], None] | None = None
) -> tuple[BertConfig, dict[str, np.ndarray]]:
    """The configuration and every parameter of the encoder by its BertModel name; with the pooler where it has one.

    Names and shapes are compared before any tensor is read, and tensors are read one by one: the parameters are all the
    memory that this takes.  A `bert.` prefix and the names gamma and beta are taken off; tensors of other heads are
    left out.  Parameters are cast to `dtype`, and `say` is told when that changes them.  Raises SoRAError, naming the
    file, for a folder, tensor or shape that is missing or wrong, a truncated file, integers (a quantised model), and
    values that are not finite.
    """
    config = read_config(folder)
    path = folder / "model.safetensors"
    with open_tensors(path) as file:
        keys = _keys(file)
        _require_layers(config, keys, folder)
        shapes, d = config.shapes(), config.hidden_size
        if POOLER[0] in keys:
            shapes |= {POOLER[0]: (d, d), POOLER[1]: (d,)}
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
    return config, params


def _keys(file: TensorFile) -> dict[str, str]:
    """The file's keys by the plain names of what they hold."""
    keys: dict[str, str] = {}
    for key in file.entries:
        name = _plain_name(key)
        require(name not in keys, f"{file.path}: {shown(name)} is there twice, once as {shown(key)}: expected it once")
        keys[name] = key
    return keys


def _require_layers(config: BertConfig, names: Collection[str], folder: Path) -> None:
    """SoRAError where the configuration names more layers than there are; a list of their tensors may be endless."""
    layers = [int(found[1]) for name in names if (found := _LAYER.match(name))]
    most = max(layers, default=-1) + 1
    require(
        config.num_hidden_layers <= most,
        f"{folder / 'config.json'}: num_hidden_layers is {shown(config.num_hidden_layers)}: "
        f"expected at most the {most} of model.safetensors",
    )


def _is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite, looked at in pieces that take little memory."""
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[first : first + _PIECE]).all()) for first in range(0, flat.size, _PIECE))


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
