"""What leaves a run: every command accepts it, and it is the same model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_run import CONFIG, MODULES, RANK, copy_run, last, make_keys, run_once, tree, write_model

from sora_ref import kept_components, prune
from sora_ref.errors import SoRAError
from sora_ref.models import load_model
from sora_ref.models.bert import BERT
from sora_ref.peft import adapters_from, read_adapter
from sora_ref.run.checkpoint import checkpoint_bytes, checkpoints, read_checkpoint
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.inspect import inspect_path
from sora_ref.run.predict import predict_records
from sora_ref.run.ship import merged_params, pruned_params, write_merged, write_peft, write_pruned
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.trained import Loaded, find_checkpoint, load_trained
from sora_ref.run.verify import model_agreement, module_agreement
from sora_ref.storage.files import write_bytes

Keys = dict[str, Any]
RUNS: dict[str, Keys] = {
    "mean": {},
    "cls": {"model__head": "cls"},
    "lora": {"method": "lora"},
    "norms": {"train__also": ["norms"]},
    "biases": {"train__also": ["norms", "biases"]},
    "regression": {"task__kind": "regression", "task__label": "rating", "model__head": "cls"},
    "head": {"method": "head"},
    "float64": {"dtype": "float64"},
    "nothing": {"gate__strength": 9.0},
}
SHARED: dict[str, Any] = {"train__epochs": 1, "gate__strength": 0.1}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("ship"))


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / str(request.param)
    run_once(run, keys, **{**SHARED, **RUNS[request.param]})
    return run


@pytest.fixture(scope="module")
def mean(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    run_once(run, keys, **SHARED)
    return run


def logits_of(loaded: Loaded) -> np.ndarray:
    test = read_task(loaded.setup.config).splits["test"]
    return predict_logits(loaded.setup, loaded.params, encode(test, loaded.setup.tokenizer, loaded.setup.model.config))


def within_rounding(loaded: Loaded, other: np.ndarray, plain: np.ndarray) -> bool:
    """As near to the unpruned model as 2⁶ times what rounding does to the model itself, measured against float64.

    See `tiny_bert` for the 2⁶; modules one by one are held to the derived bound in `test_verify`.
    """
    test = read_task(loaded.setup.config).splits["test"]
    measured = model_agreement(
        loaded.setup, loaded.params, encode(test, loaded.setup.tokenizer, loaded.setup.model.config)
    ).unpruned_64
    floor = 2**-52 if loaded.setup.config.dtype == "float64" else 2**-23
    return bool(np.max(np.abs(other - plain)) <= 2**6 * max(measured, floor * float(np.max(np.abs(plain)))))


@pytest.mark.measured("SORA-PRUNE-2")
def test_pruned_folder_is_the_same_model_in_fewer_numbers(run: Path, tmp_path: Path) -> None:
    loaded = load_trained(run)
    ranks = write_pruned(loaded, tmp_path / "pruned")
    pruned = load_trained(tmp_path / "pruned")
    assert ranks == {m: int(np.count_nonzero(a.g)) for m, a in loaded.setup.adapters(loaded.params).items()}
    for module, adapter in pruned.setup.adapters(pruned.params).items():
        assert adapter.rank == ranks[module]
        assert np.all(adapter.g != 0)
    assert within_rounding(loaded, logits_of(pruned), logits_of(loaded))
    facts, _ = inspect_path(tmp_path / "pruned")
    assert facts["ranks"] == ranks
    assert facts["counts"]["components"] == facts["counts"]["kept"] == sum(ranks.values())
    assert pruned.trained.moments is None
    if not ranks or min(ranks.values(), default=0) == RANK:
        assert logits_of(pruned).tobytes() == logits_of(loaded).tobytes()


@pytest.mark.measured("SORA-PRUNE-4")
def test_merged_folder_is_the_same_model_without_adapters(run: Path, tmp_path: Path) -> None:
    loaded = load_trained(run)
    write_merged(loaded, tmp_path / "merged")
    merged = load_trained(tmp_path / "merged")
    assert merged.setup.adapters(merged.params) == {}
    assert merged.setup.folder == tmp_path / "merged"
    assert within_rounding(loaded, logits_of(merged), logits_of(loaded))
    assert inspect_path(tmp_path / "merged")[0]["counts"]["components"] == 0


def test_merged_weights_are_a_hugging_face_model_with_every_trained_tensor_in_it(run: Path, tmp_path: Path) -> None:
    loaded = load_trained(run)
    write_merged(loaded, tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    cls = loaded.setup.model.head == "cls"
    prefix = "bert." if cls else ""
    head = {"classifier.weight", "classifier.bias"} | {f"bert.pooler.dense.{part}" for part in ("weight", "bias")}
    assert set(tensors) == {prefix + name for name in BERT.shapes(CONFIG)} | (head if cls else set())
    assert config["architectures"] == (["BertForSequenceClassification"] if cls else ["BertModel"])
    if cls and loaded.setup.labels.kind == "classification":
        assert config["id2label"] == {"0": "bad", "1": "good"}
        assert config["label2id"] == {"bad": 0, "good": 1}
        assert config["problem_type"] == "single_label_classification"
    elif cls:
        assert config["problem_type"] == "regression"
        assert len(config["id2label"]) == 1
    for name, value in loaded.params.items():
        if ".sora_" not in name and (cls or not name.startswith("classifier")):
            full = name if name.startswith("classifier") else prefix + name
            assert tensors[full].tobytes() == np.asarray(value).tobytes()
    load_model(tmp_path / "merged")


def test_merged_config_names_the_dtype_its_tensors_have(keys: Keys, tmp_path: Path) -> None:
    """transformers loads a folder in the dtype its config.json names; half precision would undo what was merged."""
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16", "dtype": "float16"}))
    run_once(tmp_path / "run", keys, **SHARED, model__path=str(folder))
    write_merged(load_trained(tmp_path / "run"), tmp_path / "merged")
    merged = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert {merged.get("dtype", "float32"), merged.get("torch_dtype", "float32")} == {"float32"}


def test_shipped_folders_can_be_moved(mean: Path, tmp_path: Path) -> None:
    loaded = load_trained(mean)
    write_merged(loaded, tmp_path / "merged")
    write_pruned(loaded, tmp_path / "pruned")
    expected = {name: logits_of(load_trained(tmp_path / name)).tobytes() for name in ("merged", "pruned")}
    (tmp_path / "elsewhere").mkdir()
    for name in ("merged", "pruned"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
        assert logits_of(load_trained(tmp_path / "elsewhere" / name)).tobytes() == expected[name]


def test_model_that_was_given_as_the_current_folder_is_found_from_elsewhere(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sora-ref train --model .` in the model's folder, then `sora-ref eval`: "." means the model, not the run."""
    monkeypatch.chdir(write_model(tmp_path / "model"))
    run_once(tmp_path / "run", keys, **SHARED, model__path=".")
    assert load_trained(tmp_path / "run").setup.folder == tmp_path / "model"


