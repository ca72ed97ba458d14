"""What leaves a run is finite, the same for equal runs, and says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from tiny_run import copy_run, make_keys, run_once, tree, write_model

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError, shown
from sora_ref.peft import read_adapter
from sora_ref.run.checkpoint import checkpoint_bytes, checkpoints
from sora_ref.run.ship import merged_params, write_merged, write_peft, write_pruned
from sora_ref.run.trained import Loaded, load_trained
from sora_ref.storage.files import write_bytes
from sora_ref.storage.tensors import read_tensors

Keys = dict[str, Any]
Write = Callable[[Loaded, Path], Any]
WRITERS: dict[str, Write] = {
    "prune": write_pruned,
    "merge": write_merged,
    "export": lambda loaded, out: write_peft(loaded, out, "compact"),
}
SHARED: dict[str, Any] = {"train__epochs": 1, "gate__strength": 0.1}
QUERY = "encoder.layer.0.attention.self.query"
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def runs(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each head's run, and one equal to the first."""
    parent = tmp_path_factory.mktemp("runs")
    for name, head in (("mean", "mean"), ("again", "mean"), ("cls", "cls")):
        run_once(parent / name, keys, **SHARED, model__head=head)
    return {path.name: path for path in parent.iterdir()}


def with_params(run: Path, folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Loaded:
    """The run with other parameters in its last checkpoint, which has a valid digest."""
    trained = load_trained(run).trained
    params = {name: np.array(array) for name, array in trained.params.items()}
    change(params)
    last = checkpoints(copy_run(run, folder))[-1]
    write_bytes(last, checkpoint_bytes(replace(trained, params=params)))
    return load_trained(folder)


@writers
@pytest.mark.parametrize("name", [f"{QUERY}.sora_g", f"{QUERY}.sora_A", "classifier.bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_never_leave(
    runs: dict[str, Path], tmp_path: Path, write: Write, name: str, value: float
) -> None:
    loaded = with_params(runs["mean"], tmp_path / "run", lambda params: params[name].fill(value))
    with pytest.raises(SoRAError, match=rf"{name} is not finite, in .*step-.*: expected finite numbers"):
        write(loaded, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weight_that_overflows_when_it_is_merged_is_refused_by_name(runs: dict[str, Path], tmp_path: Path) -> None:
    """Every parameter is finite, their product is not in float32; no warning of NumPy's comes beside the sentence."""

    def huge(params: dict[str, np.ndarray]) -> None:
        for letter in "AgB":
            params[f"{QUERY}.sora_{letter}"].fill(1e15)

    loaded = with_params(runs["mean"], tmp_path / "run", huge)
    with pytest.raises(SoRAError, match=rf"{QUERY}\.weight is not finite once merged in float32"):
        write_merged(loaded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@writers
def test_equal_runs_are_shipped_as_equal_bytes(runs: dict[str, Path], tmp_path: Path, write: Write) -> None:
    """The seconds they took stay in the run's directory."""
    one, two = (load_trained(runs[name]) for name in ("mean", "again"))
    assert one.trained.position.seconds != two.trained.position.seconds
    for name, loaded in (("one", one), ("two", two), ("later", load_trained(runs["mean"]))):
        write(loaded, tmp_path / name)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "later")
    assert not any(b"/runs" in path.read_bytes() for path in (tmp_path / "one").iterdir())


# ------------------------------------------------------------------------------------------------------ merged folders


def model_with(keys: Keys, folder: Path, **config: Any) -> Keys:
    write_model(folder)
    before = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(before | config))
    return keys | {"model.path": str(folder)}


def test_merged_config_keeps_what_is_still_true_and_drops_what_is_not(keys: Keys, tmp_path: Path) -> None:
    true = {"pad_token_id": 0, "position_embedding_type": "absolute", "ours": {"nested": [1, 2]}}
    old = {
        "_name_or_path": "/home/somebody/secret",
        "torch_dtype": "float16",
        "auto_map": {"AutoModel": "evil--modeling.Bert"},
        "id2label": {"0": "OLD"},
        "label2id": {"OLD": 0},
        "num_labels": 7,
        "problem_type": "multi_label_classification",
        "quantization_config": {"bits": 4},
    }
    given = model_with(keys, tmp_path / "model", **true, **old)
    for head in ("mean", "cls"):
        run_once(tmp_path / head, given, **SHARED, model__head=head)
        write_merged(load_trained(tmp_path / head), tmp_path / f"merged-{head}")
        config = json.loads((tmp_path / f"merged-{head}" / "config.json").read_text())
        assert {key: config[key] for key in true} == true
        assert not {"_name_or_path", "torch_dtype", "auto_map", "num_labels", "quantization_config"} & config.keys()
        assert config["dtype"] == "float32"
        cls = head == "cls"
        assert config["id2label"] == ({"0": "bad", "1": "good"} if cls else {})
        assert config["label2id"] == ({"bad": 0, "good": 1} if cls else {})
        assert config.get("problem_type") == ("single_label_classification" if cls else None)


def test_merged_mean_head_comes_with_labels_and_a_loader(runs: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_trained(runs["mean"])
    write_merged(loaded, tmp_path / "merged")
    folder = tmp_path / "merged"
    labels = json.loads((folder / "labels.json").read_text())
    assert labels == {
        "problem_type": "single_label_classification",
        "id2label": {"0": "bad", "1": "good"},
        "max_length": 12,
    }
    head = load_file(folder / "head.safetensors")
    assert {name: array.tobytes() for name, array in head.items()} == {
        name: np.asarray(loaded.params[name]).tobytes() for name in ("classifier.weight", "classifier.bias")
    }
    assert (folder / "load_with_transformers.py").is_file()
    write_merged(load_trained(runs["cls"]), tmp_path / "cls")
    assert not (tmp_path / "cls" / "head.safetensors").exists()
    for name in ("merged", "cls"):
        assert (tmp_path / name / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")


@pytest.mark.bounded("SORA-BOUND-6")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_merged_into_another_dtype_move_by_no_more_than_the_bound(
    runs: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    loaded = load_trained(runs["mean"])
    bounds = write_merged(loaded, tmp_path / "merged", dtype=dtype)
    merged, _ = merged_params(loaded.setup, loaded.params)
    stored = read_tensors(tmp_path / "merged" / "model.safetensors")
    shares = []
    for module, bound in bounds.items():
        name = f"{module}.weight"
        moved = float(np.max(np.abs(stored.arrays[name].astype(float) - np.asarray(merged[name], float))))
        assert moved <= bound
        shares.append(moved / bound if bound else 0.0)
    assert (max(shares) > 0.1) == (dtype != "float64")
    assert set(stored.cast) == (set(stored.arrays) if dtype != "float64" else set())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == dtype
    assert load_trained(tmp_path / "merged").setup.adapters({}) == {}


def test_merged_weight_that_half_precision_cannot_hold_is_refused_by_name(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    def large(params: dict[str, np.ndarray]) -> None:
        for letter in "AgB":
            params[f"{QUERY}.sora_{letter}"].fill(100)

    loaded = with_params(runs["mean"], tmp_path / "run", large)
    with pytest.raises(
        SoRAError, match=rf"{QUERY}\.weight is not finite in float16: expected numbers that it can hold"
    ):
        write_merged(loaded, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    write_merged(loaded, tmp_path / "out", dtype="bfloat16")


def test_link_in_the_model_folder_does_not_let_a_foreign_file_into_the_merged_one(keys: Keys, tmp_path: Path) -> None:
    given = model_with(keys, tmp_path / "model")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model" / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    run_once(tmp_path / "run", given, **SHARED)
    with pytest.raises(SoRAError, match=r"special_tokens_map\.json: a link to"):
        write_merged(load_trained(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- the command line


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_export_says_what_it_calls_its_base_and_what_rounding_may_do(runs: dict[str, Path], tmp_path: Path) -> None:
    out = invoke("export", runs["mean"], "--out", tmp_path / "a", "--dtype", "bfloat16", "--quiet")
    assert "the adapter calls its base model 'tiny', which is no name on a hub: --base-model says" in out
    path = "/home/me/models/tiny"
    named = invoke("export", runs["mean"], "--out", tmp_path / "path", "--base-model", path)
    assert f"the adapter calls its base model {shown(path)}, which is no name on a hub" in named
    assert f"`{path}`, which is no name on a hub" in (tmp_path / "path" / "README.md").read_text()
    assert "rounding to bfloat16 moves no entry of an adapter's weight change by more than " in out
    facts = json.loads(
        invoke("export", runs["mean"], "--out", tmp_path / "b", "--base-model", "a/b", "--license", "mit", "--json")
    )
    assert (facts["base_model"], facts["dtype"]) == ("a/b", "float32")
    assert 0 < max(facts["rounding"].values()) < 1e-6
    text = (tmp_path / "b" / "README.md").read_text()
    assert 'base_model: "a/b"\n' in text
    assert 'license: "mit"\n' in text


def test_export_without_a_head_is_an_adapter_of_matrices_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    invoke("export", runs["cls"], "--out", tmp_path / "a", "--layout", "folded", "--without-head", "--quiet")
    read = read_adapter(tmp_path / "a")
    assert read.config["modules_to_save"] is None
    assert read.head == "cls"
    saved = {"classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"}
    assert read.saved.keys() == saved  # the tiny model has no pooler: it is new, and comes along


def test_merge_says_what_rounding_may_do(runs: dict[str, Path], tmp_path: Path) -> None:
    out = invoke("merge", runs["mean"], "--out", tmp_path / "a", "--dtype", "float16", "--quiet")
    assert "rounding to float16 moves no entry of a merged weight by more than " in out
    shutil.rmtree(tmp_path / "a")
    assert "rounding to" not in invoke("merge", runs["mean"], "--out", tmp_path / "a", "--quiet")


@pytest.mark.parametrize("command", ["prune", "merge", "export"])
def test_what_leaves_an_unfinished_run_says_at_which_step(runs: dict[str, Path], tmp_path: Path, command: str) -> None:
    run = copy_run(runs["mean"], tmp_path / "run")
    assert "unfinished" not in json.loads(invoke(command, run, "--out", tmp_path / "whole", "--json"))
    (run / "summary.json").unlink()
    facts = json.loads(invoke(command, run, "--out", tmp_path / "out", "--json", "--quiet"))
    assert facts["unfinished"] == {"step": 5, "of": 5}
    done = CliRunner().invoke(cli, [command, str(run), "--out", str(tmp_path / "again")])
    assert "the run is not finished: this is step 5 of 5" in done.stderr
