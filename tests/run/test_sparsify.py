"""The sparsifying scheduler as a run: its stages, their files, and what is said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import (
    EPOCH,
    SCHEDULE,
    arrays_of,
    last,
    lines,
    make_config,
    make_keys,
    patch_step,
    records,
    run_once,
    sora_ref,
)
from tiny_run import flags as as_flags

from sora_ref import count_parameters, training_step
from sora_ref.errors import SoRAError
from sora_ref.run import course, evaluate, gradients, stages
from sora_ref.run.checkpoint import read_checkpoint
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.summary import summary_lines
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.trained import load_trained

Keys = dict[str, Any]
STRENGTHS = [0.0, 0.03, 0.06]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("sparsify")) | SCHEDULE


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    run_once(run, keys)
    return run


def summary_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


@pytest.mark.exact("SORA-STAGE-1")
def test_every_stage_has_a_checkpoint_and_the_last_is_the_runs(run: Path) -> None:
    names = [path.name for path in sorted((run / "stages").iterdir())]
    assert names == ["stage-00.safetensors", "stage-01.safetensors", "stage-02.safetensors"]
    stages = [read_checkpoint(run / "stages" / name) for name in names]
    assert [stage.position.step for stage in stages] == [5, 10, 15]
    assert [stage.moments for stage in stages] == [None] * 3
    for name, array in last(run).params.items():
        assert array.tobytes() == stages[-1].params[name].tobytes()
    assert arrays_of(stages[0]) != arrays_of(stages[1]) != arrays_of(stages[2])


@pytest.mark.exact("SORA-STAGE-1")
def test_stages_have_their_strengths_and_each_the_whole_schedule_of_learning_rates(run: Path, keys: Keys) -> None:
    lr, _ = make_config(keys).learning_rates(EPOCH)
    for k, strength in enumerate(STRENGTHS):
        found = [record for record in records(run, "train") if record["stage"] == k]
        assert [record["step"] - k * EPOCH for record in found] == [2, 4, 5]
        assert [record["strength"] for record in found] == [strength] * 3
        assert [record["lr"] for record in found] == [lr(2), lr(4), lr(5)]
    assert [record["strength"] for record in records(run, "stage")] == STRENGTHS


def test_later_stages_may_be_longer_than_the_first(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "run", keys, schedule__stages=2, train__epochs=1, schedule__epochs=2)
    assert [record["step"] for record in records(tmp_path / "run", "stage")] == [EPOCH, 3 * EPOCH]
    lr, _ = make_config(keys).learning_rates(2 * EPOCH)
    assert [r["lr"] for r in records(tmp_path / "run", "train") if r["stage"] == 1] == [lr(t) for t in (2, 4, 6, 8, 10)]


def test_every_stage_sees_the_examples_in_orders_of_its_own(keys: Keys, tmp_path: Path) -> None:
    seen: list[int] = []
    real = course.epoch_batches

    def spy(lengths: Any, batch: int, pool: int, seed: int, epoch: int) -> Any:
        seen.append(epoch)
        return real(lengths, batch, pool, seed, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "epoch_batches", spy)
        run_once(tmp_path / "run", keys, train__epochs=2, schedule__epochs=3)
    assert seen == list(range(2 + 3 + 3))


@pytest.mark.exact("SORA-STAGE-2")
def test_memorization_ids_are_training_examples_fixed_by_the_seed(run: Path, keys: Keys, tmp_path: Path) -> None:
    chosen = json.loads((run / "memorization_ids.json").read_text())
    ids = [example.id for example in read_task(make_config(keys)).splits["train"]]
    assert len(chosen) == len(set(chosen)) == 9
    assert chosen == [name for name in ids if name in set(chosen)]
    run_once(tmp_path / "run", keys, train__lr=1e-3, schedule__stages=1)
    assert json.loads((tmp_path / "run" / "memorization_ids.json").read_text()) == chosen
    run_once(tmp_path / "other", keys, seed=1, schedule__stages=1)
    assert json.loads((tmp_path / "other" / "memorization_ids.json").read_text()) != chosen
    run_once(tmp_path / "all", keys, schedule__stages=1, schedule__memorization_examples=1000)
    assert json.loads((tmp_path / "all" / "memorization_ids.json").read_text()) == ids


@pytest.mark.exact("SORA-STAGE-2")
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_performance_of_a_stage_is_that_of_its_checkpoint(run: Path, stage: int) -> None:
    """Memorization on the listed examples, generalization on validation, and non-zero parameters with their gates."""
    loaded = load_trained(run, stage=stage)
    setup, task = loaded.setup, read_task(loaded.setup.config)
    chosen = set(json.loads((run / "memorization_ids.json").read_text()))
    parts = [[e for e in task.splits["train"] if e.id in chosen], task.splits["validation"]]
    found = []
    for part in parts:
        encoded = encode(part, setup.tokenizer, setup.model.config)
        assert encoded.labels is not None
        found.append(score(setup.labels, predict_logits(setup, loaded.params, encoded), encoded.labels)["accuracy"])
    performance = summary_of(run)["stages"][stage]["performance"]
    assert [performance["memorization"], performance["generalization"]] == found
    counts = count_parameters(setup.adapters(loaded.params), hidden=8)
    assert performance["nonzero"] == counts.with_gates
    by_hand = 0
    for module in setup.scales:
        A, g, B = (loaded.trained.params[f"{module}.sora_{part}"] for part in "AgB")
        by_hand += int(np.count_nonzero(g)) * (A.shape[1] + B.shape[0] + 1)
    assert performance["nonzero"] == by_hand


@pytest.mark.exact("SORA-STAGE-2")
def test_percentages_are_of_stage_0(run: Path) -> None:
    first, *others = summary_of(run)["stages"]
    assert first["memorization_percent"] == first["generalization_percent"] == 100.0
    for stage in others:
        for kind in ("memorization", "generalization"):
            value, dense = stage["performance"][kind], first["performance"][kind]
            assert stage[f"{kind}_percent"] == 100 * value / dense
    assert summary_of(run)["stages"] == records(run, "stage")
    assert summary_of(run)["null"] is None


@pytest.mark.exact("SORA-STAGE-2")
def test_percentages_are_undefined_where_stage_0_is_zero(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluate.score
    monkeypatch.setattr(stages, "score", lambda *args: dict.fromkeys(real(*args), 0.0))
    summary = run_once(tmp_path / "run", keys, schedule__stages=2)
    for stage in summary["stages"]:
        assert stage["memorization_percent"] is None
        assert stage["generalization_percent"] is None
    assert (
        sum("memorization 0.0000 (undefined), generalization 0.0000 (undefined)" in s for s in summary_lines(summary))
        == 2
    )


def test_performance_that_is_undefined_is_said_to_be(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correlation with constant predictions: null in the files, said in words, and no percentage of it."""
    real = stages.score
    monkeypatch.setattr(stages, "score", lambda *args: dict.fromkeys(real(*args), float("nan")))
    summary = run_once(tmp_path / "run", keys, schedule__stages=2)
    text = "".join(summary_lines(summary))
    assert text.count("memorization undefined (undefined), generalization undefined (undefined)") == 2


