"""Reads any Hugging Face BERT folder: config.json and model.safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.checks import require
from sora_ref.models.bert import BertConfig
from sora_ref.models.tensors import read_tensors
from sora_ref.storage.documents import read_json

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
_LONG = {"F16": "float16", "BF16": "bfloat16"}
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's names
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def read_config(folder: Path) -> BertConfig:
    """The sizes in folder/config.json; SoRAError for another architecture, activation or a size that is missing."""
    path = folder / "config.json"
    raw = read_json(path, dict[str, Any], "the configuration of a Hugging Face model")
    for key, expected in _EXPECTED.items():
        require(raw.get(key, expected) == expected, f"{path}: {key} is {raw.get(key)!r}: expected {expected!r}")
    require(not raw.get("is_decoder"), f"{path}: is_decoder is true: expected an encoder")
    for key in _SIZES:
        size = raw.get(key)
        require(type(size) is int and size > 0, f"{path}: {key} is {size!r}: expected a positive int")
    eps = raw.get("layer_norm_eps", 1e-12)
    sound = type(eps) in (int, float) and 0 < eps < 1
    require(sound, f"{path}: layer_norm_eps is {eps!r}: expected a number between 0 and 1")
    return BertConfig(**{key: raw[key] for key in _SIZES}, layer_norm_eps=eps)


def load_bert(
    folder: Path, *, dtype: str = "float32", say: Callable[[str], None] | None = None
) -> tuple[BertConfig, dict[str, np.ndarray]]:
    """The configuration and every parameter of the encoder by its BertModel name; with the pooler where it has one.

    A `bert.` prefix and the names gamma and beta are taken off; tensors of other heads are left out.  Parameters are
    cast to `dtype`, and `say` is told when that changes them.  Raises SoRAError, naming the file, for a folder, tensor
    or shape that is missing or wrong, a truncated file, and for values that are not finite.
    """
    config = read_config(folder)
    path = folder / "model.safetensors"
    d = config.hidden_size
    shapes = config.shapes()
    pooler = {POOLER[0]: (d, d), POOLER[1]: (d,)}
    stored = read_tensors(path, lambda key: _plain_name(key) in shapes.keys() | pooler.keys())
    found: dict[str, np.ndarray] = {}
    for key, array in stored.arrays.items():
        name = _plain_name(key)
        require(name not in found, f"{path}: {name} is there twice, once as {key}: expected each parameter once")
        found[name] = array
    if POOLER[0] in found:
        shapes |= pooler

    params = {}
    for name, shape in shapes.items():
        require(name in found, f"{path}: no tensor {name}: expected one of shape {shape}")
        array = found[name]
        require(array.shape == shape, f"{path}: {name} has shape {array.shape}: expected {shape}, as config.json says")
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            params[name] = np.ascontiguousarray(array, dtype=dtype)
        finite = np.isfinite(params[name]).all()
        require(bool(finite), f"{path}: {name} has values that are not finite: expected finite weights, in {dtype}")
    cast = {_LONG.get(kind, kind) for kind in stored.cast.values()} | {str(a.dtype) for a in found.values()}
    if stored.cast:
        cast.discard("float32")
    if say and cast - {dtype}:
        say(f"{path}: weights cast from {', '.join(sorted(cast - {dtype}))} to {dtype}")
    return config, params


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
