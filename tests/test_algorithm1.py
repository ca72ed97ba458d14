"""SORA-STAGE: Algorithm 1 as a generator."""

from __future__ import annotations

import pytest

from sora_ref import Performance, SoRAError, Stage, sparsify, stages
from sora_ref.algorithm1 import percent

State = tuple[str, ...]
START: State = ()


def measured(state: State) -> Performance:
    return Performance(10 - len(state), 80 - 20 * len(state), 50.0 - len(state))


def trained(state: State, stage: Stage) -> State:
    return (*state, f"{stage.k}:{stage.xi}")


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
