"""The training loop: stages, optimiser steps, logs, checkpoints, interruption and resuming."""

from __future__ import annotations

import math
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sora_ref import (
    Performance,
    Rates,
    Stage,
    StageResult,
    TrainState,
    combine_microbatches,
    count_parameters,
    generator,
    initial_state,
    sparsify,
    stages,
    training_step,
    zero_moments,
)
from sora_ref.checks import require
from sora_ref.errors import SoRAError
from sora_ref.models import Dropout, classifier_backward, classifier_forward, cross_entropy, squared_error
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config, differences, dump_config, load_config
from sora_ref.run.data import Task
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.files import append_lines, keep_lines, read_lines, write_bytes, write_json, write_text
from sora_ref.run.interrupt import Interrupted, stop_requested
from sora_ref.run.setup import Labels, Say, Setup, base_digest, initial_params, make_setup, read_task
from sora_ref.run.summary import finish, read_summary
from sora_ref.run.text import Encoded, encode, epoch_batches, microbatches, pad
from sora_ref.run.versions import changed, versions
from sora_ref.run.workers import Each, worker_pool
from sora_ref.step import GATE_SUFFIX


@dataclass(frozen=True)
class Run:
    """A run directory with what is in memory of it."""

    out: Path
    setup: Setup
    task: Task
    data: dict[str, Encoded]
    base: str
    quiet: bool

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.setup.config

    @property
    def selection(self) -> str:
        """The split that generalization is measured on: the first whose name begins with "validation"."""
        return next(split for split in self.data if split.startswith("validation"))

    def save(self, state: TrainState, position: Position) -> None:
        """Write the checkpoint of this position."""
        ckpt.save(self.out, ckpt.trained_of(self.setup, state, position, self.base, moments=True))

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl."""
        append_lines(self.out / "metrics.jsonl", [record])


def train(
    config: Config, out: Path, *, resume: bool = False, quiet: bool = False, say: Say | None = None
) -> dict[str, Any]:
    """Train into the run directory `out`, or go on with what is there; returns the summary (see `summary.finish`).

    With `resume`, parameters end bit-identical to those of an uninterrupted run on the same kind of machine and
    versions; a difference in those is a warning, one in the configuration an error.  Ctrl-C finishes the step, writes a
    checkpoint and raises `Interrupted`; a kill loses the work since the last checkpoint.
    """
    say = say or (lambda line: None)
    complete = read_summary(out)
    if complete is not None and resume:
        _same_config(out, config)
        say(f"{out}: already complete")
        return complete
    if out.exists() and not resume:
        require(not any(out.iterdir()), f"{out}: not empty: expected a new folder, or --resume to go on with its run")

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
        state, position, results = _stages(run, *start, stop)
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
    _log_gates(run, state, position)
    run.save(state, position)
    return state, position


def _resume_point(run: Run, say: Say) -> tuple[TrainState, Position]:
    """The state of the last checkpoint, after the logs have been cut back to it."""
    _same_config(run.out, run.config)
    found = ckpt.checkpoints(run.out)
    try:
        trained = ckpt.read_checkpoint(found[-1])
    except SoRAError as error:
        raise ckpt.describe(found[-1], error, found) from error
    require(trained.base == run.base, f"{run.setup.folder}: its weights are not those the run began with")
    expected = set(initial_params(run.setup))
    require(set(trained.params) == expected, f"{found[-1]}: its parameters are not those of {run.out / 'config.toml'}")
    for line in changed(run.out / "versions.json"):
        say(f"warning: {line}; the resumed run may differ in its last bits")
    for log in ("metrics.jsonl", "gates.jsonl"):
        keep_lines(run.out / log, trained.position.step)
    say(f"{run.out}: resumed at step {trained.position.step}")
    return ckpt.state_of(run.setup, trained), trained.position


def _same_config(out: Path, config: Config) -> None:
    before = load_config(out / "config.toml", {})
    different = differences(before, config)
    require(
        not different, f"{out}: began with another {', '.join(different)}: expected the configuration it began with"
    )


def _stages(
    run: Run, state: TrainState, position: Position, stop: threading.Event
) -> tuple[TrainState, Position, list[dict[str, Any]]]:
    """Every stage that is left: one for a plain run, several for the sparsifying scheduler."""
    schedule = run.config.schedule
    if schedule is None:
        state, position = _train_stage(run, state, position, Stage(0, run.config.gate.strength), stop)
        return state, position, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = stages(schedule.strengths())
    if caught and not run.quiet:
        tqdm.write(f"warning: {caught[0].message}")
    chosen = run.data["train"].take(_memorization_rows(run))
    at = position

    def train_one(state: TrainState, stage: Stage) -> TrainState:
        nonlocal at
        if stage.k > at.stage:
            moments = {name: zero_moments(theta) for name, theta in state.params.items()}
            state = TrainState(state.params, moments, 0) if schedule.reset_moments else state
            at = replace(at, stage=stage.k, stage_step=0)
        state, at = _train_stage(run, state, at, stage, stop)
        return state

    def measure(state: TrainState) -> Performance:
        adapters = run.setup.adapters(state.params)
        metric = run.setup.labels.metrics[0]
        memorized, generalized = (
            score(run.setup.labels, predict_logits(run.setup, state.params, part), _expected(part))[metric]
            for part in (chosen, run.data[run.selection])
        )
        nonzero = count_parameters(adapters, hidden=run.setup.model.bert.hidden_size).with_gates
        return Performance(nonzero, memorized, generalized)

    done = [record for record in read_lines(run.out / "metrics.jsonl") if record["kind"] == "stage"]
    dense = Performance(**done[0]["performance"]) if done else None
    left = [stage for stage in plan if stage.k >= len(done)]
    for reached, result in sparsify(state, left, train_one, measure, dense):
        state = reached
        trained = ckpt.trained_of(run.setup, state, at, run.base, moments=False)
        write_bytes(run.out / "stages" / f"stage-{result.stage.k:02d}.safetensors", ckpt.checkpoint_bytes(trained))
        run.log({"step": at.step, "kind": "stage", **_stage_record(result)})
        run.save(state, at)
    records = [record for record in read_lines(run.out / "metrics.jsonl") if record["kind"] == "stage"]
    return state, at, records


def _stage_record(result: StageResult) -> dict[str, Any]:
    return {
        "stage": result.stage.k,
        "strength": result.stage.xi,
        "performance": result.performance._asdict(),
        "memorization_percent": result.memorization_percent,
        "generalization_percent": result.generalization_percent,
    }


def _train_stage(
    run: Run, state: TrainState, position: Position, stage: Stage, stop: threading.Event
) -> tuple[TrainState, Position]:
    """The steps of one stage that are left, from `position.stage_step` on."""
    config, setup, data = run.config, run.setup, run.data["train"]
    epochs = config.schedule.epochs if config.schedule is not None and stage.k > 0 else config.train.epochs
    first_epoch = 0 if stage.k == 0 else config.train.epochs + (stage.k - 1) * epochs
    per_epoch = math.ceil(len(data.ids) / config.train.batch)
    total = per_epoch * epochs
    lr, gate_lr = config.learning_rates(total)
    recipe = config.recipe()
    title = run.out.name if config.schedule is None else f"{run.out.name} stage {stage.k}"
    bar = tqdm(total=total, initial=position.stage_step, desc=title, unit="step", disable=run.quiet, mininterval=1.0)

    with bar, worker_pool(config.workers) as each:
        for epoch in range(position.stage_step // per_epoch, epochs):
            order = epoch_batches(
                data.lengths, config.train.batch, config.train.bucket_batches, config.seed, first_epoch + epoch
            )
            for rows in order[position.stage_step - epoch * per_epoch :]:
                began = time.perf_counter()
                t = position.stage_step + 1
                rates = Rates(lr(t), gate_lr(t), stage.xi)
                loss, grads = _loss_and_gradients(run, state, rows, position.step + 1, each)
                state, norm = training_step(state, grads, rates, recipe, setup.ops)
                amount = recipe.gate_rule.scalar_amount(stage.xi, rates.gate_lr)
                position = replace(
                    position,
                    step=position.step + 1,
                    stage_step=t,
                    loss_sum=position.loss_sum + loss,
                    loss_steps=position.loss_steps + 1,
                    seconds=position.seconds + time.perf_counter() - began,
                    threshold_sum=position.threshold_sum + (amount or 0.0),
                )
                bar.update()
                if t % config.train.log_every == 0 or t == total:
                    position = _log_training(run, state, position, stage, rates, norm, bar)
                if t % per_epoch == 0:
                    _log_validation(run, state, position, stage)
                if t % config.train.checkpoint_every == 0 or t == total or stop.is_set():
                    run.save(state, position)
                if stop.is_set():
                    raise Interrupted(f"{run.out}: stopped at step {position.step}; --resume goes on from there")
    return state, position


def _loss_and_gradients(
    run: Run, state: TrainState, rows: np.ndarray, step: int, each: Each
) -> tuple[float, dict[str, Any]]:
    """Mean loss and mean gradients over the optimiser batch `rows` (SORA-STEP-1, 2)."""
    setup, data, config = run.setup, run.data["train"], run.config
    params = setup.all_params(state.params)
    loss_of = cross_entropy if setup.labels.kind == "classification" else squared_error

    def one(part: np.ndarray) -> tuple[float, dict[str, Any]]:
        dropout = Dropout(
            seed=config.seed,
            step=step,
            hidden=config.train.hidden_dropout,
            attention=config.train.attention_dropout,
            adapter=config.adapter.dropout,
            examples=part.tolist(),
            lengths=data.lengths[part].tolist(),
            from_host=setup.backend.from_host,
        )
        batch = pad(data, part, setup.backend)
        logits, cache = classifier_forward(
            setup.model, params, batch, scales=setup.scales, ops=setup.ops, dropout=dropout
        )
        loss, dlogits = loss_of(logits, setup.backend.from_host(_expected(data, setup)[part]))
        return float(setup.backend.to_host(loss)), classifier_backward(dlogits, cache, state.params.keys())

    parts = list(each(one, microbatches(data.lengths, rows, config.train.microbatch_tokens)))
    loss = sum(part_loss for part_loss, _ in parts) / len(rows)
    if not math.isfinite(loss):
        raise SoRAError(
            f"{run.out}: the loss is {loss} at step {step}: expected a finite one; "
            "lower train.lr or look at the data; the last checkpoint is untouched"
        )
    return loss, combine_microbatches([grads for _, grads in parts], len(rows))


def _expected(data: Encoded, setup: Setup | None = None) -> np.ndarray:
    """The labels, in the model's dtype for regression."""
    require(data.labels is not None, "an example has no label: expected labels on every example of the split")
    labels = np.asarray(data.labels)
    return labels.astype(setup.config.dtype) if setup is not None and labels.dtype.kind == "f" else labels


