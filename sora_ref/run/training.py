"""A run from beginning to end: its directory, its stages, resuming."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sora_ref import (
    Performance,
    Stage,
    TrainState,
    begin_stage,
    count_parameters,
    generator,
    initial_state,
    sparsify,
    stages,
)
from sora_ref.algorithm1 import StageResult
from sora_ref.errors import SoRAError, shown
from sora_ref.preconditions import require
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.base_model import with_pinned_model
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config, differences, dump_config, load_config, with_absolute_paths
from sora_ref.run.data import Labels, Task
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.found import Found, clear_outset, look, refusal, sweep
from sora_ref.run.initial import initial_params
from sora_ref.run.input_digests import (
    INPUTS,
    Input,
    Inputs,
    digests,
    read_inputs,
    require_unchanged,
    write_inputs,
)
from sora_ref.run.inputs import WEIGHTS, input_files
from sora_ref.run.interrupt import Stop, stop_requested
from sora_ref.run.loggers import opened, require_loggers
from sora_ref.run.loop import Run, expected_labels, log_gates, train_stage
from sora_ref.run.progress import best_of, steps_in_all
from sora_ref.run.records import cut_logs, stage_records
from sora_ref.run.say import Say
from sora_ref.run.setup import make_setup
from sora_ref.run.summary import finish, read_summary
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.versions import changed, versions
from sora_ref.storage.files import write_bytes, write_json, write_text
from sora_ref.storage.lock import only_writer

Resume = bool | Literal["if-any"]


def train(
    config: Config,
    out: Path,
    *,
    resume: Resume = False,
    accept_changed_data: bool = False,
    quiet: bool = False,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train into the run directory `out`, or go on with what is there; returns the summary (see `summary.finish`).

    resume: True goes on with a run and refuses where there is none; False begins one and refuses where there is
    something; "if-any" goes on where there is a run and begins in an empty folder.
    accept_changed_data: go on although files that the run has read are other ones now, and record that.

    A resumed run's parameters end bit-identical to those of an uninterrupted run on the same kind of machine and
    versions; a difference in those is a warning, one in the configuration or in a file that was read an error.  Ctrl-C,
    SIGTERM and SIGHUP finish the step, write a checkpoint and raise `Interrupted`; a kill loses the work since the last
    checkpoint.  One process at a time trains in a directory.
    """
    say = say or (lambda line: None)
    config = with_pinned_model(with_absolute_paths(config), say)
    require_loggers(config.train.loggers)
    complete = _admitted(out, config, resume)
    if complete is None:
        with only_writer(out):
            complete = _admitted(out, config, resume)  # again: another process may have been here meanwhile
            if complete is None:
                sweep(out)
                return _train(config, out, accept_changed_data, quiet, say)
    say(f"{out}: already complete")
    return complete


def _admitted(out: Path, config: Config, resume: Resume) -> dict[str, Any] | None:
    """The summary of the run in `out` if it is complete; SoRAError unless this may be trained there."""
    found = look(out)
    fresh = found in (Found.NOTHING, Found.OUTSET)
    if not resume:
        require(fresh, f"{out}: not empty: expected a new folder, or --resume to go on with its run")
    elif not (fresh and resume == "if-any"):
        require(found is Found.RUN, refusal(out, found))
    if fresh:
        return None
    _same_config(out, config)
    return read_summary(out)


def _train(config: Config, out: Path, accept: bool, quiet: bool, say: Say) -> dict[str, Any]:
    """Train in a folder that is ours: begin, or go on from the last checkpoint."""
    files = input_files(config, say)
    now = digests(files)
    resuming = look(out) is Found.RUN
    before = _same_inputs(out, now, accept, say) if resuming else None

    task = read_task(config, say)
    labels = Labels(task.kind, task.labels, task.metrics)
    _require_splits(task, config, say)
    setup = make_setup(config, labels, say)
    used = {name: part for name, part in task.splits.items() if config.train.score_test or not name.startswith("test")}
    data = {name: encode(examples, setup.tokenizer, setup.model.config) for name, examples in used.items()}
    for split, part in data.items():
        required = split == "train" or split.startswith("validation")
        require(
            part.labels is not None or not required,
            f"{split}: an example has no label: expected labels on every example, in a table in the column task.label "
            "(--label COLUMN)",
        )
    require_unchanged(now, files)
    run = Run(out, setup, task, data, now[WEIGHTS].sha256, quiet)

    with stop_requested() as stop:  # from the moment that there is a checkpoint to be had
        start = _resume_point(run, before, now, accept, say) if resuming else _begin(run, now)
        with opened(config.train.loggers, out, config, start[1].step, say) as loggers:
            state, position, results = _stages(replace(run, loggers=loggers), *start, stop, say)
    best = best_of(config, position, run.selection, labels.metrics[0])
    unscored = [name for name, part in task.splits.items() if name not in used and part[0].label is not None]
    return finish(run.out, run.setup, run.data, state.params, position, results, run.task.notes, best, unscored)


