"""Laws of reading: names and scales mean what they mean to PEFT, and what is not understood is refused by name."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import re2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sora_ref.errors import SoRAError
from sora_ref.peft import adapters_from, read_adapter
from sora_ref.peft.config import LoraOptions

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


def test_parameters_of_the_base_model_need_no_mention_because_peft_restores_them_all(tmp_path: Path) -> None:
    embeddings = {"base_model.model.bert.embeddings.word_embeddings.weight": np.ones((7, 4), "f4")}
    for task in ("SEQ_CLS", None):
        saved = read_adapter(write(tmp_path, tensors() | embeddings, modules_to_save=None, task_type=task)).saved
        assert set(saved) == {"classifier.weight", "classifier.bias", "embeddings.word_embeddings.weight"}


def test_adapter_without_a_head_has_none(tmp_path: Path) -> None:
    headless = {key: array for key, array in tensors().items() if "lora" in key}
    read = read_adapter(write(tmp_path, headless, modules_to_save=None, task_type=None))
    assert (set(read.loras), read.saved, read.head) == ({KEY, DENSE}, {}, None)
    with pytest.raises(SoRAError, match="no tensors of a classifier or score"):
        read_adapter(write(tmp_path, headless, modules_to_save=None))


def test_module_that_stands_around_others_is_saved_with_all_that_is_in_it(tmp_path: Path) -> None:
    shapes = {"weight": (4, 4), "bias": (4,)}
    pooler = {f"base_model.model.bert.pooler.dense.{part}": np.ones(shape, "f4") for part, shape in shapes.items()}
    read = read_adapter(write(tmp_path, tensors() | pooler, modules_to_save=["pooler", "classifier"]))
    assert {"pooler.dense.weight", "pooler.dense.bias"} <= set(read.saved)
    assert read.notes == ()


def test_every_linear_layer_but_the_head_is_one_of_all_linear(tmp_path: Path) -> None:
    assert scales(write(tmp_path, target_modules="all-linear")) == [3.0, 3.0]
    assert scales(write(tmp_path, target_modules="All-Linear")) == [3.0, 3.0]
    head = {f"base_model.model.classifier.lora_{matrix}.weight": np.ones((2, 2), "f4") for matrix in "AB"}
    with pytest.raises(SoRAError, match=r"LoRA of classifier, .*PEFT would drop it"):
        read_adapter(write(tmp_path, tensors() | head, target_modules="all-linear"))


def test_adapters_of_any_architecture_are_read(tmp_path: Path) -> None:
    llama = ["model.layers.0.self_attn.q_proj", "model.layers.10.mlp.down_proj"]
    arrays = {
        f"base_model.model.{module}.lora_{matrix}.weight": np.ones((2, 2), "f4") for module in llama for matrix in "AB"
    }
    options = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"], "modules_to_save": None}
    read = read_adapter(write(tmp_path, arrays, **options))
    assert (list(read.loras), read.prefix, read.head, read.notes) == (llama, "", None, ())


def test_embeddings_carry_adapters_too(tmp_path: Path) -> None:
    words = "base_model.model.bert.embeddings.word_embeddings"
    arrays = {f"{words}.lora_embedding_A": np.ones((2, 7), "f4"), f"{words}.lora_embedding_B": np.ones((4, 2), "f4")}
    read = read_adapter(write(tmp_path, tensors() | arrays, target_modules=["key", "output.dense", "word_embeddings"]))
    assert read.loras["embeddings.word_embeddings"].A.shape == (2, 7)


def test_keys_that_name_the_adapter_default_are_read_and_said(tmp_path: Path) -> None:
    arrays = {key.replace(".weight", ".default.weight") if "lora" in key else key: t for key, t in tensors().items()}
    read = read_adapter(write(tmp_path, arrays))
    assert set(read.loras) == {KEY, DENSE}
    assert "where it is called default" in read.notes[0]
    with pytest.raises(SoRAError, match="are one matrix: expected it once"):
        read_adapter(write(tmp_path, arrays | tensors()))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("base_model.model.", "base_model.model._orig_mod.", r"_orig_mod\. is torch\.compile's"),
        ("base_model.model.", "_orig_mod.base_model.model.", r"_orig_mod\. is torch\.compile's"),
        ("base_model.model.", "base_model.model.base_model.model.", r"stands twice"),
        ("base_model.model.", "", r"expected it to begin with base_model\.model\."),
    ],
)
def test_prefix_that_hides_every_tensor_from_peft_is_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    arrays = {key.replace(old, new): array for key, array in tensors().items()}
    with pytest.raises(SoRAError, match=sentence):
        read_adapter(write(tmp_path, arrays))


def test_what_selects_nothing_is_noted(tmp_path: Path) -> None:
    read = read_adapter(
        write(
            tmp_path,
            rank_pattern={"quiery": 4},
            alpha_pattern={"layer.7.*": 4, "key": 6},
            target_modules=["key", "output.dense", "q_proj"],
            modules_to_save=["classifier", "pooler"],
        )
    )
    assert [note.split(",")[0] for note in read.notes] == [
        "rank_pattern has quiery",
        "alpha_pattern has layer.7.*",
        "target_modules names q_proj",
        "modules_to_save names pooler",
    ]


def test_targets_that_are_not_given_are_those_of_the_architecture(tmp_path: Path) -> None:
    read = read_adapter(write(tmp_path, target_modules=None))
    assert "its default for the base model's architecture" in read.notes[0]


def test_layers_are_chosen_and_excluded_as_peft_does(tmp_path: Path) -> None:
    assert scales(write(tmp_path, layers_to_transform=[1, 11])) == [3.0, 3.0]
    assert scales(write(tmp_path, layers_to_transform=[1, 11], layers_pattern="layer")) == [3.0, 3.0]
    assert scales(write(tmp_path, exclude_modules=["query"])) == [3.0, 3.0]
    options: list[dict[str, Any]] = [
        {"layers_to_transform": 1},
        {"exclude_modules": ["output.dense"]},
        {"exclude_modules": r".*\.output\.dense"},
    ]
    for option in options:
        with pytest.raises(SoRAError, match=rf"LoRA of bert\.{DENSE}, which .*PEFT would drop it"):
            read_adapter(write(tmp_path, **option))
    with pytest.raises(SoRAError, match=rf"LoRA of bert\.{KEY}, which .*PEFT would drop it"):
        read_adapter(write(tmp_path, layers_to_transform=[1, 11], layers_pattern=["blocks"]))


def test_weights_in_a_pickle_are_not_opened_and_the_sentence_converts_them(tmp_path: Path) -> None:
    (write(tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(SoRAError, match=r"only adapter_model\.bin, a pickle.*glob\('adapter_model\*\.bin'\)"):
        read_adapter(tmp_path)


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
    with pytest.raises(SoRAError, match=f"LoRA of bert.{DENSE}, which .* does not select"):
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
        ({"some_option_of_tomorrow": "x"}, "some_option_of_tomorrow is set"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "TEXT_CLS"}, "task_type: .*TEXT_CLS"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "r: .*>= 1"),
        ({"r": True}, "r: .*got `bool`"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform.*: damaged"),
        ({"rank_pattern": {"key": 1.5}}, "rank_pattern: .*got `float`"),
        ({"rank_pattern": ["key"]}, "rank_pattern: .*got `array`"),
        ({"lora_alpha": math.nan}, "not JSON"),
        ({"lora_alpha": None}, "lora_alpha: .*got `null`"),
        ({"alpha_pattern": {"key": "2"}}, "alpha_pattern: .*got `str`"),
        ({"alpha_pattern": {"(": 2}}, "is no regular expression"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": r"(?=a)key"}, "cannot be matched in linear time"),
        ({"target_modules": r"(a)\1"}, "cannot be matched in linear time"),
        ({"alpha_pattern": {"(?i)key": 2}}, "is no regular expression: global flags"),
        ({"modules_to_save": "classifier"}, "modules_to_save: .*got `str`"),
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
        ({key: array for key, array in tensors().items() if "lora" not in key}, "no tensors lora_A and lora_B"),
        (without("classifier.bias"), "no classifier.bias"),
        (tensors(ranks=(2, 3)), rf"{DENSE} has A \(3, 4\) and B \(3, 3\): expected \(2, in\)"),
        (tensors() | {"lora_A": np.ones(1)}, "lora_A is no key of PEFT"),
        (tensors() | {f"base_model.model.bert.{KEY}.lora_magnitude_vector": np.ones(1)}, "no tensor of a plain"),
        (tensors() | {f"base_model.model.bert.{KEY}.weight": np.ones((3, 4), "f4")}, "PEFT would drop it"),
        (tensors() | {"base_model.model.x\x1b[2J": np.ones(1)}, r"x\\x1b\[2J' is no key of PEFT"),
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


def test_module_saved_in_full_carries_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=f"LoRA of bert.{KEY}, which .*does not select"):
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
    with pytest.raises(SoRAError, match=r"adapter_model\.safetensors: no such file: expected tensors"):
        read_adapter(tmp_path)
    for text in (b"{", b"\xff", b"", b"[]", b"[" * 100_000, b'{"r": ' + b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}"):
        (tmp_path / "adapter_config.json").write_bytes(text)
        with pytest.raises(SoRAError, match=r"adapter_config\.json: .*: expected PEFT's configuration of a LoRA$"):
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_modules": ".*key", "layers_to_transform": [1]}, "beside a target_modules that is one expression"),
        ({"layers_pattern": "layer"}, "layers_pattern stands without layers_to_transform"),
        ({"use_dora": True}, "use_dora is set (a DoRA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set (layers of the base model are repeated)"),
        # the first alternative matches without a number, so PEFT takes no layer at all
        ({"layers_pattern": "layer|foo", "layers_to_transform": [1, 11]}, "PEFT would drop it"),
    ],
)
def test_options_that_peft_refuses_or_that_no_plain_lora_has_are_named(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SoRAError, match=re.escape(sentence)):
        read_adapter(write(tmp_path, **options))


def test_a_flag_in_front_of_the_one_expression_is_read_as_peft_reads_it(tmp_path: Path) -> None:
    assert scales(write(tmp_path, target_modules=r"(?i).*(KEY|OUTPUT\.dense)")) == [3.0, 3.0]


def test_all_linear_leaves_out_embeddings_and_output_embeddings(tmp_path: Path) -> None:
    embedding = {
        "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A": np.ones((2, 9), "f4"),
        "base_model.model.bert.embeddings.word_embeddings.lora_embedding_B": np.ones((4, 2), "f4"),
    }
    output = {f"base_model.model.lm_head.lora_{m}.weight": np.ones((2, 2), "f4") for m in "AB"}
    assert len(read_adapter(write(tmp_path, target_modules="all-linear")).loras) == 2
    for more in (embedding, output):
        with pytest.raises(SoRAError, match=r"which adapter_config\.json does not select"):
            read_adapter(write(tmp_path, tensors() | more, target_modules="all-linear"))
    assert len(read_adapter(write(tmp_path, tensors() | embedding, target_modules=".*")).loras) == 3


def test_modules_to_save_that_are_names_are_no_expressions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One expression for each of a hundred thousand took 25 s."""
    real, made = re2.compile, list[str]()

    def compiled(expression: str, options: Any) -> Any:
        made.append(expression)
        return real(expression, options)

    monkeypatch.setattr(re2, "compile", compiled)
    assert read_adapter(write(tmp_path, modules_to_save=[f"m{k}" for k in range(900)])).notes
    assert len(made) < 10