@pytest.mark.exact("SORA-LINEAR-2")
def test_scales_are_stored_and_never_computed_anew_from_a_pruned_rank(mean: Path, tmp_path: Path) -> None:
    """s = α/r_max = 2 in every module, whatever its rank has become, also after pruning what was pruned."""
    loaded = load_trained(mean)
    kept: dict[str, Any] = {}
    for n, (module, adapter) in enumerate(loaded.setup.adapters(loaded.params).items()):
        smaller = prune(adapter, kept_components(adapter.g)[: n % (RANK + 1)])
        kept |= {f"{module}.sora_{letter}": x for letter, x in zip("AgB", smaller[:3], strict=True)}
    trained = replace(loaded.trained, params={**loaded.trained.params, **kept}, moments=None)
    write_bytes(
        copy_run(mean, tmp_path / "run") / "checkpoints" / checkpoints(mean)[-1].name, checkpoint_bytes(trained)
    )
    ragged = load_trained(tmp_path / "run")
    write_pruned(ragged, tmp_path / "pruned")
    write_pruned(load_trained(tmp_path / "pruned"), tmp_path / "again")
    for folder in ("run", "pruned", "again"):
        again = load_trained(tmp_path / folder)
        ranks = {adapter.rank for adapter in again.setup.adapters(again.params).values()}
        assert len(ranks) > 1
        assert set(again.setup.scales.values()) == {2.0}
        assert {adapter.s for adapter in again.setup.adapters(again.params).values()} == {2.0}
    assert tree(tmp_path / "pruned").keys() == tree(tmp_path / "again").keys()
    assert (
        logits_of(load_trained(tmp_path / "again")).tobytes() == logits_of(load_trained(tmp_path / "pruned")).tobytes()
    )


