"""The training loop: for every batch the next step, then what is seen of it, then what is kept of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sora_ref import Rates, Stage, TrainState
from sora_ref.backends import Array
from sora_ref.errors import printable
from sora_ref.run.active import Run
from sora_ref.run.checkpoint import Position
from sora_ref.run.course import Course, Due, course_of
from sora_ref.run.gradients import loss_and_gradients
from sora_ref.run.interrupt import Interrupted, Stop
from sora_ref.run.progress import stops_early
from sora_ref.run.watch import gates_of, log_training, read_losses, validate
from sora_ref.run.workers import ParallelMap, worker_pool


class Step(NamedTuple):
    """An optimiser step that was made.

    state, position: after it.  loss: of its batch, before it.  rates: its numbers.
    norm:  of the gradients before they are clipped, None where nothing clips them.
    began: by `time.perf_counter`.
    """

    state: TrainState
    position: Position
    loss: Array
    rates: Rates
    norm: Array | None
    began: float


def train_stage(
    run: Run, state: TrainState, position: Position, stage: Stage, stop: Stop
) -> tuple[TrainState, Position]:
    """The steps of one stage that are left, from `position.stage_step` on.

    `Interrupted`, after a checkpoint, where `stop` is set; SoRAError where a loss or a parameter is no finite number.
    """
    lengths = run.data["train"].lengths
    course = course_of(run.config, len(lengths), stage, run.setup.model.architecture.decayed)
    if position.stage_step >= course.total or stops_early(run.config, position):
        return state, position
    unread: list[tuple[int, Array]] = []  # steps and their losses, still on the device
    with _progress_bar(run, course, position) as bar, worker_pool(run.setup.work.workers) as parallel_map:
        for rows in course.batches(lengths, position.stage_step):
            step = next_step(run, course, state, position, rows, parallel_map)
            due = course.due(step.position.stage_step, stopped=stop.is_set())
            position, early = observe(run, course, step, due, unread, bar)
            state = step.state
            persist(run, state, position, due, early, stop)
            if early:
                break
    return state, position


def next_step(
    run: Run, course: Course, state: TrainState, position: Position, rows: np.ndarray, parallel_map: ParallelMap
) -> Step:
    """The optimiser step on these rows of the training split; on a GPU it may still be under way on return."""
    began, setup, t = time.perf_counter(), run.setup, position.stage_step + 1
    rates = course.rates(t)
    loss, grads = loss_and_gradients(setup, run.data["train"], state.params, rows, position.step + 1, parallel_map)
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is said where it is read
        state, norm = setup.method.step(state, grads, rates, course.recipe, setup.ops)
    threshold = course.recipe.gate_rule.scalar_amount(rates.strength, rates.gate_lr) or 0.0
    position = replace(position, step=position.step + 1, stage_step=t, threshold_sum=position.threshold_sum + threshold)
    return Step(state, position, loss, rates, norm, began)


def observe(
    run: Run, course: Course, step: Step, due: Due, unread: list[tuple[int, Array]], bar: tqdm[None]
) -> tuple[Position, bool]:
    """Read the loss, log and evaluate, as they are due; the position after, and whether the stage stops early here.

    On an asynchronous device (GPU), losses stay there, in `unread`, and nothing waits, until something is due; then
    they go over in one transfer with the norm and the gates.
    """
    seen = gates_of(run, step.state) | ({} if step.norm is None else {"norm": step.norm})
    unread.append((step.position.step, step.loss))
    position, read = step.position, dict[str, np.ndarray]()
    if run.setup.backend.synchronous or any(due):
        losses, read = read_losses(run, unread, seen if due.log else {})
        unread.clear()
        for loss in losses:
            position = replace(position, loss_sum=position.loss_sum + loss, loss_steps=position.loss_steps + 1)
    position = replace(position, seconds=position.seconds + time.perf_counter() - step.began)
    bar.update()

    if due.log:
        position, words = log_training(run, position, course.stage.k, step.rates, read.pop("norm", None), read)
        bar.set_postfix_str(words)
    if due.evaluate:
        position = validate(run, step.state, position, course.stage.k)
    early = due.evaluate and stops_early(run.config, position)
    if early and not due.log:
        _, read = read_losses(run, [], seen)
        position, _ = log_training(run, position, course.stage.k, step.rates, read.pop("norm", None), read)
    return position, early


def persist(run: Run, state: TrainState, position: Position, due: Due, early: bool, stop: Stop) -> None:
    """Write a checkpoint where one is due or the stage ends early; `Interrupted` where the run was asked to stop."""
    if due.save or early:
        run.save(state, position)
    if due.stopped:
        raise Interrupted(f"{run.out}: stopped at step {position.step}; --resume goes on from there", stop.number)


def _progress_bar(run: Run, course: Course, position: Position) -> tqdm[None]:
    name = printable(run.out.name).replace("\n", " ")
    title = name if run.config.schedule is None else f"{name} stage {course.stage.k}"
    return tqdm(
        total=course.total,
        initial=position.stage_step,
        desc=title,
        unit="step",
        disable=run.quiet,
        mininterval=1.0,
    )