def test_keys_with_the_name_of_another_adapter_are_named(tmp_path: Path) -> None:
    other = {key.replace(".weight", ".mine.weight") if ".lora_" in key else key: t for key, t in tensors().items()}
    with pytest.raises(SoRAError, match=r"lora_A\.mine\.weight names an adapter behind lora_A or lora_B"):
        read_adapter(write(tmp_path, other))


def test_a_head_beside_the_adapter_is_finite(tmp_path: Path) -> None:
    bare = {key: array for key, array in tensors("").items() if "lora" in key}
    write(tmp_path, bare, task_type="FEATURE_EXTRACTION", modules_to_save=None)
    head = {"classifier.weight": np.full((2, 4), np.inf), "classifier.bias": np.ones(2)}
    save_file(head, tmp_path / "head.safetensors", {"pooling": "mean"})
    with pytest.raises(SoRAError, match=r"head\.safetensors: classifier\.weight is not finite"):
        read_adapter(tmp_path)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["all-linear", "(a+)+$", "(", "key", r"\1", "(?i)x", "[[:alpha:]]", "\x1b[2J", "a\x00b", "|"]),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9) | st.just("key"), each, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*LoraOptions.__struct_fields__, "use_dora", "peft_version", "\x00"]), JSON_VALUES)
def test_any_value_of_any_option_is_read_or_is_one_sentence(tmp_path: Path, option: str, value: Any) -> None:
    with suppress(SoRAError):
        read_adapter(write(tmp_path, **{option: value}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(LoraOptions.__struct_fields__), JSON_VALUES, min_size=2))
def test_any_values_of_several_options_are_read_or_are_one_sentence(tmp_path: Path, options: dict[str, Any]) -> None:
    said = ""
    try:
        read_adapter(write(tmp_path, **options))
    except SoRAError as error:
        said = str(error)
    assert said == "" or said.isprintable()
    assert len(said) < 1_000
