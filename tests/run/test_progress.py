"""How far a run is, when it stops, what it keeps, and what it scores."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import sample
from tiny_run import (
    EPOCH,
    SCHEDULE,
    SIZES,
    arrays_of,
    interrupted,
    killed_at,
    last,
    make_config,
    make_keys,
    outcome,
    records,
    run_once,
)

from sora_ref.errors import SoRAError
from sora_ref.run import loop, watch
from sora_ref.run.checkpoint import Position, checkpoint_path, checkpoints, read_checkpoint
from sora_ref.run.inspect import inspect_path
from sora_ref.run.progress import scored, steps_in_all, stops_early
from sora_ref.run.summary import read_summary, summary_lines
from sora_ref.run.trained import load_trained

Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("progress"))


@contextmanager
def scores(*given: float) -> Iterator[None]:
    """The accuracies of the evaluations in training, by their epochs."""
    real = watch.score

    def score(labels: Any, logits: Any, expected: Any) -> dict[str, float]:
        return real(labels, logits, expected) | {"accuracy": given[len(calls)]}

    calls: list[int] = []

    def counted(run: Any, state: Any, position: Any, stage: Any) -> Any:
        calls[:] = [0] * ((position.step + EPOCH - 1) // EPOCH - 1)
        return evaluate(run, state, position, stage)

    evaluate = loop.validate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "score", score)
        patch.setattr(loop, "validate", counted)
        yield


# Early stopping and the best parameters.

PATIENT = {"train.epochs": 8, "train.early_stopping": 2, "train.keep_best": True}
SCORES = (0.5, 0.7, 0.7, 0.6, 0.9, 0.9, 0.9, 0.9)  # the best of the first four is the second


def test_run_ends_after_so_many_evaluations_without_a_better_one_and_keeps_the_best(keys: Keys, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with scores(*SCORES):
        summary = run_once(run, keys | PATIENT)
    assert summary["steps"] == last(run).position.step == 4 * EPOCH
    best = {"step": 2 * EPOCH, "split": "validation", "metric": "accuracy", "score": 0.7, "file": "best.safetensors"}
    assert summary["best"] == best
    assert "  best: step 10, validation accuracy 0.7000; best.safetensors has its parameters" in summary_lines(summary)
    assert read_summary(run) == json.loads(json.dumps(summary))
    assert records(run, "train")[-1]["step"] == records(run, "validation")[-1]["step"] == 4 * EPOCH

    with scores(*SCORES):
        run_once(tmp_path / "short", keys | PATIENT | {"train.checkpoint_every": EPOCH, "train.early_stopping": 1})
    at_best = read_checkpoint(checkpoint_path(tmp_path / "short", 2 * EPOCH))
    params = {name: bits for name, bits in arrays_of(at_best).items() if name.startswith("params/")}
    assert arrays_of(read_checkpoint(run / "best.safetensors")) == params
    loaded = load_trained(run / "best.safetensors")
    assert loaded.trained.position.step == 2 * EPOCH
    assert loaded.unfinished is None


@pytest.mark.parametrize("step", sample([*range(1, 4 * EPOCH + 1, 3), 4 * EPOCH], 7))
def test_run_killed_in_any_step_stops_where_it_would_have_with_the_same_bits(
    keys: Keys, tmp_path: Path, step: int
) -> None:
    with scores(*SCORES):
        run_once(tmp_path / "whole", keys | PATIENT)
    with scores(*SCORES), killed_at(step), pytest.raises(BrokenPipeError):
        run_once(tmp_path / "run", keys | PATIENT)
    with scores(*SCORES):
        run_once(tmp_path / "run", keys | PATIENT, resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    both = [(tmp_path / name / "best.safetensors") for name in ("run", "whole")]
    assert arrays_of(read_checkpoint(both[0])) == arrays_of(read_checkpoint(both[1]))


def test_run_killed_when_it_had_stopped_makes_no_more_steps(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise BrokenPipeError

    with scores(*SCORES), monkeypatch.context() as patch:
        patch.setattr("sora_ref.run.training.finish", dies)
        with pytest.raises(BrokenPipeError):
            run_once(tmp_path / "run", keys | PATIENT)
    with killed_at(1):
        summary = run_once(tmp_path / "run", keys | PATIENT, resume=True)
    assert summary["steps"] == 4 * EPOCH


@given(found=st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan]), max_size=12), patience=st.integers(1, 4))
def test_best_is_the_first_of_the_greatest_and_patience_counts_since(found: list[float], patience: int) -> None:
    position = Position()
    for step, score in enumerate(found, start=1):
        position = scored(replace(position, step=step), score)
    numbers = [score for score in found if not math.isnan(score)]
    if numbers:
        assert position.best_score == max(numbers)
        assert position.best_step == 1 + found.index(max(numbers))
        assert position.evaluations_since == len(found) - position.best_step
    else:
        assert (position.best_score, position.evaluations_since) == (None, len(found))
    config = make_config({"train.early_stopping": patience})
    assert stops_early(config, position) == (position.evaluations_since >= patience)
    assert not stops_early(make_config({}), position)


def test_scores_that_are_undefined_keep_nothing_and_stop_the_run(keys: Keys, tmp_path: Path) -> None:
    with scores(math.nan, math.nan, 1.0):
        summary = run_once(tmp_path / "run", keys | PATIENT)
    assert (summary["steps"], summary["best"]) == (2 * EPOCH, None)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_best_is_forgotten_where_changed_data_are_accepted(keys: Keys, tmp_path: Path, killed: bool) -> None:
    """A score on other data is no better and no worse."""
    keys = make_keys(tmp_path / "own") | PATIENT
    run = tmp_path / "run"
    with scores(0.9, 0.1, 0.2, 0.3, 0.1, 0.1), killed_at(EPOCH + 3), pytest.raises(BrokenPipeError):
        run_once(run, keys)
    path = tmp_path / "own" / "task" / "validation.tsv"
    path.write_text(path.read_text().replace("film", "cast"))
    if killed:  # before its first checkpoint on the new data
        with killed_at(1), pytest.raises(BrokenPipeError):
            run_once(run, keys, resume=True, accept=True)
    with scores(0.9, 0.1, 0.2, 0.3, 0.1, 0.1):
        summary = run_once(run, keys, resume=True, accept=not killed)
    assert (summary["steps"], summary["best"]["step"]) == (6 * EPOCH, 4 * EPOCH)


@pytest.mark.parametrize("key", ["max_steps", "early_stopping", "keep_best"])
def test_stages_take_none_of_these_keys(keys: Keys, key: str) -> None:
    with pytest.raises(SoRAError, match=rf"train\.{key}: is of a run without stages"):
        make_config(keys | SCHEDULE, **{f"train__{key}": True if key == "keep_best" else 3})


# The number of steps.


@pytest.mark.parametrize("steps", [1, 4, EPOCH, 7, 2 * EPOCH, 99])
def test_run_makes_at_most_max_steps_and_ends_as_any_other(keys: Keys, tmp_path: Path, steps: int) -> None:
    made = min(steps, 2 * EPOCH)
    summary = run_once(tmp_path / "run", keys, train__max_steps=steps)
    assert summary["steps"] == last(tmp_path / "run").position.step == made
    assert records(tmp_path / "run", "validation")[-1]["step"] == records(tmp_path / "run", "train")[-1]["step"] == made
    lr, _ = make_config(keys).learning_rates(made)
    assert records(tmp_path / "run", "train")[-1]["lr"] == lr(made)  # the rates of a run of that length
    if made > 1:
        with killed_at(made), pytest.raises(BrokenPipeError):
            run_once(tmp_path / "cut", keys, train__max_steps=steps)
        run_once(tmp_path / "cut", keys, resume=True, train__max_steps=steps)
        assert outcome(tmp_path / "cut") == outcome(tmp_path / "run")


@pytest.mark.parametrize("more", [{}, SCHEDULE, {"train.max_steps": 3}, SCHEDULE | {"train.epochs": 4}])
def test_steps_in_all_are_those_that_are_made(keys: Keys, tmp_path: Path, more: Keys) -> None:
    config = make_config(keys | more)
    summary = run_once(tmp_path / "run", keys | more)
    assert steps_in_all(config, SIZES["train"]) == summary["steps"] == last(tmp_path / "run").position.planned


# What is said of a run that is not finished.


def test_unfinished_run_says_so_to_every_reader_and_its_parts_do_not(keys: Keys, tmp_path: Path) -> None:
    run, said = interrupted(tmp_path / "run", keys), list[str]()
    assert load_trained(run, say=said.append).unfinished == {"step": 3, "of": 10}
    assert said == [f"{run}: the run is not finished: this is step 3 of 10"]
    facts, lines = inspect_path(run)
    assert facts["unfinished"] == {"step": 3, "of": 10}
    assert lines[1] == "the run is not finished: this is step 3 of 10"
    assert load_trained(checkpoints(run)[-1], say=said.append).unfinished is None
    run_once(run, keys, resume=True)
    assert load_trained(run, say=said.append).unfinished is None
    assert "unfinished" not in inspect_path(run)[0]
    assert len(said) == 1


def test_checkpoint_of_before_these_facts_is_read_and_resumed(keys: Keys, tmp_path: Path) -> None:
    from sora_ref.storage.sealed import read_sealed, sealed_bytes

    run = interrupted(tmp_path / "run", keys)
    path = checkpoints(run)[-1]
    tensors, facts = read_sealed(path, "a checkpoint")
    new = ("planned", "best_score", "best_step", "evaluations_since")
    facts["position"] = {name: value for name, value in facts["position"].items() if name not in new}
    path.write_bytes(sealed_bytes(tensors, facts))
    said: list[str] = []
    assert load_trained(run, say=said.append).unfinished == {"step": 3}
    assert said == [f"{run}: the run is not finished: this is step 3"]
    run_once(run, keys, resume=True)
    run_once(tmp_path / "whole", keys)
    assert outcome(run) == outcome(tmp_path / "whole")


# The test split.


def test_test_split_is_scored_only_when_asked(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, train__score_test=False)
    assert set(summary["scores"]) == {"validation"}
    assert summary["unscored"] == ["test"]
    (line,) = [line for line in summary_lines(summary) if "not scored" in line]
    assert re.fullmatch(r"  test: not scored; sora-ref eval RUN --split test does, or --score-test when training", line)
    asked = run_once(tmp_path / "asked", keys)
    assert set(asked["scores"]) == {"validation", "test"}
    assert asked["unscored"] == []
    assert arrays_of(last(tmp_path / "run")) == arrays_of(last(tmp_path / "asked"))


def test_test_split_may_be_asked_for_on_resuming(keys: Keys, tmp_path: Path) -> None:
    run = interrupted(tmp_path / "run", keys, train__score_test=False)
    assert set(run_once(run, keys, resume=True)["scores"]) == {"validation", "test"}
