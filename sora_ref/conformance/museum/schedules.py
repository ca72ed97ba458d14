"""Mistakes in learning rates, in thresholds by stage, and in Algorithm 1."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.mistake import mistake


@mistake("SORA-SCHED-1", seen="released code; transformers' get_linear_schedule_with_warmup")
class FirstRateZero(PlainSoRA):
    """The warm-up begins at 0, so the first step is spent on the threshold alone."""

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:
        rising = [peak * t / warmup for t in range(min(warmup, total))]
        return rising + [peak * (total - t) / max(total - warmup, 1) for t in range(warmup, total)]


@mistake("SORA-SCHED-1")
class LastRateZero(PlainSoRA):
    """The decay reaches 0 in the last step, not after it."""

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:
        top = max(warmup, 1)
        return [peak * min(t / top, (total - t) / max(total - top, 1)) for t in range(1, total + 1)]


@mistake("SORA-SCHED-1")
class WarmupOneLonger(PlainSoRA):
    """The warm-up takes a step more than it is given."""

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:
        return super().learning_rates(peak, total, min(warmup + 1, total))


@mistake("SORA-SCHED-1")
class NoDecay(PlainSoRA):
    """The learning rate stays at its peak after the warm-up."""

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:
        return [peak * min(t / max(warmup, 1), 1) for t in range(1, total + 1)]


@mistake("SORA-SCHED-3")
class LogAndExpSwapped(PlainSoRA):
    """log_linear is exp_linear, and the other way round."""

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:
        other = {"log_linear": "exp_linear", "exp_linear": "log_linear"}
        return super().stage_values(other.get(kind, kind), start, stop, stages)


@mistake("SORA-SCHED-3")
class AlwaysLinear(PlainSoRA):
    """The kind of the schedule is never read."""

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:
        return super().stage_values("linear", start, stop, stages)


@mistake("SORA-SCHED-3", seen="arange and linspace with endpoint=False")
class LastValueLeftOut(PlainSoRA):
    """The thresholds stop one short of the last."""

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:
        return super().stage_values(kind, start, stop, stages + 1)[:-1]


@mistake("SORA-SCHED-4", seen="Algorithm 1 as printed")
class OvershootsAsPrinted(PlainSoRA):
    """ξ is compared with ξ_max before δ is added, so the last stage lies beyond it."""

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:
        return [*super().algorithm_1(xi0, xi_max, delta), super().algorithm_1(xi0, xi_max + delta, delta)[-1]]


@mistake("SORA-SCHED-4", seen="while loops over floats")
class SumMissesTheLast(PlainSoRA):
    """0.1 is added again and again in binary, and the last stage is missed by a rounding."""

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:
        values = [xi0]
        while values[-1] + delta <= xi_max:
            values.append(values[-1] + delta)
        return values


@mistake("SORA-SCHED-4")
class DenseStageLeftOut(PlainSoRA):
    """The first stage has ξ0 + δ already."""

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:
        return super().algorithm_1(xi0, xi_max, delta)[1:]


@mistake("SORA-STAGE-1", seen="released code")
class ExhaustedSchedule(PlainSoRA):
    """Later stages go on with the schedule of the first, which has come to 0."""

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> Sequence[Sequence[float]]:
        first, *later = super().stage_rates(values, peak, total, warmup)
        return [first, *([0.0] * total for _ in later)]


@mistake("SORA-STAGE-1")
class OneScheduleForAllStages(PlainSoRA):
    """One schedule is spread over all stages."""

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> Sequence[Sequence[float]]:
        rates = self.learning_rates(peak, total * len(values), warmup)
        return [list(part) for part in np.reshape(rates, (len(values), total))]