def _memorization_rows(run: Run) -> list[int]:
    """The fixed training examples that memorization is measured on."""
    schedule = run.config.schedule
    examples = 0 if schedule is None else schedule.memorization_examples
    order = np.argsort(generator(run.config.seed, "memorization").random(len(run.data["train"].ids)), kind="stable")
    return sorted(order[:examples].tolist())


def _log_training(
    run: Run, state: TrainState, position: Position, stage: Stage, rates: Rates, norm: Any, bar: Any
) -> Position:
    loss = position.loss_sum / position.loss_steps
    zero, gates = _log_gates(run, state, position)
    record = {"step": position.step, "kind": "train", "stage": stage.k, "loss": loss, **rates._asdict()}
    record |= {"norm": None if norm is None else float(run.setup.backend.to_host(norm))}
    run.log(record | {"gates_at_zero": zero, "gates": gates})
    bar.set_postfix_str(f"loss {loss:.3f}, gates at zero {zero}/{gates}")
    return replace(position, loss_sum=0.0, loss_steps=0)


def _log_gates(run: Run, state: TrainState, position: Position) -> tuple[int, int]:
    """Append every gate's value; returns how many are zero, and how many there are."""
    to_host = run.setup.backend.to_host
    gates = {name: to_host(g) for name, g in state.params.items() if name.endswith(GATE_SUFFIX)}
    if gates:
        values = {name.removesuffix(GATE_SUFFIX): g.tolist() for name, g in gates.items()}
        append_lines(run.out / "gates.jsonl", [{"step": position.step, "gates": values}])
    return sum(int(np.count_nonzero(g == 0)) for g in gates.values()), sum(g.size for g in gates.values())


def _log_validation(run: Run, state: TrainState, position: Position, stage: Stage) -> None:
    for split, part in run.data.items():
        if split.startswith("validation"):
            found = score(run.setup.labels, predict_logits(run.setup, state.params, part), _expected(part))
            run.log({"step": position.step, "kind": "validation", "stage": stage.k, "split": split, **found})
