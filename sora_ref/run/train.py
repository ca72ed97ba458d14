"""A run from beginning to end: its directory, its stages, resuming."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref import (
    Performance,
    Stage,
    StageResult,
    TrainState,
    count_parameters,
    generator,
    initial_state,
    sparsify,
    stages,
    zero_moments,
)
from sora_ref.checks import require
from sora_ref.errors import SoRAError
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config, differences, dump_config, load_config, with_absolute_paths
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.interrupt import stop_requested
from sora_ref.run.loop import Run, expected_labels, log_gates, train_stage
from sora_ref.run.records import cut_logs, stage_records
from sora_ref.run.setup import Labels, Say, base_digest, initial_params, make_setup, read_task
from sora_ref.run.summary import finish, read_summary
from sora_ref.run.text import encode
from sora_ref.run.versions import changed, versions
from sora_ref.storage.files import is_scrap, keep_lines, sweep, write_bytes, write_json, write_text


def train(
    config: Config, out: Path, *, resume: bool = False, quiet: bool = False, say: Say | None = None
) -> dict[str, Any]:
    """Train into the run directory `out`, or go on with what is there; returns the summary (see `summary.finish`).

    With `resume`, parameters end bit-identical to those of an uninterrupted run on the same kind of machine and
    versions; a difference in those is a warning, one in the configuration an error.  Ctrl-C finishes the step, writes a
    checkpoint and raises `Interrupted`; a kill loses the work since the last checkpoint.
    """
    say = say or (lambda line: None)
    config = with_absolute_paths(config)
    if resume:
        sweep(out)
    if out.is_dir() and not all(is_scrap(path) for path in out.iterdir()):
        require(resume, f"{out}: not empty: expected a new folder, or --resume to go on with its run")
        _same_config(out, config)
        complete = read_summary(out)
        if complete is not None:
            say(f"{out}: already complete")
            return complete

    task = read_task(config, say)
    labels = Labels(task.kind, task.labels, task.metrics)
    setup = make_setup(config, labels, say)
    data = {name: encode(examples, setup.tokenizer, setup.model.bert) for name, examples in task.splits.items()}
    require("train" in data, f"task {task.name} has no split train: expected examples to train on")
    run = Run(out, setup, task, data, base_digest(setup), quiet)
    require(
        any(split.startswith("validation") for split in data),
        f"task {task.name} has the splits {', '.join(data)}: expected a validation split",
    )

    start = _resume_point(run, say) if resume and ckpt.checkpoints(out) else None
    if start is None:
        start = _begin(run)
    with stop_requested() as stop:
        state, position, results = _stages(run, *start, stop, say)
    return finish(run.out, run.setup, run.data, state.params, position, results)


def _begin(run: Run) -> tuple[TrainState, Position]:
    """A fresh run directory, with a checkpoint of step 0 in it."""
    write_text(run.out / "config.toml", dump_config(run.config))
    write_json(run.out / "versions.json", versions() | {"base_sha256": run.base, "data": run.task.source})
    keep_lines(run.out / "metrics.jsonl", -1)
    keep_lines(run.out / "gates.jsonl", -1)
    if run.config.schedule is not None:
        chosen = [run.task.splits["train"][row].id for row in _memorization_rows(run)]
        write_json(run.out / "memorization_ids.json", chosen)
    state, position = initial_state(initial_params(run.setup)), Position()
    log_gates(run, state, position)
    run.save(state, position)
    return state, position


def _resume_point(run: Run, say: Say) -> tuple[TrainState, Position]:
    """The state of the last checkpoint, after the logs have been cut back to it."""
    found = ckpt.checkpoints(run.out)
    try:
        trained = ckpt.read_checkpoint(found[-1])
    except SoRAError as error:
        raise ckpt.describe(found[-1], error, found) from error
    require(trained.base == run.base, f"{run.setup.folder}: its weights are not those the run began with")
    expected = {name: tuple(value.shape) for name, value in initial_params(run.setup).items()}
    same = trained.scales == run.setup.scales and expected == {n: v.shape for n, v in trained.params.items()}
    require(same, f"{found[-1]}: its parameters are not those of {run.out / 'config.toml'}")
    for line in changed(run.out / "versions.json"):
        say(f"warning: {line}; the resumed run may differ in its last bits")
    cut_logs(run.out, trained.position.step)
    say(f"{run.out}: resumed at step {trained.position.step}")
    return ckpt.state_of(run.setup, trained), trained.position


def _same_config(out: Path, config: Config) -> None:
    before = load_config(out / "config.toml", {})
    different = differences(before, config)
    require(
        not different, f"{out}: began with another {', '.join(different)}: expected the configuration it began with"
    )


def _stages(
    run: Run, state: TrainState, position: Position, stop: threading.Event, say: Say
) -> tuple[TrainState, Position, list[dict[str, Any]]]:
    """Every stage that is left: one for a plain run, several for the sparsifying scheduler."""
    schedule = run.config.schedule
    if schedule is None:
        state, position = train_stage(run, state, position, Stage(0, run.config.gate.strength), stop)
        return state, position, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = stages(schedule.strengths())
    for warning in caught:
        say(f"warning: {warning.message}")
    chosen = run.data["train"].take(_memorization_rows(run))
    at = position

    def train_one(state: TrainState, stage: Stage) -> TrainState:
        nonlocal at
        if stage.k > at.stage:
            moments = {name: zero_moments(theta) for name, theta in state.params.items()}
            state = TrainState(state.params, moments, 0) if schedule.reset_moments else state
            at = replace(at, stage=stage.k, stage_step=0)
        state, at = train_stage(run, state, at, stage, stop)
        return state

    def measure(state: TrainState) -> Performance:
        adapters = run.setup.adapters(state.params)
        metric = run.setup.labels.metrics[0]
        memorized, generalized = (
            score(run.setup.labels, predict_logits(run.setup, state.params, part), expected_labels(part))[metric]
            for part in (chosen, run.data[run.selection])
        )
        nonzero = count_parameters(adapters, hidden=run.setup.model.bert.hidden_size).with_gates
        return Performance(nonzero, memorized, generalized)

    done = stage_records(run.out)
    require(
        len(done) >= position.stage,
        f"{run.out / 'metrics.jsonl'}: results of {len(done)} stages: expected those of all {position.stage} done",
    )
    dense = _performance(done[0]["performance"]) if done else None
    left = [stage for stage in plan if stage.k >= len(done)]
    for reached, result in sparsify(state, left, train_one, measure, dense):
        state = reached
        trained = ckpt.trained_of(run.setup, state, at, run.base, moments=False)
        write_bytes(run.out / "stages" / f"stage-{result.stage.k:02d}.safetensors", ckpt.checkpoint_bytes(trained))
        run.log({"step": at.step, "kind": "stage", **_stage_record(result)})
        run.save(state, at)
    return state, at, stage_records(run.out)


def _performance(logged: Mapping[str, Any]) -> Performance:
    """A logged performance; the log has null for a number that is undefined."""
    numbers = (logged["memorization"], logged["generalization"])
    return Performance(logged["nonzero"], *(math.nan if number is None else number for number in numbers))


def _stage_record(result: StageResult) -> dict[str, Any]:
    return {
        "stage": result.stage.k,
        "strength": result.stage.xi,
        "performance": result.performance._asdict(),
        "memorization_percent": result.memorization_percent,
        "generalization_percent": result.generalization_percent,
    }


def _memorization_rows(run: Run) -> list[int]:
    """The fixed training examples that memorization is measured on."""
    schedule = run.config.schedule
    examples = 0 if schedule is None else schedule.memorization_examples
    order = np.argsort(generator(run.config.seed, "memorization").random(len(run.data["train"].ids)), kind="stable")
    return sorted(order[:examples].tolist())
