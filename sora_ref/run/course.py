"""One stage laid out before it is trained: its batches, its rates, and after which steps something is due."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sora_ref import Rates, Recipe, Stage
from sora_ref.run.config import Config
from sora_ref.run.progress import steps_of_epoch, steps_of_stage
from sora_ref.run.text import epoch_batches
from sora_ref.schedules import Schedule


class Due(NamedTuple):
    """What is to be done after a step: a log, an evaluation, a checkpoint; and whether the run was asked to stop."""

    log: bool
    evaluate: bool
    save: bool
    stopped: bool


@dataclass(frozen=True)
class Course:
    """The steps of one stage, counted from 1.

    per_epoch, total: steps of an epoch, and of the stage.  first_epoch: epochs of the stages before it.
    lr, gate_lr:      the schedules of the weights and of the gates over the stage's steps.
    recipe:           what stays the same from step to step.
    """

    config: Config
    stage: Stage
    first_epoch: int
    per_epoch: int
    total: int
    lr: Schedule
    gate_lr: Schedule
    recipe: Recipe

    def batches(self, lengths: np.ndarray, done: int) -> Iterator[np.ndarray]:
        """Yield the rows of each optimiser batch but the first `done`.

        lengths: in tokens, of all examples.  Every epoch draws an order of its own (see `epoch_batches`).
        """
        train, seed, order = self.config.train, self.config.seed, list[np.ndarray]()
        for step in range(done, self.total):
            epoch, place = divmod(step, self.per_epoch)
            if place == 0 or step == done:
                order = epoch_batches(lengths, train.batch, train.bucket_batches, seed, self.first_epoch + epoch)
            yield order[place]

    def rates(self, t: int) -> Rates:
        """The numbers of the stage's step t (SORA-STEP-5)."""
        return Rates(self.lr(t), self.gate_lr(t), self.stage.strength)

    def due(self, t: int, *, stopped: bool) -> Due:
        """What is to be done after the stage's step t; all of it after the last."""
        train, last = self.config.train, t == self.total
        return Due(
            log=last or t % train.log_every == 0,
            evaluate=last or t % self.per_epoch == 0,
            save=last or stopped or t % train.checkpoint_every == 0,
            stopped=stopped,
        )


def course_of(config: Config, examples: int, stage: Stage, decayed: Callable[[str], bool]) -> Course:
    """The course of a stage over so many training examples; `decayed` says which parameters weight decay acts on."""
    later = config.train.epochs if config.schedule is None else config.schedule.epochs
    total = steps_of_stage(config, examples, stage.k)
    lr, gate_lr = config.learning_rates(total)
    return Course(
        config=config,
        stage=stage,
        first_epoch=0 if stage.k == 0 else config.train.epochs + (stage.k - 1) * later,
        per_epoch=steps_of_epoch(config, examples),
        total=total,
        lr=lr,
        gate_lr=gate_lr,
        recipe=config.recipe(decayed),
    )
