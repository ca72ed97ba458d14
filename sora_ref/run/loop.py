"""The inner loop: optimiser steps, their logs and checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from tqdm import tqdm

from sora_ref import (
    Rates,
    Stage,
    TrainState,
    training_step,
)
from sora_ref.errors import SoRAError, printable
from sora_ref.models import Dropout, classifier_backward, classifier_forward, cross_entropy, squared_error
from sora_ref.names import adapter_names, module_of
from sora_ref.preconditions import require
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config
from sora_ref.run.data import Task
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.interrupt import Interrupted, Stop
from sora_ref.run.loggers import Loggers
from sora_ref.run.progress import BEST, scored, steps_of_epoch, steps_of_stage, stops_early
from sora_ref.run.setup import Setup
from sora_ref.run.text import Encoded, epoch_batches, microbatches, pad
from sora_ref.run.transfer import gather_to_host
from sora_ref.run.workers import ParallelMap, worker_pool
from sora_ref.storage.files import write_bytes
from sora_ref.storage.logs import append_lines

FP16_SCALE = 1024


@dataclass(frozen=True)
class Run:
    """A run directory with what is in memory of it."""

    out: Path
    setup: Setup
    task: Task
    data: dict[str, Encoded]
    base: str
    quiet: bool
    loggers: Loggers | None = None

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.setup.config

    @property
    def selection(self) -> str:
        """The split that generalization is measured on: the first whose name begins with "validation"."""
        return next(split for split in self.data if split.startswith("validation"))

    def save(self, state: TrainState, position: Position) -> None:
        """Write the checkpoint of this position; SoRAError, and the last one stays, where a parameter is no number."""
        trained = ckpt.trained_of(self.setup, state, position, self.base, moments=True)
        for name, value in trained.params.items():
            finite = np.isfinite(value).all()
            require(bool(finite), f"{self.out}: {name} is not finite at step {position.step}: lower train.lr")
        ckpt.save(self.out, trained)

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl, and pass on."""
        append_lines(self.out / "metrics.jsonl", [record])
        if self.loggers is not None:
            self.loggers.log(record)


