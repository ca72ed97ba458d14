"""Training: what a run directory holds, what the settings do, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import Rounding
from tiny_run import (
    CONFIG,
    EPOCH,
    MODULES,
    RANK,
    SIZES,
    arrays_of,
    last,
    lines,
    make_config,
    make_keys,
    make_rows,
    outcome,
    records,
    run_once,
    tree,
    write_jsonl,
    write_model,
    write_task,
)

from sora_ref import GATE_RULES
from sora_ref.errors import SoRAError
from sora_ref.kernels.numpy.table import KERNELS
from sora_ref.models.bert import BERT
from sora_ref.run import training as module
from sora_ref.run.config import load_config
from sora_ref.run.data import Example, Labels, Task
from sora_ref.run.gradients import loss_and_gradients
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import make_setup
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.trained import load_trained
from sora_ref.run.versions import versions

Keys = dict[str, Any]
STEPS = 2 * EPOCH
NO_DROPOUT = {"adapter.dropout": 0.0, "train.hidden_dropout": 0.0, "train.attention_dropout": 0.0}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def finished(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    run_once(run, keys)
    return run


def gates(run: Path) -> np.ndarray:
    return np.concatenate([g for name, g in last(run).params.items() if name.endswith(".sora_g")])


def survivors(run: Path) -> list[bool]:
    return [bool(g) for g in gates(run)]


def moved(run: Path, keys: Keys, **changes: Any) -> set[str]:
    """The parameters that training changed."""
    config = make_config(keys, **changes)
    setup = make_setup(config, Labels("classification", ("bad", "good"), ("accuracy",)))
    start = initial_params(setup)
    after = last(run).params
    assert after.keys() == start.keys()
    return {name for name, value in start.items() if value.tobytes() != after[name].tobytes()}


def refused(out: Path, keys: Keys, *, leaves: bool = False, **changes: Any) -> str:
    with pytest.raises(SoRAError) as caught:
        run_once(out, keys, **changes)
    assert "\n" not in str(caught.value)
    assert out.exists() == leaves
    return str(caught.value)


def test_run_directory_holds_configuration_versions_logs_checkpoints_and_summary(finished: Path, keys: Keys) -> None:
    assert sorted(tree(finished)) == [
        ".lock",
        "checkpoints/step-00000009.safetensors",
        "checkpoints/step-00000010.safetensors",
        "config.toml",
        "gates.jsonl",
        "inputs.json",
        "metrics.jsonl",
        "summary.json",
        "versions.json",
    ]
    assert load_config(finished / "config.toml", {}) == make_config(keys)
    stored = json.loads((finished / "versions.json").read_text())
    assert versions(KERNELS).items() <= stored.items()
    assert len(stored["base_sha256"]) == 64
    assert last(finished).position.step == last(finished).t == STEPS
    assert set(last(finished).scales.values()) == {6.0 / RANK}


def test_logs_have_the_steps_the_configuration_asks_for(finished: Path, keys: Keys) -> None:
    trained, validated = records(finished, "train"), records(finished, "validation")
    assert [record["step"] for record in trained] == [2, 4, 6, 8, 10]
    assert [record["step"] for record in validated] == [5, 10]
    assert [record["step"] for record in lines(finished / "gates.jsonl")] == [0, 2, 4, 6, 8, 10]
    lr, _ = make_config(keys).learning_rates(STEPS)
    for record in trained:
        assert record["lr"] == record["gate_lr"] == lr(record["step"])
        assert record["strength"] == 0.02
        assert record["gates"] == MODULES * RANK
        assert 0 < record["norm"] < 100
    logged = lines(finished / "gates.jsonl")[-1]["gates"]
    assert logged == {
        name.removesuffix(".sora_g"): g.tolist() for name, g in last(finished).params.items() if "sora_g" in name
    }
    assert trained[-1]["gates_at_zero"] == sum(g == 0 for gate in logged.values() for g in gate)


def test_equal_configurations_train_to_equal_bits_and_another_seed_to_others(
    finished: Path, keys: Keys, tmp_path: Path
) -> None:
    run_once(tmp_path / "again", keys)
    assert outcome(tmp_path / "again") == outcome(finished)
    run_once(tmp_path / "other", keys, seed=1)
    assert arrays_of(last(tmp_path / "other")) != arrays_of(last(finished))


@pytest.mark.exact("SORA-INIT-1")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_number_of_workers_changes_no_bit(finished: Path, keys: Keys, tmp_path: Path, workers: int) -> None:
    run_once(tmp_path / "run", keys, workers=workers)
    run_config = {"config.toml": b""}
    assert outcome(tmp_path / "run") | run_config == outcome(finished) | run_config


def test_how_often_is_logged_and_saved_changes_no_number(finished: Path, keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, train__log_every=1, train__checkpoint_every=99)
    assert arrays_of(last(tmp_path / "run")) == arrays_of(last(finished))
    losses = [record["loss"] for record in records(tmp_path / "run", "train")]
    assert [record["loss"] for record in records(finished, "train")] == [
        (first + second) / 2 for first, second in zip(losses[::2], losses[1::2], strict=True)
    ]


def test_training_learns_the_rule(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys | NO_DROPOUT, train__epochs=8, train__lr=3e-2, gate__strength=0.0)
    assert summary["scores"]["test"]["accuracy"] >= 11 / 12
    losses = [record["loss"] for record in records(tmp_path / "run", "train")]
    assert losses[-1] < math.log(2) / 4 < math.log(2) / 2 < losses[0]


@pytest.mark.measured("SORA-STEP-2")
@pytest.mark.parametrize("head", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_gradients_do_not_depend_on_the_budget_of_microbatches_beyond_rounding(
    keys: Keys, tmp_path: Path, kind: str, head: str
) -> None:
    """Dropout's masks belong to the examples, so a batch may be split anyhow; see `models.tiny` for the bound."""
    label = {"classification": "label", "regression": "rating"}[kind]

    def compute(dtype: str, tokens: int) -> dict[str, np.ndarray]:
        config = make_config(
            keys, dtype=dtype, task__kind=kind, task__label=label, model__head=head, train__microbatch_tokens=tokens
        )
        task = read_task(config)
        setup = make_setup(config, Labels(task.kind, task.labels, task.metrics))
        data = encode(task.splits["train"], setup.tokenizer, setup.model.config)
        rng = np.random.default_rng(0)
        params = {
            name: (value + 0.3 * rng.standard_normal(value.shape)).astype(dtype)
            for name, value in initial_params(setup).items()
        }
        loss, grads = loss_and_gradients(setup, data, params, np.arange(16), 3, map)
        return {"loss": np.asarray(loss), **grads}

    whole = compute("float64", 10_000)
    rounding = Rounding.of(lambda dtype: compute(dtype, 10_000))
    for tokens in (1, 24, 60):
        rounding.check(compute("float64", tokens), whole)


