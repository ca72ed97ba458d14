"""Adapters that PEFT itself makes, as it loads them again, beside what `read_adapter` says is in the folder.

Each is made on a tiny random model, every number in it drawn anew, stored, and loaded by PEFT onto a fresh base: which
modules carry a LoRA, which matrices, which scales, which parameters are replaced.  All of it is compared exactly.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora_ref.errors import SoRAError
from sora_ref.peft import read_adapter
from sora_ref.run.inspect import inspect_path

WANTED = "is not installed: pip install 'sora_ref[oracles]'"
torch = pytest.importorskip("torch", reason=f"torch {WANTED}")
transformers = pytest.importorskip("transformers", reason=f"transformers {WANTED}")
peft = pytest.importorskip("peft", reason=f"peft {WANTED}")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}


def bert(kind: str = "ForSequenceClassification") -> Any:
    return getattr(transformers, f"Bert{kind}")(transformers.BertConfig(**SIZES))


def roberta() -> Any:
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SIZES))


def distilbert() -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=20, dim=8, hidden_dim=12, n_layers=2, n_heads=2, max_position_embeddings=16
    )
    return transformers.DistilBertForSequenceClassification(config)


def llama(kind: str = "ForCausalLM") -> Any:
    return getattr(transformers, f"Llama{kind}")(transformers.LlamaConfig(**SIZES, num_key_value_heads=2))


def t5() -> Any:
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2)
    return transformers.T5ForConditionalGeneration(config)


def resized() -> Any:
    model = bert()
    model.resize_token_embeddings(24, mean_resizing=False)
    return model


CLS: dict[str, Any] = {"task_type": "SEQ_CLS"}
READ: dict[str, tuple[Any, dict[str, Any]]] = {
    "no head (P1)": (lambda: bert("Model"), {}),
    "containers (P2)": (bert, CLS | {"modules_to_save": ["pooler", "classifier"]}),
    "all-linear (P3)": (bert, CLS | {"target_modules": "all-linear"}),
    "all-linear of a bare model": (lambda: bert("Model"), {"target_modules": "all-linear"}),
    "all-linear of a language model": (lambda: llama(), {"task_type": "CAUSAL_LM", "target_modules": "All-Linear"}),
    "a task without a head": (lambda: bert("Model"), {"task_type": "FEATURE_EXTRACTION"}),
    "tokens": (lambda: bert("ForTokenClassification"), {"task_type": "TOKEN_CLS"}),
    "answers": (lambda: bert("ForQuestionAnswering"), {"task_type": "QUESTION_ANS"}),
    "masked words": (lambda: bert("ForMaskedLM"), {"target_modules": ["query", "transform.dense"]}),
    "rank-stabilised": (bert, CLS | {"use_rslora": True, "rank_pattern": {"value": 3}}),
    "patterns that are expressions": (
        bert,
        {"rank_pattern": {r"layer\.[01].*query": 3, "value": 1}, "alpha_pattern": {r".*\.(query|value)": 5}},
    ),
    "patterns that are full names": (
        bert,
        {
            "rank_pattern": {"bert.encoder.layer.1.attention.self.query": 5},
            "alpha_pattern": {"^bert.encoder.layer.2.attention.self.value": 7},
        },
    ),
    "patterns that match nothing": (bert, {"rank_pattern": {"quiery": 5}, "alpha_pattern": {"uery": 7}}),
    "the first pattern holds": (  # in alphabetical order, for PEFT sorts them when it saves
        bert,
        {"rank_pattern": {"layer.1.attention.self.query": 3, "query": 4}, "alpha_pattern": {"quer.": 9, "query": 8}},
    ),
    "one expression": (bert, {"target_modules": r".*layer\.[02]\.(?:attention|output).*(query|output\.dense)"}),
    "one expression with a flag": (bert, {"target_modules": r"(?i).*QUERY"}),
    "excluded names": (bert, {"exclude_modules": ["layer.0.attention.self.query"]}),
    "an excluding expression": (bert, {"exclude_modules": r".*layer\.[01]\..*"}),
    "some layers": (bert, {"layers_to_transform": [0, 2]}),
    "one layer, by the list's name": (bert, {"layers_to_transform": 1, "layers_pattern": "layer"}),
    "one layer, by several names": (bert, {"layers_to_transform": [1], "layers_pattern": ["h", "layer"]}),
    "a name that no layer has": (bert, {"target_modules": ["query", "q_proj"]}),
    "saved by the end of a word": (bert, CLS | {"modules_to_save": ["er.dense", "LayerNorm"]}),
    "saved and targeted": (bert, CLS | {"target_modules": ["dense"], "modules_to_save": ["pooler"]}),
    "an embedding": (bert, {"target_modules": ["word_embeddings", "query"]}),
    "a language model's embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "a resized vocabulary": (resized, CLS),
    "mica": (bert, {"init_lora_weights": "mica"}),
    "orthogonal": (bert, {"init_lora_weights": "orthogonal"}),
    "gaussian": (bert, {"init_lora_weights": "gaussian"}),
    "fan_in_fan_out": (bert, {"fan_in_fan_out": True}),
    "a revision, in training": (bert, {"revision": "main", "inference_mode": False}),
    "RoBERTa's head": (roberta, CLS),
    "RoBERTa, all of it": (roberta, CLS | {"target_modules": "all-linear"}),
    "DistilBERT": (distilbert, CLS | {"target_modules": ["q_lin", "v_lin"], "modules_to_save": ["pre_classifier"]}),
    "Llama": (llama, {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}),
    "Llama with its output": (llama, {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "lm_head"]}),
    "Llama's score": (lambda: llama("ForSequenceClassification"), CLS | {"target_modules": ["q_proj"]}),
    "T5": (t5, {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v"]}),
}
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "DoRA": (bert, {"use_dora": True}, "use_dora is set"),
    "a bias of B": (bert, {"lora_bias": True}, "lora_bias is set"),
    "all biases": (bert, {"bias": "all"}, "bias is 'all'"),
    "biases of the layers": (bert, {"bias": "lora_only"}, "bias is 'lora_only'"),
    "rows of an embedding": (bert, {"trainable_token_indices": [1, 2]}, "trainable_token_indices is set"),
    "parameters": (llama, {"target_modules": [], "target_parameters": ["q_proj.weight"]}, "target_parameters is set"),
    "repeated layers": (
        llama,
        {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 3]]},
        "layer_replication is set",
    ),
    "PiSSA": (bert, {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "PiSSA, fast": (bert, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "OLoRA": (bert, {"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
}


def stored(model: Any, folder: Path, **options: Any) -> Path:
    """The adapter that PEFT makes of these options, every number of it drawn anew."""
    config = peft.LoraConfig(**({"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]} | options))
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    grown = model.config.to_dict().get("vocab_size") != SIZES["vocab_size"]
    made.save_pretrained(folder, save_embedding_layers=grown or "auto")
    return folder


def loaded(model: Any, folder: Path) -> tuple[dict[str, tuple[Any, Any, float]], dict[str, Any]]:
    """PEFT's own reading: by full name, A, B and scale of each LoRA; and every parameter of the model as it is used."""
    whole = peft.PeftModel.from_pretrained(model, folder)
    loras, parameters = {}, {}
    for name, module in whole.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            matrices = (module.lora_A, module.lora_B)
            if "default" in module.lora_embedding_A:
                pair = (module.lora_embedding_A["default"], module.lora_embedding_B["default"])
            else:
                pair = tuple(matrix["default"].weight for matrix in matrices)
            loras[name] = (*(matrix.detach().numpy() for matrix in pair), module.scaling["default"])
    for name, parameter in whole.base_model.model.named_parameters():
        if ".original_module." not in name and ".lora_" not in name:
            parameters[name.replace(".modules_to_save.default", "")] = parameter.detach().numpy()
    return loras, parameters