def train_stage(
    run: Run, state: TrainState, position: Position, stage: Stage, stop: Stop
) -> tuple[TrainState, Position]:
    """The steps of one stage that are left, from `position.stage_step` on.

    On an asynchronous device (GPU), nothing waits but a log, a validation or a checkpoint: losses stay there
    until then, and go over in one transfer with the norm and the gates.
    """
    config, setup, data = run.config, run.setup, run.data["train"]
    epochs = config.schedule.epochs if config.schedule is not None and stage.k > 0 else config.train.epochs
    first_epoch = 0 if stage.k == 0 else config.train.epochs + (stage.k - 1) * epochs
    per_epoch, total = steps_of_epoch(config, len(data.ids)), steps_of_stage(config, len(data.ids), stage.k)
    if position.stage_step >= total or stops_early(config, position):
        return state, position
    lr, gate_lr = config.learning_rates(total)
    recipe = config.recipe(setup.model.architecture.decayed)
    name = printable(run.out.name).replace("\n", " ")
    title = name if config.schedule is None else f"{name} stage {stage.k}"
    unread: list[tuple[int, Any]] = []  # step and loss, still on the device
    bar = tqdm(total=total, initial=position.stage_step, desc=title, unit="step", disable=run.quiet, mininterval=1.0)

    with bar, worker_pool(setup.workers) as parallel_map:
        for epoch in range(position.stage_step // per_epoch, epochs):
            order = epoch_batches(
                data.lengths, config.train.batch, config.train.bucket_batches, config.seed, first_epoch + epoch
            )
            for rows in order[position.stage_step - epoch * per_epoch :]:
                began = time.perf_counter()
                t = position.stage_step + 1
                rates = Rates(lr(t), gate_lr(t), stage.strength)
                loss, grads = _loss_and_gradients(run, state, rows, position.step + 1, parallel_map)
                unread.append((position.step + 1, loss))
                with np.errstate(over="ignore", invalid="ignore"):
                    state, norm = training_step(state, grads, rates, recipe, setup.ops)
                amount = recipe.gate_rule.scalar_amount(stage.strength, rates.gate_lr)
                position = replace(
                    position,
                    step=position.step + 1,
                    stage_step=t,
                    threshold_sum=position.threshold_sum + (amount or 0.0),
                )
                log, stopped = t % config.train.log_every == 0 or t == total, stop.is_set()
                evaluate = t % per_epoch == 0 or t == total
                save = t % config.train.checkpoint_every == 0 or t == total or stopped
                seen: dict[str, np.ndarray] = {}
                if setup.backend.synchronous or log or save or evaluate:
                    losses, seen = _read(run, unread, _shown(run, state, norm) if log else {})
                    for loss in losses:
                        position = replace(
                            position, loss_sum=position.loss_sum + loss, loss_steps=position.loss_steps + 1
                        )
                    unread.clear()
                position = replace(position, seconds=position.seconds + time.perf_counter() - began)
                bar.update()
                if log:
                    position = _log_training(run, position, stage, rates, seen, bar)
                if evaluate:
                    position = _evaluate(run, state, position, stage)
                early = evaluate and stops_early(config, position)
                if early and not log:
                    _, seen = _read(run, unread, _shown(run, state, norm))
                    position = _log_training(run, position, stage, rates, seen, bar)
                if save or early:
                    run.save(state, position)
                if stopped:
                    sentence = f"{run.out}: stopped at step {position.step}; --resume goes on from there"
                    raise Interrupted(sentence, stop.number)
                if early or t == total:
                    return state, position
    return state, position


def _loss_and_gradients(
    run: Run, state: TrainState, rows: np.ndarray, step: int, parallel_map: ParallelMap
) -> tuple[Any, dict[str, Any]]:
    """Mean loss and mean gradients over the optimiser batch `rows` (SORA-STEP-1, 2).

    The loss is a finite number; or, on an asynchronous device (GPU), a 0-d float64 array there.  Gradients are
    scaled by a power of two on their way where the precision is fp16, whose smallest normal number is 6e-5.
    """
    setup, data, config = run.setup, run.data["train"], run.config
    params = setup.all_params(state.params)
    scale = FP16_SCALE if config.precision == "fp16" else 1
    loss_of = cross_entropy if setup.labels.kind == "classification" else squared_error

    @np.errstate(over="ignore", invalid="ignore")  # a loss that is no number is said below, in a sentence
    def one(part: np.ndarray) -> tuple[Any, dict[str, Any]]:
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
        logits, cache = classifier_forward(setup.model, params, batch, scales=setup.scales, ops=ops, dropout=dropout)
        loss, dlogits = loss_of(logits, setup.backend.from_host(expected_labels(data, setup)[part]))
        dlogits = dlogits if scale == 1 else dlogits * scale
        xp = array_namespace(loss)
        loss = float(setup.backend.to_host(loss)) if setup.backend.synchronous else xp.astype(loss, xp.float64)
        return loss, classifier_backward(dlogits, cache, state.params.keys())

    ops = setup.ops if config.adapter.dropout else setup.folded(setup.ops, state.params, parallel_map)
    shared = setup.backend.synchronous
    parts = list(parallel_map(one, microbatches(data.lengths, rows, setup.microbatch_tokens, shared=shared)))
    loss = sum((part_loss for part_loss, _ in parts[1:]), start=parts[0][0]) / len(rows)
    if setup.backend.synchronous:
        _require_finite(run, loss, step)
    return loss, setup.ops.combine_microbatches([grads for _, grads in parts], len(rows) * scale)


def _require_finite(run: Run, loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise SoRAError(
            f"{run.out}: the loss is {loss} at step {step}: expected a finite one; "
            "lower train.lr or look at the data; the last checkpoint is untouched"
        )


def _read(run: Run, unread: list[tuple[int, Any]], shown: dict[str, Any]) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses and what else is to be shown, on the host by one transfer; SoRAError at the first loss not finite."""
    if run.setup.backend.synchronous:
        losses, fetched = [loss for _, loss in unread], gather_to_host(run.setup.backend, list(shown.values()))
    else:
        found = gather_to_host(run.setup.backend, [*(loss for _, loss in unread), *shown.values()])
        losses, fetched = [float(loss) for loss in found[: len(unread)]], found[len(unread) :]
    for (step, _), loss in zip(unread, losses, strict=True):
        _require_finite(run, loss, step)
    return losses, dict(zip(shown, fetched, strict=True))


def expected_labels(data: Encoded, setup: Setup | None = None) -> np.ndarray:
    """The labels, in the model's dtype for regression."""
    require(data.labels is not None, "an example has no label: expected labels on every example of the split")
    labels = np.asarray(data.labels)
    return labels.astype(setup.config.dtype) if setup is not None and labels.dtype.kind == "f" else labels


def _shown(run: Run, state: TrainState, norm: Any) -> dict[str, Any]:
    """What a log of training shows besides the loss: the gates by name, and "norm" where gradients are clipped."""
    return _gates(run, state) | ({} if norm is None else {"norm": norm})


def _gates(run: Run, state: TrainState) -> dict[str, Any]:
    names = [adapter_names(module).g for module in run.setup.scales]
    return {name: state.params[name] for name in names if name in state.params}


def _log_training(
    run: Run, position: Position, stage: Stage, rates: Rates, seen: dict[str, np.ndarray], bar: Any
) -> Position:
    loss, norm = position.loss_sum / position.loss_steps, seen.pop("norm", None)
    zero, gates = _write_gates(run, seen, position)
    record = {"step": position.step, "kind": "train", "stage": stage.k, "loss": loss, **rates._asdict()}
    record |= {"norm": None if norm is None else float(norm)}
    run.log(record | {"gates_at_zero": zero, "gates": gates})
    bar.set_postfix_str(f"loss {loss:.3f}, gates at zero {zero}/{gates}")
    return replace(position, loss_sum=0.0, loss_steps=0)


def log_gates(run: Run, state: TrainState, position: Position) -> None:
    """Append every gate's value."""
    gates = _gates(run, state)
    _write_gates(run, dict(zip(gates, gather_to_host(run.setup.backend, list(gates.values())), strict=True)), position)


def _write_gates(run: Run, gates: dict[str, np.ndarray], position: Position) -> tuple[int, int]:
    """Append every gate's value; returns how many are zero, and how many there are."""
    if gates:
        values = {module_of(name): g.tolist() for name, g in gates.items()}
        append_lines(run.out / "gates.jsonl", [{"step": position.step, "gates": values}])
    return sum(int(np.count_nonzero(g == 0)) for g in gates.values()), sum(g.size for g in gates.values())


def _evaluate(run: Run, state: TrainState, position: Position, stage: Stage) -> Position:
    """Log the scores of every validation split, and keep the parameters where they are the best and that is wanted."""
    for split, part in run.data.items():
        if split.startswith("validation"):
            found = score(run.setup.labels, predict_logits(run.setup, state.params, part), expected_labels(part))
            run.log({"step": position.step, "kind": "validation", "stage": stage.k, "split": split, **found})
            if split == run.selection:
                position = scored(position, found[run.setup.labels.metrics[0]])
    if run.config.train.keep_best and position.best_step == position.step:
        best = ckpt.trained_of(run.setup, state, position, run.base, moments=False)
        write_bytes(run.out / BEST, ckpt.checkpoint_bytes(best))
    return position