@pytest.mark.exact("SORA-STEP-2")
def test_loss_and_gradients_are_means_over_the_examples_of_the_batch(keys: Keys, tmp_path: Path) -> None:
    """A batch of twice the same examples has the same mean; sums of two equal numbers and halves are exact."""
    config = make_config(keys | NO_DROPOUT, dtype="float64", train__microbatch_tokens=1)
    task = read_task(config)
    setup = make_setup(config, Labels(task.kind, task.labels, task.metrics))
    once = encode(task.splits["train"][:1], setup.tokenizer, setup.model.config)
    data, params = once.take([0, 0, 0, 0]), initial_params(setup)
    loss, grads = loss_and_gradients(setup, data, params, np.arange(4), 1, map)
    alone, single = loss_and_gradients(setup, data, params, np.arange(1), 1, map)
    assert loss == alone
    assert {name: grad.tobytes() for name, grad in grads.items()} == {n: g.tobytes() for n, g in single.items()}


def test_existing_folder_is_refused_unless_it_is_empty(finished: Path, keys: Keys, tmp_path: Path) -> None:
    before = tree(finished)
    with pytest.raises(SoRAError, match="not empty: expected a new folder, or --resume to go on with its run"):
        run_once(finished, keys)
    assert tree(finished) == before
    (tmp_path / "empty").mkdir()
    run_once(tmp_path / "empty", keys, train__epochs=1)


