"""Laws of reading: names and scales mean what they mean to PEFT, and what is not understood is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sora_ref.errors import SoRAError
from sora_ref.peft import adapters_from, read_adapter

KEY, DENSE = "encoder.layer.1.attention.self.key", "encoder.layer.11.output.dense"
CONFIG = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "r": 2,
    "lora_alpha": 6,
    "target_modules": ["key", "output.dense"],
    "modules_to_save": ["classifier", "score"],
    "bias": "none",
    "use_dora": False,
    "layers_to_transform": None,
    "loftq_config": {},
    "megatron_core": "megatron.core",
}


def tensors(prefix: str = "bert.", ranks: tuple[int, int] = (2, 2), dtype: str = "float32") -> dict[str, np.ndarray]:
    """What PEFT writes for a BERT classifier with LoRA on two modules, (3, 4) each."""
    out = {"classifier.weight": np.ones((2, 4)), "classifier.bias": np.zeros(2)}
    for module, r in zip((KEY, DENSE), ranks, strict=True):
        out |= {f"{prefix}{module}.lora_A.weight": np.arange(r * 4.0).reshape(r, 4)}
        out |= {f"{prefix}{module}.lora_B.weight": np.arange(3.0 * r).reshape(3, r)}
    return {f"base_model.model.{key}": array.astype(dtype) for key, array in out.items()}


def write(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors() if arrays is None else arrays, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def scales(folder: Path) -> list[float]:
    read = read_adapter(folder)
    return [read.loras[module].s for module in (KEY, DENSE)]


def test_module_and_tensor_names_are_ours_whatever_the_model(tmp_path: Path) -> None:
    read = read_adapter(write(tmp_path))
    assert (set(read.loras), set(read.saved)) == ({KEY, DENSE}, {"classifier.weight", "classifier.bias"})
    assert (read.prefix, read.head, read.cast) == ("bert.", "cls", {})
    bare = {key: array for key, array in tensors("").items() if "lora" in key}
    read = read_adapter(write(tmp_path, bare, task_type="FEATURE_EXTRACTION", modules_to_save=None))
    assert (set(read.loras), read.saved, read.prefix, read.head) == ({KEY, DENSE}, {}, "", None)


def test_classifier_needs_no_mention_because_peft_adds_it(tmp_path: Path) -> None:
    assert "classifier.weight" in read_adapter(write(tmp_path, modules_to_save=None)).saved
    with pytest.raises(SoRAError, match=r"has classifier\.bias, classifier\.weight, which modules_to_save"):
        read_adapter(write(tmp_path, modules_to_save=None, task_type=None))


def test_modules_come_layer_by_layer(tmp_path: Path) -> None:
    arrays = {key: array for key, array in tensors().items() if "lora" not in key}
    for layer in (10, 2, 0):
        one = {key.replace(KEY, f"encoder.layer.{layer}.attention.self.key"): t for key, t in tensors().items()}
        arrays |= {key: tensor for key, tensor in one.items() if f"layer.{layer}." in key}
    read = read_adapter(write(tmp_path, arrays, target_modules=["key"]))
    assert [module.split(".")[2] for module in read.loras] == ["0", "2", "10"]


@pytest.mark.exact("SORA-LINEAR-2")
def test_gates_of_an_imported_adapter_are_ones_and_its_scale_stays(tmp_path: Path) -> None:
    A, g, B, s = adapters_from(read_adapter(write(tmp_path)))[KEY]
    assert (g.tolist(), g.dtype, s) == ([1.0, 1.0], np.float32, 3.0)
    np.testing.assert_array_equal(A, np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(B, np.arange(6).reshape(3, 2))


def test_scale_is_alpha_over_each_rank_even_without_alpha_pattern(tmp_path: Path) -> None:
    assert scales(write(tmp_path, tensors(ranks=(2, 3)), rank_pattern={"output.dense": 3})) == [3.0, 2.0]
    assert scales(write(tmp_path, tensors(ranks=(2, 3)), rank_pattern={"output.dense": 3}, use_rslora=True)) == [
        6 / math.sqrt(2),
        6 / math.sqrt(3),
    ]


def test_first_pattern_that_matches_a_dotted_suffix_wins(tmp_path: Path) -> None:
    both = {"key": 4, "self.key": 100}
    assert scales(write(tmp_path, alpha_pattern=both)) == [2.0, 3.0]
    assert scales(write(tmp_path, alpha_pattern={"ey": 4, "^key": 4, "self": 4})) == [3.0, 3.0]
    assert scales(write(tmp_path, alpha_pattern={r"layer\.1\..*": 4})) == [2.0, 3.0]
    assert scales(write(tmp_path, alpha_pattern={"^bert.*": 4})) == [2.0, 2.0]


def test_targets_may_be_one_expression_that_matches_in_full(tmp_path: Path) -> None:
    assert scales(write(tmp_path, target_modules=r".*(key|output\.dense)")) == [3.0, 3.0]
    with pytest.raises(SoRAError, match=f"LoRA of bert.{DENSE}, which target_modules .* does not select"):
        read_adapter(write(tmp_path, target_modules=r".*(key|output)"))


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_half_precision_is_cast_to_float32_and_said(tmp_path: Path, stored: str) -> None:
    values = tensors(dtype="float16" if stored == "F16" else "float32")
    write(tmp_path, values)
    if stored == "BF16":  # the upper half of each float32; these whole numbers lose nothing by it
        header = {key: {"dtype": "BF16", "shape": array.shape} for key, array in values.items()}
        data, end = b"", 0
        for key, array in values.items():
            data += (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            header[key]["data_offsets"] = (end, end := len(data))
        head = json.dumps(header).encode()
        (tmp_path / "adapter_model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    read = read_adapter(tmp_path)
    assert set(read.cast.values()) == {stored}
    assert read.cast.keys() == values.keys()
    A = read.loras[KEY].A
    assert A.dtype == np.float32
    np.testing.assert_array_equal(A, np.arange(8).reshape(2, 4))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"layers_to_transform": [1]}, "layers_to_transform is set"),
        ({"some_option_of_tomorrow": "x"}, "some_option_of_tomorrow is set"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "TOKEN_CLS"}, "task_type is 'TOKEN_CLS'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "rank r is 0"),
        ({"r": True}, "rank r is True"),
        ({"rank_pattern": {"key": 1.5}}, "rank key is 1.5"),
        ({"rank_pattern": ["key"]}, "rank_pattern is "),
        ({"lora_alpha": math.nan}, "not JSON"),
        ({"lora_alpha": None}, "scale lora_alpha is None"),
        ({"alpha_pattern": {"key": "2"}}, "scale key is '2'"),
        ({"alpha_pattern": {"(": 2}}, "is no regular expression"),
        ({"target_modules": None}, "target_modules is None"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"modules_to_save": "classifier"}, "modules_to_save is 'classifier'"),
    ],
)
def test_option_that_is_not_understood_is_refused_by_name(
    tmp_path: Path, option: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SoRAError, match=rf"adapter_config\.json: .*{sentence.replace('(', '')}"):
        read_adapter(write(tmp_path, **option))


def without(key: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in tensors().items() if not name.endswith(key)}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (without(f"{KEY}.lora_B.weight"), f"no base_model.model.bert.{KEY}.lora_B.weight"),
        (without(f"{DENSE}.lora_A.weight"), f"no base_model.model.bert.{DENSE}.lora_A.weight"),
        ({key: array for key, array in tensors().items() if DENSE not in key}, "target_modules names output.dense"),
        ({key: array for key, array in tensors().items() if "lora" not in key}, "no tensors lora_A and lora_B"),
        (without("classifier.bias"), "no classifier.bias"),
        (tensors(ranks=(2, 3)), rf"{DENSE} has A \(3, 4\) and B \(3, 3\): expected \(2, in\)"),
        (tensors() | {"lora_A": np.ones(1)}, "lora_A is no key of PEFT"),
        (tensors() | {f"base_model.model.bert.{KEY}.lora_magnitude_vector": np.ones(1)}, "would drop it"),
        (
            tensors() | {"base_model.model.bert.pooler.dense.bias": np.ones(1)},
            "pooler.dense.bias, which modules_to_save",
        ),
        (tensors() | {f"base_model.model.bert.{KEY}.lora_A.weight": np.full((2, 4), np.nan, "f4")}, "is not finite"),
        (tensors() | {f"base_model.model.bert.{KEY}.lora_A.weight": np.ones((2, 4))}, "expected one dtype"),
        (tensors() | {f"base_model.model.bert.{KEY}.lora_A.weight": np.ones((2, 4), int)}, "stored as I64"),
        (tensors() | {"base_model.model.classifier.bias": np.ones(5, "f4")}, r"bias \(5,\)"),
        (tensors("") | tensors(), "some modules begin with bert."),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str
) -> None:
    with pytest.raises(SoRAError, match=rf"adapter_(model\.safetensors|config\.json).*{sentence}"):
        read_adapter(write(tmp_path, arrays))


def test_modules_to_save_without_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=r"no tensors of pooler\.dense"):
        read_adapter(write(tmp_path, modules_to_save=["classifier", "pooler.dense"]))


def test_module_saved_in_full_carries_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=f"LoRA of bert.{KEY}, which target_modules"):
        read_adapter(write(tmp_path, modules_to_save=["attention.self.key"]))


def test_absent_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=r"adapter_config\.json: no such file: expected PEFT's configuration"):
        read_adapter(tmp_path)
    weights = write(tmp_path) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 4, 40, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(SoRAError, match=r"adapter_model\.safetensors is damaged or truncated"):
            read_adapter(tmp_path)
    weights.unlink()
    with pytest.raises(SoRAError, match=r"adapter_model\.safetensors cannot be read: No such file"):
        read_adapter(tmp_path)
    for text in (b"{", b"\xff", b"", b"[]", b"[" * 100_000, b'{"r": ' + b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}"):
        (tmp_path / "adapter_config.json").write_bytes(text)
        with pytest.raises(SoRAError, match=r"adapter_config\.json: .*: expected PEFT's configuration$"):
            read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "metadata", "sentence"),
    [
        ({"classifier.weight": np.ones((2, 4)), "classifier.bias": np.ones(2)}, {"pooling": "max"}, "pooling is 'max'"),
        ({"classifier.weight": np.ones((2, 4))}, {"pooling": "mean"}, "no classifier.bias"),
        (
            {"classifier.weight": np.ones((2, 4)), "classifier.bias": np.ones(2), "x": np.ones(1)},
            {"pooling": "mean"},
            "has x",
        ),
    ],
)
def test_head_file_that_is_not_ours_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str], sentence: str
) -> None:
    bare = {key: array for key, array in tensors("").items() if "lora" in key}
    write(tmp_path, bare, task_type="FEATURE_EXTRACTION", modules_to_save=None)
    save_file(arrays, tmp_path / "head.safetensors", metadata)
    with pytest.raises(SoRAError, match=rf"head\.safetensors.*{sentence}"):
        read_adapter(tmp_path)
