"""How far a run is: its steps, and whether its validation scores still get better.

A run that stops early, or keeps its best parameters, goes by the first metric on the first validation split, where more
is better.  A score that is undefined is worse than any number.  All of it is in the checkpoint's `Position`, so that a
resumed run stops where an uninterrupted one does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config

BEST = "best.safetensors"


def steps_of_epoch(config: Config, examples: int) -> int:
    """The optimiser steps of one pass over the training split; the last may have a smaller batch."""
    return math.ceil(examples / config.train.batch)


def steps_of_stage(config: Config, examples: int, stage: int) -> int:
    """The steps of a stage, of a plain run's only one at most train.max_steps."""
    if config.schedule is None:
        whole = steps_of_epoch(config, examples) * config.train.epochs
        return whole if config.train.max_steps is None else min(whole, config.train.max_steps)
    return steps_of_epoch(config, examples) * (config.schedule.epochs if stage else config.train.epochs)


def steps_in_all(config: Config, examples: int) -> int:
    """The steps of a whole run, unless it stops early."""
    later = 0 if config.schedule is None else len(config.schedule.strengths()) - 1
    return steps_of_stage(config, examples, 0) + later * steps_of_stage(config, examples, 1)


def scored(position: Position, score: float) -> Position:
    """The position after an evaluation; its `best_step` is its step where this one is better than all before."""
    better = not math.isnan(score) and (position.best_score is None or score > position.best_score)
    if better:
        return replace(position, best_score=score, best_step=position.step, evaluations_since=0)
    return replace(position, evaluations_since=position.evaluations_since + 1)


def stops_early(config: Config, position: Position) -> bool:
    """Whether as many evaluations in a row as train.early_stopping says were no better than the best."""
    patience = config.train.early_stopping
    return patience is not None and position.evaluations_since >= patience


def best_of(config: Config, position: Position, split: str, metric: str) -> dict[str, Any] | None:
    """What a summary says of the best evaluation; None for a run that does not go by it, or where none is defined."""
    wanted = config.train.keep_best or config.train.early_stopping is not None
    if not wanted or position.best_score is None:
        return None
    kept = {"file": BEST} if config.train.keep_best else {}
    return {"step": position.best_step, "split": split, "metric": metric, "score": position.best_score, **kept}
