"""The stages of a run: one, or those of the sparsifying scheduler with what is measured after each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sora_ref import Performance, Stage, TrainState, begin_stage, count_parameters, generator, sparsify, stages
from sora_ref.algorithm1 import StageResult
from sora_ref.preconditions import require
from sora_ref.run.active import Run
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import ScheduleSection
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.gradients import expected_labels
from sora_ref.run.interrupt import Stop
from sora_ref.run.loop import train_stage
from sora_ref.run.records import stage_records
from sora_ref.run.say import Say

At = tuple[TrainState, Position]


def train_stages(
    run: Run, state: TrainState, position: Position, stop: Stop, say: Say
) -> tuple[TrainState, Position, list[dict[str, Any]]]:
    """Train every stage that is left: one for a plain run, several for the sparsifying scheduler (SORA-STAGE-1, 2).

    Returns the state and the position at the end, and the logged results of all stages of the scheduler.
    """
    schedule = run.config.schedule
    if schedule is None:
        state, position = train_stage(run, state, position, Stage(0, run.config.gate.strength), stop)
        return state, position, []

    def train_one(at: At, stage: Stage) -> At:
        state, position = at
        if stage.k > position.stage:
            state = begin_stage(state, reset_moments=schedule.reset_moments)
            position = replace(position, stage=stage.k, stage_step=0)
        return train_stage(run, state, position, stage, stop)

    plan, done = _plan(schedule, say), stage_records(run.out)
    require(
        len(done) >= position.stage,
        f"{run.out / 'metrics.jsonl'}: results of {len(done)} stages: expected those of all {position.stage} done",
    )
    dense = _performance(done[0]["performance"]) if done else None
    for reached, result in sparsify((state, position), plan[len(done) :], train_one, _measure_of(run), dense):
        state, position = reached
        run.keep(run.out / "stages" / f"stage-{result.stage.k:02d}.safetensors", state, position)
        run.log({"step": position.step, "kind": "stage", **_stage_record(result)})
        run.save(state, position)
    return state, position, stage_records(run.out)


def _plan(schedule: ScheduleSection, say: Say) -> tuple[Stage, ...]:
    """All stages, those that are done included."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = stages(schedule.strengths())
    for warning in caught:
        say(f"warning: {warning.message}")
    return plan


def _measure_of(run: Run) -> Callable[[At], Performance]:
    """The function that measures what a stage of this run ended with."""
    metric, chosen = run.setup.labels.metrics[0], run.data["train"].take(memorization_rows(run))

    def measure(at: At) -> Performance:
        state, _ = at
        memorized, generalized = (
            score(run.setup.labels, predict_logits(run.setup, state.params, part), expected_labels(part))[metric]
            for part in (chosen, run.data[run.selection])
        )
        adapters = run.setup.adapters(state.params)
        nonzero = count_parameters(adapters, hidden=run.setup.model.config.hidden_size).with_gates
        return Performance(nonzero, memorized, generalized)

    return measure


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


def memorization_rows(run: Run) -> list[int]:
    """The fixed training examples that memorization is measured on."""
    schedule = run.config.schedule
    examples = 0 if schedule is None else schedule.memorization_examples
    order = np.argsort(generator(run.config.seed, "memorization").random(len(run.data["train"].ids)), kind="stable")
    return sorted(order[:examples].tolist())