@pytest.mark.exact("SORA-STAGE-1")
def test_sparser_stages_start_from_the_weights_of_the_last(keys: Keys, tmp_path: Path) -> None:
    """With lr 0 in every stage nothing but thresholds acts: the gates shrink stage upon stage."""
    run_once(tmp_path / "run", keys, train__lr=0.0, schedule__kind="list", schedule__values=[0.0, 0.01, 0.02])
    files = sorted((tmp_path / "run" / "stages").iterdir())
    gates = [{n: g for n, g in read_checkpoint(path).params.items() if n.endswith(".sora_g")} for path in files]
    for before, after, xi in zip(gates, gates[1:], (0.01, 0.02), strict=False):
        for name, g in before.items():
            for _ in range(EPOCH):
                g = g - np.clip(g, np.float32(-xi), np.float32(xi))
            assert after[name].tobytes() == g.tobytes()


@pytest.mark.exact("SORA-STAGE-1")
@pytest.mark.parametrize("reset", [True, False])
def test_moments_and_step_count_start_anew_only_where_asked_to(keys: Keys, tmp_path: Path, reset: bool) -> None:
    counted: list[tuple[int, bool]] = []
    real = training_step

    def spy(state: Any, *args: Any, **options: Any) -> Any:
        counted.append((state.t, any(m.any() for m, _ in state.moments.values())))
        return real(state, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch_step(patch, spy)
        run_once(tmp_path / "run", keys, schedule__stages=2, schedule__reset_moments=reset)
    assert counted == [(t, t > 0) for t in (*range(EPOCH), *(range(EPOCH) if reset else range(EPOCH, 2 * EPOCH)))]
    assert last(tmp_path / "run").t == (EPOCH if reset else 2 * EPOCH)


def test_stage_of_a_run_is_found_by_its_number(run: Path) -> None:
    for stage in range(3):
        assert load_trained(run, stage=stage).file.name == f"stage-{stage:02d}.safetensors"
    assert load_trained(run).file.name == "step-00000015.safetensors"
    with pytest.raises(SoRAError, match="no stage 3: expected one that the run has finished"):
        load_trained(run, stage=3)


def test_first_stage_that_is_sparse_itself_is_a_warning_on_standard_error(keys: Keys, tmp_path: Path) -> None:
    """And never on standard output, where --json promises JSON."""
    changes = {"schedule.start": 0.01, "schedule.stages": 1, "schedule.stop": 0.01}
    arguments = ["train", "--out", str(tmp_path / "run"), "--json", *as_flags(keys | changes)]
    done = sora_ref(*arguments, code=0)
    assert json.loads(done.stdout)["stages"][0]["strength"] == 0.01
    assert "xi0 is 0.01, not 0" in done.stderr


def test_first_stage_that_is_dense_warns_of_nothing(keys: Keys, tmp_path: Path) -> None:
    done = sora_ref("train", "--out", str(tmp_path / "run"), *as_flags(keys | {"schedule.stages": 1}), code=0)
    assert "warning" not in done.stderr + done.stdout
    assert re.search(r"stage 0, strength 0: [\d,]+ non-zero, memorization \d\.\d{4} \(100\.0 %\)", done.stdout)
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 5


def test_dropout_draws_anew_in_every_step_of_every_stage(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: set[int] = set()
    real = gradients.Dropout

    def spy(**options: Any) -> Any:
        steps.add(options["step"])
        return real(**options)

    monkeypatch.setattr(gradients, "Dropout", spy)
    run_once(tmp_path / "run", keys, schedule__stages=2)
    assert steps == set(range(1, last(tmp_path / "run").position.step + 1))
