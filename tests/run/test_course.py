"""The course of a stage: its batches, wherever they begin, and what is due after which step."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref import Stage
from sora_ref.run.config import Config, load_config
from sora_ref.run.course import Course, course_of

KEYS = {
    "train.batch": 8,
    "train.bucket_batches": 1,
    "train.epochs": 2,
    "train.log_every": 2,
    "train.checkpoint_every": 3,
    "schedule.kind": "linear",
    "schedule.stages": 3,
    "schedule.stop": 0.1,
    "schedule.epochs": 3,
}
LENGTHS = 1 + np.arange(20) % 9  # of twenty examples: three batches
PER_EPOCH = 3


def course(k: int = 0, config: Config | None = None) -> Course:
    config = load_config(None, KEYS) if config is None else config
    return course_of(config, len(LENGTHS), Stage(k, 0.1), decayed=lambda name: True)


def rows(of: Course, done: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in of.batches(LENGTHS, done)]


@pytest.mark.exact
@given(k=st.integers(0, 2), done=st.integers(0, 10))
def test_batches_after_some_steps_are_the_rest_of_all(k: int, done: int) -> None:
    of = course(k)
    assert of.total == len(rows(of)) == (2 if k == 0 else 3) * PER_EPOCH
    assert rows(of, done) == rows(of)[done:]


@pytest.mark.exact
def test_every_epoch_of_every_stage_has_each_example_once_in_an_order_of_its_own() -> None:
    batches = [batch for k in range(3) for batch in rows(course(k))]
    epochs = [list(chain(*batches[first : first + PER_EPOCH])) for first in range(0, len(batches), PER_EPOCH)]
    assert all(sorted(epoch) == list(range(len(LENGTHS))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs) == 2 + 3 + 3


@pytest.mark.exact
def test_what_is_due_is_due_by_its_period_and_all_of_it_after_the_last_step() -> None:
    plan = load_config(None, {key: value for key, value in KEYS.items() if not key.startswith("schedule")})
    of = course(config=plan)
    due = {t: of.due(t, stopped=False) for t in range(1, of.total + 1)}
    assert [t for t, found in due.items() if found.log] == [2, 4, 6]
    assert [t for t, found in due.items() if found.evaluate] == [3, 6]
    assert [t for t, found in due.items() if found.save] == [3, 6]
    short = course(config=load_config(None, {"train.batch": 8, "train.epochs": 2, "train.max_steps": 4}))
    assert (short.total, short.due(4, stopped=False)[:3]) == (4, (True, True, True))
    assert len(rows(short)) == 4


@pytest.mark.exact
def test_a_stop_is_a_checkpoint_and_nothing_else() -> None:
    assert course().due(1, stopped=True) == (False, False, True, True)
    assert not any(course().due(1, stopped=False))
