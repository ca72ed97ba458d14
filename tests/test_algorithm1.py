"""SORA-STAGE: Algorithm 1 as a generator."""

from __future__ import annotations

import pytest
from strategies import Space, all_equal

from sora_ref import (
    PAPER,
    SGD,
    Performance,
    Rates,
    Recipe,
    SoRAError,
    Stage,
    TrainState,
    begin_stage,
    initial_state,
    sparsify,
    stages,
    training_step,
)
from sora_ref.algorithm1 import percent
from sora_ref.optim import Moments

State = tuple[str, ...]
START: State = ()


def measured(state: State) -> Performance:
    return Performance(10 - len(state), 80 - 20 * len(state), 50.0 - len(state))


def trained(state: State, stage: Stage) -> State:
    return (*state, f"{stage.k}:{stage.strength}")


def test_stages_are_numbered_from_zero() -> None:
    assert stages([0.0, 0.1, 0.2]) == (Stage(0, 0.0), Stage(1, 0.1), Stage(2, 0.2))


def test_dense_stage_that_is_not_dense_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"xi0 is 0\.1, not 0"):
        assert stages([0.1]) == (Stage(0, 0.1),)


def test_no_stages_are_refused() -> None:
    with pytest.raises(SoRAError, match=r"^no stages: expected at least one value of xi$"):
        stages([])


def test_a_plan_that_begins_later_needs_the_dense_performance() -> None:
    plan = stages([0.0, 0.1])[1:]
    with pytest.raises(SoRAError, match=r"^the plan begins after stage 0: expected stage 0's performance$"):
        next(sparsify(START, plan, trained, measured))


@pytest.mark.exact("SORA-STAGE-1")
def test_each_stage_starts_from_the_last_ones_state_and_is_handed_out_to_be_saved() -> None:
    out = list(sparsify(START, stages([0.0, 0.1, 0.2]), trained, measured))
    assert [state for state, _ in out] == [("0:0.0",), ("0:0.0", "1:0.1"), ("0:0.0", "1:0.1", "2:0.2")]
    assert [result.performance.nonzero for _, result in out] == [9, 8, 7]
    assert [result.stage for _, result in out] == [Stage(0, 0.0), Stage(1, 0.1), Stage(2, 0.2)]


@pytest.mark.exact("SORA-STAGE-1")
def test_a_stage_begins_with_the_weights_of_the_last_and_with_its_moments_only_where_they_are_kept(xp: Space) -> None:
    """With the moments reset it goes as a run of its own from these weights would."""
    recipe, rates = Recipe(SGD(), PAPER), Rates(xp.number(1), xp.number(1), xp.number(0))
    grads = {"m.sora_g": xp.asarray([1, 2]), "w": xp.asarray([3])}
    ended = TrainState(grads, {name: Moments(grad, grad) for name, grad in grads.items()}, 7)
    assert begin_stage(ended, reset_moments=False) is ended
    begun = begin_stage(ended)
    assert begun.params == ended.params
    assert begun.t == 0
    assert not any(xp.fractions(part).any() for moments in begun.moments.values() for part in moments)
    fresh, _ = training_step(initial_state(ended.params), grads, rates, recipe)
    again, _ = training_step(begun, grads, rates, recipe)
    assert again.t == fresh.t == 1
    assert all(all_equal(xp.fractions(again.params[n]), xp.fractions(fresh.params[n])) for n in grads)


@pytest.mark.exact("SORA-STAGE-2")
def test_percentages_are_of_stage_zero() -> None:
    out = [result for _, result in sparsify(START, stages([0.0, 0.1]), trained, measured)]
    assert [(r.memorization_percent, r.generalization_percent) for r in out] == [
        (100.0, 100.0),
        (100 * 40 / 60, 100 * 48 / 49),
    ]


def test_nothing_is_trained_before_it_is_asked_for() -> None:
    seen: list[int] = []

    def train(state: State, stage: Stage) -> State:
        seen.append(stage.k)
        return state

    steps = sparsify(START, stages([0.0, 0.1]), train, measured)
    assert seen == []
    next(steps)
    assert seen == [0]


@pytest.mark.exact("SORA-STAGE-1")
def test_resumed_plan_equals_the_uninterrupted_one() -> None:
    plan = stages([0.0, 0.1, 0.2])
    whole = list(sparsify(START, plan, trained, measured))
    state, first = whole[0]
    rest = list(sparsify(state, plan[1:], trained, measured, dense=first.performance))
    assert rest == whole[1:]


@pytest.mark.exact("SORA-STAGE-2")
@pytest.mark.parametrize(("value", "dense", "expected"), [(1.0, 2.0, 50.0), (0.0, 2.0, 0.0), (1.0, 0.0, None)])
def test_percentage_is_undefined_where_the_dense_value_is_zero(
    value: float, dense: float, expected: float | None
) -> None:
    assert percent(value, dense) == expected


def test_a_plan_that_begins_later_needs_stage_0s_performance() -> None:
    with pytest.raises(SoRAError, match="expected stage 0's performance"):
        next(sparsify(0, [Stage(1, 0.5)], lambda state, stage: state, lambda state: Performance(1, 1.0, 1.0)))
