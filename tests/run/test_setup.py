"""A configuration made concrete: model, adapters, initial values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import CONFIG, RANK, make_config, make_keys, write_model

from sora_ref import backends, initial_adapter
from sora_ref.errors import SoRAError
from sora_ref.models.bert import BERT
from sora_ref.run.base_model import base_digest, model_folder
from sora_ref.run.config import load_config, with_absolute_paths
from sora_ref.run.data import Labels
from sora_ref.run.device import get_backend
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import make_setup
from sora_ref.run.tasks import read_task
from sora_ref.storage.files import file_digest

Keys = dict[str, Any]
LABELS = Labels("classification", ("bad", "good"), ("accuracy",))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("setup"))


@pytest.mark.exact("SORA-INIT-2", "SORA-LINEAR-2")
def test_initial_parameters_are_adapters_and_head_of_the_seed(keys: Keys) -> None:
    setup = make_setup(make_config(keys, seed=3), LABELS)
    params = initial_params(setup)
    assert set(params) == {f"{m}.sora_{x}" for m in BERT.modules(CONFIG) for x in "AgB"} | {
        "classifier.weight",
        "classifier.bias",
    }
    for module in BERT.modules(CONFIG):
        out, in_ = BERT.shapes(CONFIG)[f"{module}.weight"]
        fresh = initial_adapter(3, module, out, in_, RANK, 6.0)
        for letter, array in zip("AgB", fresh[:3], strict=True):
            assert params[f"{module}.sora_{letter}"].tobytes() == array.tobytes()
        assert not params[f"{module}.sora_B"].any()
        assert setup.scales[module] == fresh.s == 2.0
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}


@pytest.mark.exact("SORA-INIT-1")
def test_initial_parameters_do_not_depend_on_what_else_is_adapted(keys: Keys) -> None:
    whole = initial_params(make_setup(make_config(keys), LABELS))
    part = initial_params(make_setup(make_config(keys, adapter__kinds=["output"], train__also=["norms"]), LABELS))
    for name in whole.keys() & part.keys():
        assert whole[name].tobytes() == part[name].tobytes()
    assert "encoder.layer.0.output.dense.sora_A" in part


@pytest.mark.exact("SORA-INIT-2")
def test_constant_gates_are_constant(keys: Keys) -> None:
    params = initial_params(make_setup(make_config(keys, adapter__gate=0.3), LABELS))
    assert {g for name, x in params.items() if name.endswith("sora_g") for g in x.tolist()} == {float(np.float32(0.3))}


def test_rank_beyond_the_widest_layer_is_refused_before_anything_is_made(keys: Keys) -> None:
    widest = CONFIG.hidden_size  # the smaller side of every layer
    make_setup(make_config(keys, adapter__r=widest), LABELS)
    for r in (widest + 1, 2**62):
        with pytest.raises(SoRAError, match=rf"^adapter\.r is {r}: expected at most {widest},"):
            make_setup(make_config(keys, adapter__r=r), LABELS)
    make_setup(make_config(keys, adapter__r=2**62, method="head"), LABELS)  # the head alone has no rank


def test_trained_norms_begin_at_the_checkpoints_values_and_win_over_the_frozen(keys: Keys) -> None:
    setup = make_setup(make_config(keys, train__also=["norms"]), LABELS)
    params = initial_params(setup)
    name = "embeddings.LayerNorm.weight"
    assert params[name].tobytes() == setup.frozen[name].tobytes()
    assert setup.all_params({name: params[name] + 1})[name].tobytes() == (setup.frozen[name] + 1).tobytes()
    assert name in setup.head(params)
    assert not any(".sora_" in key for key in setup.head(params))


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [(LABELS, 2), (Labels("classification", ("a", "b", "c"), ()), 3), (Labels("regression", (), ()), 1)],
)
def test_outputs_are_the_classes_or_one_number(keys: Keys, labels: Labels, outputs: int) -> None:
    setup = make_setup(make_config(keys), labels)
    assert setup.model.outputs == labels.outputs == outputs
    assert initial_params(setup)["classifier.weight"].shape == (outputs, CONFIG.hidden_size)


def test_plain_lora_has_frozen_gates_at_one(keys: Keys) -> None:
    setup = make_setup(make_config(keys, method="lora"), LABELS)
    params = initial_params(setup)
    assert not any(name.endswith(".sora_g") for name in params)
    for adapter in setup.adapters(params).values():
        assert adapter.g.tolist() == [1.0] * RANK


def test_unknown_backend_is_answered_with_the_list() -> None:
    with pytest.raises(SoRAError, match="unknown backend 'jax': expected one of numpy, cupy, strict"):
        get_backend("jax")


def test_a_transformer_over_the_rationals_is_refused() -> None:
    with pytest.raises(SoRAError, match=r"'exact' has rationals only .*: expected numpy or cupy"):
        get_backend("exact")


def test_backend_whose_library_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", None)
    monkeypatch.delitem(sys.modules, "sora_ref.backends.cupy_backend", raising=False)
    backends.get.cache_clear()
    with pytest.raises(SoRAError, match="backend 'cupy': its library is not installed"):
        get_backend("cupy")


def test_model_is_a_folder_or_the_name_of_a_fetched_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert model_folder("tiny") == model_folder(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folder("~/tiny") == folder
    sentence = (
        "model ./gone: no such folder: expected a Hugging Face folder of BERT.*, a name on its hub, or one of min"
    )
    with pytest.raises(SoRAError, match=sentence):
        model_folder("./gone")
    monkeypatch.setattr("sora_ref.run.base_model.download", lambda name, say: tmp_path / f"fetched-{name}")
    assert model_folder("bert-tiny") == tmp_path / "fetched-bert-tiny"
    with pytest.raises(SoRAError, match="no such folder"):
        model_folder("hutto2014")  # data, no model


def test_base_is_known_by_the_digest_of_its_weights(keys: Keys) -> None:
    setup = make_setup(make_config(keys), LABELS)
    assert base_digest(setup.folder) == file_digest(Path(keys["model.path"]) / "model.safetensors")


def test_texts_longer_than_the_models_positions_are_refused(keys: Keys) -> None:
    most = CONFIG.max_position_embeddings
    setup = make_setup(make_config(keys, model__max_length=most), LABELS)
    assert (setup.tokenizer.truncation or {})["max_length"] == most
    with pytest.raises(SoRAError, match=f"model.max_length is {most + 1}: expected at most the {most} positions of"):
        make_setup(make_config(keys, model__max_length=most + 1), LABELS)


def test_task_of_a_configuration_is_read_with_its_columns(keys: Keys) -> None:
    task = read_task(make_config(keys))
    assert (task.labels, task.metrics, list(task.splits)) == (
        ("bad", "good"),
        ("accuracy", "f1"),
        ["train", "validation", "test"],
    )
    assert task.splits["train"][0].id == "train-0"
    assert read_task(make_config(keys, task__labels=["good", "bad"])).labels == ("good", "bad")


def test_name_of_a_fetched_model_means_that_model_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths(load_config(None, {"model.path": "minilm"})).model.path == "minilm"
    assert with_absolute_paths(load_config(None, {"model.path": "./minilm"})).model.path == str(tmp_path / "minilm")