def test_pruned_folder_merges_and_exports_as_the_run_does(mean: Path, tmp_path: Path) -> None:
    write_pruned(load_trained(mean), tmp_path / "pruned")
    for name, source in (("a", mean), ("b", tmp_path / "pruned")):
        write_merged(load_trained(source), tmp_path / f"merged-{name}")
        write_peft(load_trained(source), tmp_path / f"peft-{name}", "compact")
    a, b = (read_adapter(tmp_path / f"peft-{name}") for name in "ab")
    assert a.config == b.config
    for module, lora in a.loras.items():
        assert [x.tobytes() for x in lora[:2]] == [x.tobytes() for x in b.loras[module][:2]]
    loaded = load_trained(mean)
    assert within_rounding(loaded, logits_of(load_trained(tmp_path / "merged-b")), logits_of(loaded))


@pytest.mark.parametrize("layout", ["compact", "uniform", "folded"])
@pytest.mark.parametrize("head", ["mean", "cls"])
def test_exported_adapter_is_the_runs(keys: Keys, tmp_path: Path, head: str, layout: Any) -> None:
    run_once(tmp_path / "run", keys, **SHARED, model__head=head, train__also=["norms"])
    loaded = load_trained(tmp_path / "run")
    report = write_peft(loaded, tmp_path / "peft", layout)
    assert report.comparison.max_abs_diff == 0
    read = read_adapter(tmp_path / "peft")
    found = adapters_from(read)
    expected = {m: a for m, a in loaded.setup.adapters(loaded.params).items() if np.any(a.g)}
    assert found.keys() == expected.keys()
    for module, adapter in expected.items():
        whole = [(a.s * (a.B.astype(float) * a.g)) @ a.A.astype(float) for a in (adapter, found[module])]
        # B' = B·g is one rounding of each product, u of it; the sums and s are in float64 on both sides
        size = abs(adapter.s) * (np.abs(adapter.B.astype(float)) * np.abs(adapter.g)) @ np.abs(adapter.A.astype(float))
        assert np.all(np.abs(whole[0] - whole[1]) <= (2**-24 + 2**-40) * size)
    saved = {name: array.tobytes() for name, array in read.saved.items()}
    assert saved == {n: np.asarray(a).tobytes() for n, a in loaded.setup.head(loaded.params).items()}
    assert read.config["base_model_name_or_path"] == loaded.setup.folder.name == "tiny"
    if layout != "uniform":  # in that one, zeros fill every module up to the largest rank
        assert inspect_path(tmp_path / "peft")[0]["ranks"] == {m: rank for m, rank in report.ranks.items() if rank}


def test_export_calls_its_base_as_it_is_told(mean: Path, tmp_path: Path) -> None:
    write_peft(load_trained(mean), tmp_path / "peft", "compact", "somebody/tiny")
    assert read_adapter(tmp_path / "peft").config["base_model_name_or_path"] == "somebody/tiny"
    write_peft(load_trained(mean), tmp_path / "at", "compact", "somebody/tiny@v1.0")
    config = read_adapter(tmp_path / "at").config
    assert (config["base_model_name_or_path"], config["revision"]) == ("somebody/tiny", "v1.0")


def test_trained_biases_do_not_fit_into_peft_and_are_refused_by_name(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, **SHARED, train__also=["biases"])
    with pytest.raises(SoRAError, match=r"bias is trained in a layer made for an adapter"):
        write_peft(load_trained(tmp_path / "run"), tmp_path / "peft", "compact")
    assert not (tmp_path / "peft").exists()


def test_run_without_adapters_has_nothing_to_export(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, **{**SHARED, **RUNS["head"]})
    with pytest.raises(SoRAError, match=r"no adapters in it: expected a run with adapters"):
        write_peft(load_trained(tmp_path / "run"), tmp_path / "peft", "compact")