@pytest.mark.independent("SORA-LINEAR-2")
@pytest.mark.parametrize("kind", READ)
def test_what_peft_loads_is_what_is_read(kind: str, tmp_path: Path) -> None:
    make, options = READ[kind]
    torch.manual_seed(0)
    stored(make(), tmp_path, **options)
    loras, parameters = loaded(make(), tmp_path)
    read = read_adapter(tmp_path)
    assert read.loras.keys() == {name.removeprefix(read.prefix) for name in loras}
    for name, (A, B, s) in loras.items():
        found = read.loras[name.removeprefix(read.prefix)]
        np.testing.assert_array_equal(found.A, A)
        np.testing.assert_array_equal(found.B, B)
        assert found.s == s
    ours = {name.removeprefix(read.prefix): array for name, array in parameters.items()}
    for name, array in read.saved.items():
        np.testing.assert_array_equal(ours[name], array)
    facts, _ = inspect_path(tmp_path)
    assert facts["ranks"] == {name.removeprefix(read.prefix): A.shape[0] for name, (A, _, _) in loras.items()}


@pytest.mark.parametrize("kind", ["all-linear (P3)", "all-linear of a language model", "RoBERTa, all of it"])
def test_all_linear_left_in_the_configuration_is_read_as_peft_resolves_it(kind: str, tmp_path: Path) -> None:
    make, options = READ[kind]
    stored(make(), tmp_path, **options)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"target_modules": "all-linear"}))  # PEFT itself stores what it stands for
    loras, _ = loaded(make(), tmp_path)
    read = read_adapter(tmp_path)
    assert read.loras.keys() == {name.removeprefix(read.prefix) for name in loras}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, options, sentence = REFUSED[kind]
    torch.manual_seed(0)
    with pytest.raises(SoRAError, match=sentence):
        read_adapter(stored(make(), tmp_path, **options))