OVERFLOWS = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")


@OVERFLOWS
@pytest.mark.parametrize("lr", [1e12, 1e30])
def test_loss_that_is_no_number_stops_with_a_sentence_and_leaves_a_sound_checkpoint(
    keys: Keys, tmp_path: Path, lr: float
) -> None:
    sentence = refused(
        tmp_path / "run", keys, leaves=True, train__lr=lr, train__checkpoint_every=1, train__schedule="constant"
    )
    assert "the loss is" in sentence
    assert "expected a finite one; lower train.lr" in sentence
    assert not (tmp_path / "run" / "summary.json").exists()
    for array in last(tmp_path / "run").params.values():
        assert np.isfinite(array).all()


@OVERFLOWS
def test_parameters_that_are_no_numbers_after_the_last_step_stop_with_a_sentence(keys: Keys, tmp_path: Path) -> None:
    """One step: its loss is finite, what it makes of the parameters is not."""
    sentence = refused(tmp_path / "run", keys, leaves=True, train__lr=1e39, train__epochs=1, train__batch=99)
    assert "finite" in sentence
    for array in last(tmp_path / "run").params.values():
        assert np.isfinite(array).all()


def with_task(patch: pytest.MonkeyPatch, change: Callable[[Task], Task]) -> None:
    patch.setattr(module, "read_task", lambda config, say: change(read_task(config, say)))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_example_without_a_label_is_refused(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    def strip(task: Task) -> Task:
        first, *others = task.splits[split]
        return replace(task, splits={**task.splits, split: (replace(first, label=None), *others)})

    with_task(monkeypatch, strip)
    sentence = refused(tmp_path / "run", keys)
    assert "an example has no label: expected labels on every example" in sentence


def test_unlabelled_test_split_is_left_unscored(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strip(task: Task) -> Task:
        return replace(task, splits={**task.splits, "test": (Example("x", "good", None, None),)})

    with_task(monkeypatch, strip)
    assert set(run_once(tmp_path / "run", keys, train__epochs=1)["scores"]) == {"validation"}


def test_scoring_a_test_split_that_is_not_there_is_refused_before_the_run_begins(keys: Keys, tmp_path: Path) -> None:
    files = {split: path for split, path in keys["task.files"].items() if split != "test"}
    sentence = refused(tmp_path / "run", keys | {"task.files": files, "train.score_test": True})
    assert "expected a test split to score" in sentence
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_task_without_a_split_to_train_or_select_on_is_refused(keys: Keys, tmp_path: Path, missing: str) -> None:
    files = {split: path for split, path in keys["task.files"].items() if split != missing}
    if missing == "validation":  # nine texts, too few to hold one of ten out
        files["train"] = str(write_jsonl(tmp_path / "few.jsonl", make_rows("train")[:9]))
    sentence = refused(tmp_path / "run", keys | {"task.files": files})
    assert "expected examples to train on" in sentence or "expected a validation split" in sentence
    assert missing in sentence


def test_regression_is_judged_by_correlations_and_learns(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(
        tmp_path / "run",
        keys | NO_DROPOUT,
        task__kind="regression",
        task__label="rating",
        train__epochs=8,
        train__lr=3e-2,
        gate__strength=0.0,
    )
    assert set(summary["scores"]["test"]) == {"pearson", "spearman"}
    assert summary["scores"]["test"]["pearson"] > 0.5
    assert summary["counts"]["head"] == CONFIG.hidden_size + 1
    assert last(tmp_path / "run").labels.kind == "regression"


@pytest.mark.parametrize("pooler", [False, True])
def test_cls_head_trains_a_pooler_where_the_checkpoint_has_none(keys: Keys, tmp_path: Path, pooler: bool) -> None:
    folder = write_model(tmp_path / "model", pooler=pooler)
    changes: dict[str, Any] = {"model__path": str(folder), "model__head": "cls"}
    run_once(tmp_path / "run", keys, **changes)
    head = {name for name in last(tmp_path / "run").params if ".sora_" not in name}
    fresh = set() if pooler else {"pooler.dense.weight", "pooler.dense.bias"}
    assert head == {"classifier.weight", "classifier.bias"} | fresh
    assert head <= moved(tmp_path / "run", keys, **changes)


@pytest.mark.exact("SORA-STEP-6")
@pytest.mark.parametrize("part", ["norms", "biases"])
def test_norms_and_biases_are_trained_where_asked_for_and_never_decayed(keys: Keys, tmp_path: Path, part: str) -> None:
    chosen: dict[str, Any] = {"train__also": [part]}
    run_once(tmp_path / "run", keys, **chosen)
    own = [name for name in BERT.shapes(CONFIG) if ("LayerNorm" in name) == (part == "norms")]
    expected = {name for name in own if part == "norms" or name.endswith(".bias")}
    assert {name for name in last(tmp_path / "run").params if ".sora_" not in name} == expected | {
        "classifier.weight",
        "classifier.bias",
    }
    assert expected <= moved(tmp_path / "run", keys, **chosen)
    run_once(tmp_path / "decayed", keys, train__lr=0.0, train__weight_decay=0.5, **chosen)
    assert not expected & moved(tmp_path / "decayed", keys, **chosen)


def test_plain_lora_has_gates_at_one_that_are_not_trained(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, method="lora")
    assert not any(name.endswith(".sora_g") for name in last(tmp_path / "run").params)
    assert summary["null"] is None
    assert summary["counts"]["kept"] == MODULES * RANK
    assert not (tmp_path / "run" / "gates.jsonl").exists()
    loaded = load_trained(tmp_path / "run")
    assert {g for adapter in loaded.setup.adapters(loaded.params).values() for g in adapter.g.tolist()} == {1.0}
    for name in last(tmp_path / "run").params:
        assert name in moved(tmp_path / "run", keys, method="lora")


def test_head_alone_trains_nothing_else(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, method="head")
    assert set(last(tmp_path / "run").params) == {"classifier.weight", "classifier.bias"}
    assert summary["ranks"] == {}
    assert summary["counts"]["components"] == 0


def test_some_kinds_adapt_those_modules_alone(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, adapter__kinds=["value", "output"], train__epochs=1)
    assert set(summary["ranks"]) == set(BERT.modules(CONFIG, ["value", "output"]))


def test_float64_is_trained_in_float64(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, dtype="float64", train__epochs=1)
    assert {array.dtype for array in last(tmp_path / "run").params.values()} == {np.dtype("float64")}
    assert {array.dtype for pair in (last(tmp_path / "run").moments or {}).values() for array in pair} == {
        np.dtype("float64")
    }


@pytest.mark.exact("SORA-NULL-1")
@pytest.mark.parametrize("g0", [0.0, 0.15, 0.25, "normal"])
def test_without_a_data_gradient_gates_shrink_by_the_threshold_alone_as_the_null_model_says(
    keys: Keys, tmp_path: Path, g0: Any
) -> None:
    """Σξ = 10·0.02; every gate's path is the soft threshold iterated in float32, rounding for rounding."""
    summary = run_once(tmp_path / "run", keys, adapter__gate=g0, gate__gradient="zero")
    setup = make_setup(make_config(keys, adapter__gate=g0), Labels("classification", ("bad", "good"), ("accuracy",)))
    start = initial_params(setup)
    expected = np.concatenate([start[name] for name in last(tmp_path / "run").params if name.endswith(".sora_g")])
    null_kept = np.count_nonzero(np.abs(expected) > 0.2)
    for _ in range(STEPS):
        expected = expected - np.clip(expected, np.float32(-0.02), np.float32(0.02))
    assert gates(tmp_path / "run").tolist() == expected.tolist()
    null = summary["null"]
    assert null["threshold_sum"] == sum([0.02] * STEPS)
    if g0 == "normal":
        assert null["kept_share"] == math.erfc(null["threshold_sum"] / math.sqrt(2))
        assert summary["counts"]["kept"] == null_kept
    else:
        assert summary["counts"]["kept"] == null["kept"] == (MODULES * RANK if g0 > 0.2 else 0)


@pytest.mark.exact("SORA-NULL-1")
def test_the_data_decide_who_survives_and_zeroing_their_gradient_changes_the_survivors(
    keys: Keys, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"adapter__gate": 0.15, "gate__lr": 0.05}
    run_once(tmp_path / "data", keys, **changes)
    summary = run_once(tmp_path / "zero", keys, **changes, gate__gradient="zero")
    assert summary["counts"]["kept"] == summary["null"]["kept"] == 0
    assert any(survivors(tmp_path / "data"))
    assert survivors(tmp_path / "data") != survivors(tmp_path / "zero")


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("rule", GATE_RULES)
def test_every_gate_rule_trains_with_every_optimiser_and_thresholds_some_gates(
    keys: Keys, tmp_path: Path, rule: str, optimiser: str
) -> None:
    schedule = "released" if rule == "released" else "linear"
    summary = run_once(
        tmp_path / "run",
        keys,
        gate__rule=rule,
        gate__lr=2e-2,
        train__optimiser=optimiser,
        train__schedule=schedule,
        train__clip=0.1,
        gate__strength={
            "paper": 3.0,
            "adamw-lr-lambda": 3.0,
            "adamw-metric": 3e-4 if optimiser == "adamw" else 1e-6,
        }.get(rule, 0.03),
    )
    rates = [record["lr"] for record in records(tmp_path / "run", "train")]
    assert len(set(rates)) == len(rates)
    kept, components = summary["counts"]["kept"], MODULES * RANK
    if rule == "adamw-metric-literal":
        assert kept < components
    else:
        assert 0 < kept < components
    assert (summary["null"] is None) == rule.startswith("adamw-metric")


@pytest.mark.exact("SORA-SCHED-2")
def test_released_schedule_wastes_its_first_step_but_for_the_threshold(keys: Keys, tmp_path: Path) -> None:
    """One step at lr 0: only the gates move, by T alone, and what AdamW's decay would take is lr times it: nothing."""
    changes: dict[str, Any] = {
        "gate__rule": "released",
        "train__schedule": "released",
        "train__warmup": 1.0,
        "train__epochs": 1,
    }
    changes |= {"train__batch": 99, "train__log_every": 1}
    run_once(tmp_path / "run", keys, **changes)
    (record,) = records(tmp_path / "run", "train")
    assert record["lr"] == record["gate_lr"] == 0.0
    assert {name.rpartition(".")[2] for name in moved(tmp_path / "run", keys, **changes)} == {"sora_g"}


@pytest.mark.measured("SORA-STEP-5")
def test_gates_may_have_a_learning_rate_of_their_own(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, gate__lr=0.5, train__epochs=1)
    for record in records(tmp_path / "run", "train"):
        assert record["gate_lr"] / record["lr"] == pytest.approx(25, rel=2**-50)
    run_once(tmp_path / "still", keys, gate__lr=0.0, gate__strength=0.0, train__epochs=1)
    assert not any(name.endswith(".sora_g") for name in moved(tmp_path / "still", keys))


def test_pairs_are_trained_on(keys: Keys, tmp_path: Path) -> None:
    for split in SIZES:
        write_jsonl(tmp_path / f"{split}.jsonl", [{**row, "other": row["text"]} for row in make_rows(split)])
    files = {split: str(tmp_path / f"{split}.jsonl") for split in SIZES}
    run_once(tmp_path / "run", keys | {"task.files": files}, task__pair="other", train__epochs=1)
    assert load_config(tmp_path / "run" / "config.toml", {}).task.pair == "other"


def test_weights_are_told_to_be_cast_where_the_dtype_changes(keys: Keys, tmp_path: Path) -> None:
    said: list[str] = []
    run_once(tmp_path / "run", keys, dtype="float64", train__epochs=1, say=said.append)
    assert any("weights cast from float32 to float64" in line for line in said)


def test_write_task_splits_are_of_the_sizes_told(tmp_path: Path) -> None:
    config = make_config(make_keys(tmp_path / "a") | {"task.files": write_task(tmp_path / "b")})
    assert {split: len(part) for split, part in read_task(config).splits.items()} == SIZES