@pytest.mark.parametrize("write", [write_pruned, write_merged, lambda loaded, out: write_peft(loaded, out, "compact")])
def test_existing_folder_is_never_written_to(mean: Path, tmp_path: Path, write: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    loaded = load_trained(mean)
    with pytest.raises(SoRAError, match="out exists already: expected the name of a new folder"):
        write(loaded, out)
    with pytest.raises(SoRAError, match="exists already"):
        write(loaded, mean)
    assert tree(tmp_path) == {"out/mine": tree(out)["mine"]}
    assert read_checkpoint(checkpoints(mean)[-1]).t == 5


def test_tied_weights_refuse_to_be_merged(mean: Path) -> None:
    loaded = load_trained(mean)
    shared = "encoder.layer.0.attention.self.query.weight"
    other = "encoder.layer.1.attention.self.query.weight"
    tied = replace(loaded.setup, frozen={**loaded.setup.frozen, other: loaded.setup.frozen[shared]})
    with pytest.raises(SoRAError, match=f"{shared} shares its weight with {other}"):
        merged_params(tied, loaded.params)


def test_base_that_is_not_the_one_trained_on_is_refused(keys: Keys, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    run_once(tmp_path / "run", keys, **SHARED, model__path=str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(
        (write_model(tmp_path / "other", seed=1) / "model.safetensors").read_bytes()
    )
    with pytest.raises(SoRAError, match=r"its weights are not those .* was trained on \(sha256 differs\)"):
        load_trained(tmp_path / "run")


def test_checkpoint_is_found_by_run_by_stage_and_by_file(mean: Path, tmp_path: Path) -> None:
    newest = checkpoints(mean)[-1]
    assert find_checkpoint(mean) == find_checkpoint(newest) == (mean / "config.toml", newest)
    write_pruned(load_trained(mean), tmp_path / "pruned")
    adapter = tmp_path / "pruned" / "adapter.safetensors"
    assert find_checkpoint(adapter) == find_checkpoint(adapter.parent) == (adapter.parent / "config.toml", adapter)
    for path, words in (
        (tmp_path, "no config.toml in it: expected a run directory"),
        (tmp_path / "none", "no such folder: expected a run directory"),
        (mean / "config.toml", r"expected a run directory or a \.safetensors file of one"),
    ):
        with pytest.raises(SoRAError, match=words):
            find_checkpoint(path)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(newest.read_bytes())
    with pytest.raises(SoRAError, match=r"no config\.toml beside or above it"):
        find_checkpoint(alone)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.toml").touch()
    with pytest.raises(SoRAError, match="no checkpoint in it"):
        find_checkpoint(tmp_path / "empty")


def test_float64_evaluates_the_same_weights_more_exactly(mean: Path) -> None:
    single, double = load_trained(mean), load_trained(mean, overrides={"dtype": "float64"})
    for name, array in double.params.items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, single.params[name])
    assert logits_of(double).dtype == np.float64
    assert 0 < np.max(np.abs(logits_of(double) - logits_of(single))) < 2**-10


def test_predictions_are_the_likeliest_class_with_every_probability(mean: Path, keys: Keys, tmp_path: Path) -> None:
    loaded = load_trained(mean)
    test = read_task(loaded.setup.config).splits["test"]
    for record, example, row in zip(predict_records(loaded, test), test, logits_of(loaded), strict=True):
        assert record["id"] == example.id
        assert record["prediction"] == ("bad", "good")[int(np.argmax(row))]
        assert record["probability"] == max(record["probabilities"].values()) >= 0.5
        odds = record["probabilities"]["good"] / record["probabilities"]["bad"]
        assert np.log(odds) == pytest.approx(float(row[1]) - float(row[0]), abs=2**-40)
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=2**-50)
    run_once(tmp_path / "run", keys, **{**SHARED, **RUNS["regression"]})
    real = load_trained(tmp_path / "run")
    assert [r["prediction"] for r in predict_records(real, test)] == logits_of(real)[:, 0].tolist()


def test_helpers_touch_nothing_they_are_given(mean: Path) -> None:
    loaded = load_trained(mean)
    before = {name: np.array(array).tobytes() for name, array in {**loaded.setup.frozen, **loaded.params}.items()}
    pruned_params(loaded.setup, loaded.params)
    merged_params(loaded.setup, loaded.params)
    test = read_task(loaded.setup.config).splits["test"]
    rows = module_agreement(
        loaded.setup, loaded.params, encode(test, loaded.setup.tokenizer, loaded.setup.model.config)
    )
    assert len(rows) == MODULES
    assert before == {n: np.asarray(array).tobytes() for n, array in {**loaded.setup.frozen, **loaded.params}.items()}
    assert last(mean).params.keys() == loaded.params.keys()


def test_second_merge_is_refused(mean: Path, tmp_path: Path) -> None:
    write_merged(load_trained(mean), tmp_path / "merged")
    with pytest.raises(SoRAError, match="is merged already"):
        write_merged(load_trained(tmp_path / "merged"), tmp_path / "again")
    assert not (tmp_path / "again").exists()
