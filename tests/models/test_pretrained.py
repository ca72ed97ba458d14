"""The loader, on folders made here: names, dtypes, and every way a folder can be wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from tiny_bert import CONFIG

from sora_ref import SoRAError
from sora_ref.models import load_model, read_config
from sora_ref.models.bert import BERT

Tensors = dict[str, npt.NDArray[Any]]
WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.1.attention.self.query.weight"


def tensors(dtype: str = "float32") -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in BERT.shapes(CONFIG).items()}


def write(folder: Path, weights: Tensors | None = None, **config: Any) -> Path:
    raw = {"model_type": "bert", "hidden_act": "gelu", **asdict(CONFIG), **config}
    raw = {key: value for key, value in raw.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(tensors() if weights is None else weights, folder / "model.safetensors")
    return folder


def write_bf16(folder: Path, wide: Tensors) -> None:
    """The upper half of each float32, in the safetensors layout: header length, header, data."""
    header, data = {}, b""
    for name, array in wide.items():
        half = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(half)],
        }
        data += half
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def same(found: Mapping[str, Any], expected: Tensors) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_folder_loads_as_it_was_written(tmp_path: Path) -> None:
    told: list[str] = []
    _, config, params = load_model(write(tmp_path), say=told.append)
    assert (BERT, config) == (BERT, CONFIG) == read_config(tmp_path)
    assert same(params, tensors())
    assert told == [], "nothing was cast, nothing is said"


def test_the_epsilon_of_the_configuration_is_read_and_otherwise_berts(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, layer_norm_eps=1e-5))[1].layer_norm_eps == 1e-5
    assert read_config(write(tmp_path, layer_norm_eps=None))[1].layer_norm_eps == 1e-12  # write leaves the key out


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
        lambda name: f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
    ],
    ids=["prefix", "gamma-beta", "both"],
)
def test_prefixes_and_tensorflow_names_are_taken_off(tmp_path: Path, rename: Callable[[str], str]) -> None:
    given = {rename(name): array for name, array in tensors().items()}
    assert same(load_model(write(tmp_path, given)).params, tensors())


def test_tensors_of_other_heads_are_left_out_and_the_pooler_is_kept(tmp_path: Path) -> None:
    pooler = {"pooler.dense.weight": np.ones((8, 8), "float32"), "pooler.dense.bias": np.ones(8, "float32")}
    other = {"cls.predictions.bias": np.ones(13, "float32"), "bert.embeddings.position_ids": np.arange(9)}
    prefixed = {f"bert.{name}": array for name, array in {**tensors(), **pooler}.items()}
    assert same(load_model(write(tmp_path, {**prefixed, **other})).params, {**tensors(), **pooler})


@pytest.mark.parametrize("stored", ["float16", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_cast_and_the_cast_is_reported(tmp_path: Path, stored: str, dtype: str) -> None:
    told: list[str] = []
    params = load_model(write(tmp_path, tensors(stored)), dtype=dtype, say=told.append).params
    assert same(params, {name: array.astype(dtype) for name, array in tensors(stored).items()})
    assert {str(p.dtype) for p in params.values()} == {dtype}
    path = tmp_path / "model.safetensors"
    assert told == ([] if stored == dtype else [f"{path}: weights cast from {stored} to {dtype}"])


def test_bfloat16_weights_are_cast_and_the_cast_is_reported(tmp_path: Path) -> None:
    told: list[str] = []
    write(tmp_path)
    write_bf16(tmp_path, tensors())
    params = load_model(tmp_path, say=told.append).params
    exact = {name: (array.view(np.uint32) >> 16 << 16).view(np.float32) for name, array in tensors().items()}
    assert same(params, exact)
    assert told == [f"{tmp_path / 'model.safetensors'}: weights cast from bfloat16 to float32"]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "gpt2"}, "config.json: model_type is 'gpt2': expected 'bert' or"),
        ({"model_type": None}, "config.json: model_type is None: expected 'bert' or"),
        ({"model_type": ["bert"]}, r"config.json: model_type is \['bert'\]: expected 'bert' or"),
        ({"add_cross_attention": True}, "config.json: add_cross_attention is true: expected an encoder"),
        ({"pruned_heads": {"0": [1]}}, r"config.json: pruned_heads is {'0': \[1\]}: expected an encoder"),
        ({"hidden_act": "gelu_new"}, "config.json: hidden_act is 'gelu_new': expected 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key': expected 'absolute'"),
        ({"is_decoder": True}, "config.json: is_decoder is true: expected an encoder"),
        ({"pad_token_id": 10**6}, "config.json: pad_token_id is 1000000: expected an int below the vocab_size of "),
        ({"pad_token_id": "pad"}, "config.json: pad_token_id is 'pad': expected an int below the vocab_size of "),
        ({"hidden_size": None}, "config.json: hidden_size is None: expected a positive int"),
        ({"vocab_size": 0}, "config.json: vocab_size is 0: expected a positive int"),
        ({"num_hidden_layers": "2"}, "config.json: num_hidden_layers is '2': expected a positive int"),
        ({"num_attention_heads": 3}, "hidden_size 8: expected a multiple of num_attention_heads 3"),
        ({"vocab_size": 14}, rf"{WORDS} has shape \(13, 8\): expected \(14, 8\), as config.json says"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3: expected at most the 2 of model.safe"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000: expected at most the 2 of model.safetensors"),
        ({"vocab_size": 10**18}, rf"{WORDS} has shape \(13, 8\): expected \(1000000000000000000, 8\)"),
        ({"intermediate_size": 10**18}, "config.json says"),
        ({"hidden_size": 10**9, "num_attention_heads": 10**9}, "config.json says"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_a_sentence(
    tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SoRAError, match=sentence):
        load_model(write(tmp_path, **config))


def lose(weights: Tensors) -> None:
    del weights[QUERY]


def reshape(weights: Tensors) -> None:
    weights[QUERY] = weights[QUERY][:, :4].copy()


def poison(weights: Tensors) -> None:
    weights[QUERY][1, 1] = np.nan


def overflow(weights: Tensors) -> None:
    weights[QUERY][1, 1] = np.inf


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lose, rf"model.safetensors: no tensor {QUERY}: expected one of shape \(8, 8\)"),
        (reshape, rf"model.safetensors: {QUERY} has shape \(8, 4\): expected \(8, 8\)"),
        (poison, rf"model.safetensors: {QUERY} has values that are not finite: expected finite weights"),
        (overflow, rf"{QUERY} has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[Tensors], None], sentence: str
) -> None:
    weights = tensors()
    spoil(weights)
    with pytest.raises(SoRAError, match=sentence):
        load_model(write(tmp_path, weights))


@pytest.mark.parametrize("content", [b"", b"\x00", b"not safetensors at all", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (write(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(SoRAError, match=r"model.safetensors is damaged or truncated"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(SoRAError, match=r"model.safetensors is damaged or truncated"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "config.json: damaged, not JSON"),
        (b"", "config.json: damaged, not JSON"),
        (b"\xff\xfe{}", "config.json: damaged, not JSON"),
        (b"[1, 2]", "config.json: damaged .Expected `object`, got `array`.: expected the configuration"),
        (b"[" * 100_000, "config.json: "),
        (b'{"hidden_size": ' + b"[" * 100_000, "config.json: nested too deeply: expected the configuration"),
    ],
)
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (write(tmp_path) / "config.json").write_bytes(content)
    with pytest.raises(SoRAError, match=sentence):
        load_model(tmp_path)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=r"nowhere/config.json: no such file: expected the configuration"):
        load_model(tmp_path / "nowhere")
    (write(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(SoRAError, match=r"model.safetensors: no such file: expected tensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("eps", ["1e-12", None, -1.0, 2])
def test_an_epsilon_that_is_no_positive_number_is_refused(tmp_path: Path, eps: Any) -> None:
    write(tmp_path)
    raw = {**json.loads((tmp_path / "config.json").read_text()), "layer_norm_eps": eps}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(SoRAError, match="layer_norm_eps"):
        load_model(tmp_path)


def test_weights_of_another_architecture_are_refused_as_such(tmp_path: Path) -> None:
    theirs = {name.replace("encoder.layer", "transformer.layer"): value for name, value in tensors().items()}
    with pytest.raises(SoRAError, match=r"model.safetensors: no layers of a BERT in it: expected tensors of encoder"):
        load_model(write(tmp_path, theirs))


def test_half_a_pooler_is_refused_by_name(tmp_path: Path) -> None:
    half = {**tensors(), "pooler.dense.weight": np.ones((8, 8), "float32")}
    with pytest.raises(SoRAError, match=r"no tensor pooler.dense.bias: expected one of shape \(8,\)"):
        load_model(write(tmp_path, half))


def test_a_weight_that_overflows_the_dtype_asked_for_is_refused(tmp_path: Path) -> None:
    weights = tensors("float64")
    weights[QUERY][0, 0] = 1e300
    with pytest.raises(SoRAError, match=rf"{QUERY} .*not finite"):
        load_model(write(tmp_path, weights))


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=rf"{QUERY} is stored as I8"):
        load_model(write(tmp_path, {**tensors(), QUERY: np.ones((8, 8), "int8")}))


def test_a_size_of_true_is_no_size(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match="num_hidden_layers is True: expected a positive int"):
        read_config(write(tmp_path, num_hidden_layers=True))


def test_one_parameter_under_two_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=QUERY):
        load_model(write(tmp_path, {**tensors(), f"bert.{QUERY}": np.zeros((8, 8), "float32")}))