def test_pattern_keys_that_match_nothing_are_noted_where_peft_warns(tmp_path: Path) -> None:
    make, options = READ["patterns that match nothing"]
    stored(make(), tmp_path, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded(make(), tmp_path)
    said = [str(warning.message) for warning in caught if "did not match any targeted module" in str(warning.message)]
    notes = read_adapter(tmp_path).notes
    assert len(said) == len(notes) == 2
    for key in ("quiery", "uery"):
        assert any(f"['{key}']" in each for each in said)
        assert any(f"has {key}, which matches no layer" in note for note in notes)


def test_keys_that_name_the_adapter_are_read_where_peft_reads_them(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    stored(bert(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    first = read_adapter(tmp_path)
    named = {key.replace(".weight", ".default.weight"): array for key, array in load_file(file).items()}
    save_file(named, file, {"format": "pt"})
    loras, _ = loaded(bert(), tmp_path)
    for module, lora in read_adapter(tmp_path).loras.items():
        np.testing.assert_array_equal(lora.A, first.loras[module].A)
        np.testing.assert_array_equal(lora.A, loras[f"bert.{module}"][0])


@pytest.mark.parametrize("wrapping", ["_orig_mod.", "base_model.model.", "_orig_mod.base_model.model."])
def test_prefixes_that_hide_tensors_from_peft_are_named(tmp_path: Path, wrapping: str) -> None:
    from safetensors.numpy import load_file, save_file

    stored(bert(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    root = "base_model.model."
    moved = f"{wrapping}" if wrapping.endswith(f".{root}") else f"{root}{wrapping}"
    save_file({key.replace(root, moved, 1): array for key, array in load_file(file).items()}, file, {"format": "pt"})
    loras, _ = loaded(bert(), tmp_path)
    assert not any(np.any(B) for _, B, _ in loras.values())  # PEFT took none of them: B is as it begins, zero
    with pytest.raises(SoRAError, match="PEFT would take none of these"):
        read_adapter(tmp_path)