def _require_splits(task: Task, config: Config, say: Say) -> None:
    """SoRAError unless there are examples to train on and to validate on, and to test on where that is asked for.

    Test splits without labels are said to be left out.
    """
    listed = ", ".join(task.splits)
    for split, missing in (("train", "examples to train on"), ("validation", "a validation split")):
        have = any(name.startswith(split) for name in task.splits)
        few = split == "validation" and task.name == "table"
        hint = " (--validation FILE; ten different texts or more to train on have one drawn from them)" if few else ""
        require(have, f"task {task.name} has the splits {listed}: expected {missing}{hint}")
    tests = [name for name in task.splits if name.startswith("test")]
    require(
        bool(tests) or not config.train.score_test,
        f"task {task.name} has the splits {listed}: expected a test split to score, or no train.score_test "
        "(--score-test)",
    )
    for name in tests if config.train.score_test else ():
        if task.splits[name][0].label is None:
            say(f"warning: {name}: no labels, so it is not scored")


def _begin(run: Run, now: Mapping[str, Input]) -> tuple[TrainState, Position]:
    """A fresh run directory, with a checkpoint of step 0 in it."""
    clear_outset(run.out)
    write_json(
        run.out / "versions.json",
        versions() | {"base_sha256": run.base, "data": run.task.source, "notes": list(run.task.notes)},
    )
    write_inputs(run.out, Inputs(dict(now)))
    write_text(run.out / "config.toml", dump_config(run.config))
    if run.config.schedule is not None:
        chosen = [run.task.splits["train"][row].id for row in _memorization_rows(run)]
        write_json(run.out / "memorization_ids.json", chosen)
    planned = steps_in_all(run.config, len(run.data["train"].ids))
    state, position = initial_state(initial_params(run.setup)), Position(planned=planned)
    log_gates(run, state, position)
    run.save(state, position)
    return state, position


def _same_inputs(out: Path, now: Mapping[str, Input], accept: bool, say: Say) -> Inputs | None:
    """What the run says it has read, None where it does not say.

    SoRAError where a file of it is another one now, a warning where that is accepted.
    """
    before = read_inputs(out)
    if before is None:
        say(f"warning: {out / INPUTS}: no such file, so whether data and model are those of before is not known")
        return None
    for name, change in before.changes(now).items():
        sentence = before.sentence(name, change, now)
        require(accept, f"{sentence}: expected it as it was, or --accept-changed-data to go on all the same")
        say(f"warning: {sentence}; accepted")
    return before


def _resume_point(
    run: Run, before: Inputs | None, now: Mapping[str, Input], accept: bool, say: Say
) -> tuple[TrainState, Position]:
    """The state of the last checkpoint, after the logs have been cut back to it."""
    found = ckpt.checkpoints(run.out)
    try:
        trained = ckpt.read_checkpoint(found[-1])
    except SoRAError as error:
        raise ckpt.describe(found[-1], error, found) from error
    accepted = before is not None and any(WEIGHTS in each.files for each in before.accepted)
    same = accept or accepted or trained.base == run.base
    require(same, f"{run.setup.folder}: its weights are not those the run began with")
    names = run.setup.labels.names
    require(trained.labels.names == names, f"{found[-1]}: trained on other classes: expected {shown(names)}, as now")
    expected = {name: tuple(value.shape) for name, value in initial_params(run.setup).items()}
    same = trained.scales == run.setup.scales and expected == {n: v.shape for n, v in trained.params.items()}
    require(same, f"{found[-1]}: its parameters are not those of {run.out / 'config.toml'}")
    for line in changed(run.out / "versions.json"):
        say(f"warning: {line}; the resumed run may differ in its last bits")
    cut_logs(run.out, trained.position.step)
    ckpt.drop_old(run.out)
    position = replace(trained.position, planned=steps_in_all(run.config, len(run.data["train"].ids)))
    inputs = Inputs(dict(now)) if before is None else before
    if inputs.changes(now):
        inputs = inputs.accept(now, position.step)
    if inputs is not before:
        write_inputs(run.out, inputs)
    if any(each.step >= position.step for each in inputs.accepted):  # the checkpoint's scores are of other data
        position = replace(position, best_score=None, best_step=0, evaluations_since=0)
    say(f"{run.out}: resumed at step {position.step} of {position.planned}")
    return ckpt.state_of(run.setup, trained), position


def _same_config(out: Path, config: Config) -> None:
    before = load_config(out / "config.toml", {})
    different = differences(before, config)
    require(
        not different, f"{out}: began with another {', '.join(different)}: expected the configuration it began with"
    )


def _stages(
    run: Run, state: TrainState, position: Position, stop: Stop, say: Say
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
            state = begin_stage(state, reset_moments=schedule.reset_moments)
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
        nonzero = count_parameters(adapters, hidden=run.setup.model.config.hidden_size).with_gates
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
        "strength": result.stage.strength,
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
