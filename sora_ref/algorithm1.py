"""The sparsifying scheduler: how few parameters still memorise and generalise (SoRA Algorithm 1, clause SORA-STAGE).

Train with the strength ξ_0 to convergence; then raise ξ stage by stage, each from the weights the last one ended with,
and save every stage.  *Memorization* is performance on a fixed part of the training set, *generalization* on the
validation set.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from sora_ref.preconditions import require
from sora_ref.step import TrainState, initial_state

State = TypeVar("State")


class Stage(NamedTuple):
    """One stage: its number k, counted from 0, and the strength of its gate rule, ξ or λ.

    >>> sr.Stage(k=1, strength=1e-3).strength
    0.001
    """

    k: int
    strength: float


class Performance(NamedTuple):
    """What one stage ended with (SORA-STAGE-2).

    nonzero: parameters that are left.  memorization, generalization: any measure, the larger the better.

    >>> sr.Performance(nonzero=640, memorization=0.95, generalization=0.83).generalization
    0.83
    """

    nonzero: int
    memorization: float
    generalization: float


class StageResult(NamedTuple):
    """One stage's outcome, absolute and as a percentage of stage 0's; None where stage 0's is 0 (undefined).

    >>> sr.algorithm1.StageResult(sr.Stage(0, 0.0), sr.Performance(9, 0.9, 0.8), 100.0, 100.0).stage.k
    0
    """

    stage: Stage
    performance: Performance
    memorization_percent: float | None
    generalization_percent: float | None


def stages(values: Sequence[float]) -> tuple[Stage, ...]:
    """The stages of these strengths, ξ or λ.

    Warns where the first is above 0: percentages are then of a stage that is itself sparse, not of the dense model.
    Raises SoRAError for none.

    >>> sr.stages([0.0, 1e-3])
    (Stage(k=0, strength=0.0), Stage(k=1, strength=0.001))
    """
    require(len(values) > 0, "no stages: expected at least one value of xi")
    if values[0] > 0:
        warnings.warn(f"xi0 is {values[0]}, not 0: percentages are of a stage that is sparse itself", stacklevel=2)
    return tuple(Stage(k, strength) for k, strength in enumerate(values))


def begin_stage(state: TrainState, *, reset_moments: bool = True) -> TrainState:
    """The state in which a stage after the first begins, from that in which the last one ended (SORA-STAGE-1).

    reset_moments: whether moments and the count of steps start from zero again, as those of a run of its own do.
                   Deviation: the released code keeps them.  The weights are the same ones either way.

    >>> ended = sr.initial_state({"w": np.ones(2)})._replace(t=40)
    >>> sr.begin_stage(ended).t, sr.begin_stage(ended, reset_moments=False).t
    (0, 40)
    """
    return initial_state(state.params) if reset_moments else state


def sparsify(
    state: State,
    plan: Sequence[Stage],
    train: Callable[[State, Stage], State],
    measure: Callable[[State], Performance],
    dense: Performance | None = None,
) -> Iterator[tuple[State, StageResult]]:
    """Algorithm 1 as a generator: after each stage, the state to be saved and the stage's result (SORA-STAGE-1).

    train:   (state, stage) -> state; starts from the weights it is given, by `begin_stage`, with a learning-rate
             schedule of its own.
             Deviation: the released code goes on with the exhausted schedule, where lr = 0 and only the threshold acts.
    measure: state -> performance.
    dense:   stage 0's performance, when the plan resumes at a later stage; SoRAError where it is missing then.

    >>> def train(components, stage):
    ...     return components // (stage.k + 1)
    >>> def measure(components):
    ...     return sr.Performance(components, memorization=0.9, generalization=components / 10)
    >>> for components, result in sr.sparsify(8, sr.stages([0.0, 1e-3]), train, measure):
    ...     print(result.stage.k, components, result.generalization_percent)
    0 8 100.0
    1 4 50.0
    """
    require(
        not plan or dense is not None or plan[0].k == 0, "the plan begins after stage 0: expected stage 0's performance"
    )
    for stage in plan:
        state = train(state, stage)
        performance = measure(state)
        dense = performance if dense is None else dense
        yield (
            state,
            StageResult(
                stage,
                performance,
                percent(performance.memorization, dense.memorization),
                percent(performance.generalization, dense.generalization),
            ),
        )


def percent(value: float, dense: float) -> float | None:
    """100·value/dense, or None where dense is 0 and the percentage undefined (SORA-STAGE-2)."""
    return None if dense == 0 else 100 * value / dense
