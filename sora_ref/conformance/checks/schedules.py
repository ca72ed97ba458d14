"""SORA-SCHED and SORA-STAGE: learning rates, thresholds by stage, and the sparsifying scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from sora_ref.algorithm1 import sparsify
from sora_ref.conformance.checks.examples import whole
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import Guesses
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.schedules import algorithm_1_values, linear_warmup_decay, released_linear, stage_values


def close(a: Sequence[float], b: Sequence[float], error: float) -> bool:
    """Equal lengths, and every pair within this error, relative to the largest number there is."""
    size = max(map(abs, b), default=0.0)
    return len(a) == len(b) and all(abs(x - y) <= error * size for x, y in zip(a, b, strict=True))


def _same(
    subject: Subject,
    quantity: str,
    got: Sequence[float],
    expected: Sequence[float],
    guesses: Guesses,
    roundings: int = 8,
) -> None:
    """Refusal unless the values are the expected ones within so many roundings of the subject's dtype."""
    found = [float(value) for value in got]
    error = roundings * subject.precision.unit
    if close(found, expected, error):
        return
    likely = tuple(name for name, values in guesses().items() if close(found, list(values), 8 * error))
    if len(found) != len(expected):
        raise Refusal(
            f"{quantity} has {len(found)} values: expected {len(expected)}", quantity=quantity, guesses=likely
        )
    k = max(range(len(found)), key=lambda i: abs(found[i] - expected[i]))
    raise Refusal(
        f"{quantity}[{k}] is {found[k]!r}: expected {expected[k]!r}",
        quantity=quantity,
        expected=expected[k],
        got=found[k],
        guesses=likely,
    )


def _rates(peak: float, total: int, warmup: int) -> list[float]:
    schedule = linear_warmup_decay(peak, total, warmup)
    return [schedule(t) for t in range(1, total + 1)]


@check(
    "SORA-SCHED-1",
    "linear warm-up and decay without a wasted step",
    formula="η_t = peak·min(t/W, (total + 1 − t)/(total + 1 − W)), W = max(warm-up, 1)",
    source="SORA-SCHED-2, counted without its wasted step",
    function=linear_warmup_decay,
    requires="learning_rates",
    examples=lambda subject: whole(1, 12).flatmap(
        lambda total: st.fixed_dictionaries(
            {"peak": st.sampled_from((1.0, 0.001)), "total": st.just(total), "warmup": whole(0, total)}
        )
    ),
)
def learning_rates(subject: Subject, peak: float, total: int, warmup: int) -> None:
    """The learning rate of every step."""

    def guesses() -> dict[str, Any]:
        steps, top, released = range(1, total + 1), max(warmup, 1), released_linear(peak, total, warmup)
        left = max(total - top, 1)
        return {
            "transformers' schedule, whose first step has learning rate 0": [released(t) for t in steps],
            "the schedule one step late": [released(t + 1) for t in steps],
            "a decay to zero at the last step": [peak * min(t / top, (total - t) / left) for t in steps],
            "a constant learning rate after the warm-up": [peak * min(t / top, 1) for t in steps],
        }

    got = subject.numbers("learning_rates", peak, total, warmup)
    _same(subject, "learning rate", got, _rates(peak, total, warmup), guesses)


@check(
    "SORA-SCHED-3",
    "thresholds by stage: linear, log_linear, exp_linear",
    formula="equal steps of ξ, of exp ξ, or of log ξ, from start to stop, both included",
    source="released code",
    function=stage_values,
    requires="stage_values",
    examples=lambda subject: st.fixed_dictionaries(
        {
            "kind": st.sampled_from(("linear", "log_linear", "exp_linear")),
            "start": st.sampled_from((0.25, 0.5)),
            "stop": st.sampled_from((1.0, 2.0, 0.25)),
            "stages": whole(1, 6),
        }
    ),
)
def thresholds(subject: Subject, kind: str, start: float, stop: float, stages: int) -> None:
    """The threshold of every stage, both ends included."""

    def guesses() -> dict[str, Any]:
        others = [other for other in ("linear", "log_linear", "exp_linear", "constant") if other != kind]
        longer = stage_values(kind, start, stop, stages + 1)
        return {f"the schedule {other}": stage_values(other, start, stop, stages) for other in others} | {
            "the schedule without its last value": longer[:-1],
            "the schedule without its first value": longer[1:],
            "the schedule backwards": stage_values(kind, start, stop, stages)[::-1],
        }

    got = subject.numbers("stage_values", kind, start, stop, stages)
    # Two of exp and log, each right to four ulps, and exp's argument up to 2, whose rounding exp amplifies by 2: 64.
    _same(subject, "ξ of stage", got, stage_values(kind, start, stop, stages), guesses, roundings=64)


@check(
    "SORA-SCHED-4",
    "the sparsifying scheduler's thresholds",
    formula="ξ_k = ξ0 + kδ for k = 0, 1, … while ξ_k ≤ ξ_max",
    source="SoRA Algorithm 1",
    function=algorithm_1_values,
    requires="algorithm_1",
    examples=lambda subject: st.fixed_dictionaries(
        {
            "xi0": st.sampled_from((0.0, 0.1, 0.25)),
            "delta": st.sampled_from((0.1, 0.25, 0.05)),
            "stages": whole(0, 6),
            "beyond": st.sampled_from((0, 0.5, 0.97)),
        }
    ),
)
def algorithm_1(subject: Subject, xi0: float, delta: float, stages: int, beyond: float) -> None:
    """ξ_max on a stage, where decimal sums in binary fall short, or between two."""
    xi_max = float(f"{xi0 + (stages + beyond) * delta:.12g}")
    expected = algorithm_1_values(xi0, xi_max, delta)

    def guesses() -> dict[str, Any]:
        summed = [xi0]
        while summed[-1] + delta <= xi_max:
            summed.append(summed[-1] + delta)
        beyond_the_last = algorithm_1_values(xi0, xi_max, delta, overshoot=True)
        return {
            "a sum in binary, which misses ξ_max by a rounding": summed,
            "the algorithm as printed, which goes up to δ beyond ξ_max": beyond_the_last,
            "stages that begin at ξ0 + δ": expected[1:],
            "stages that stop before ξ_max": expected[:-1],
        }

    _same(subject, "ξ", subject.numbers("algorithm_1", xi0, xi_max, delta), expected, guesses, roundings=16)


@check(
    "SORA-STAGE-1",
    "every stage has a learning-rate schedule of its own",
    formula="η_{k,t} = η_t in every stage k",
    source="SoRA Algorithm 1",
    function=sparsify,
    requires="stage_rates",
    examples=lambda subject: st.fixed_dictionaries(
        {"stages": whole(2, 3), "total": whole(1, 5), "warmup": whole(0, 1)}
    ),
)
def stages(subject: Subject, stages: int, total: int, warmup: int) -> None:
    """Every stage as stage 0; the released code goes on with the exhausted schedule, and only the threshold acts."""
    got = subject.lists("stage_rates", [0.1] * stages, 1.0, total, warmup)
    if len(got) != stages:
        raise Refusal(f"there are {len(got)} stages: expected {stages}")
    first = subject.numbers("learning_rates", 1.0, total, warmup) if "learning_rates" in subject.has else got[0]
    for k, rates in enumerate(got):
        if k and len(rates) == total and not any(rates):
            raise Refusal(
                f"every learning rate of stage {k} is 0: expected a schedule of its own",
                guesses=("the exhausted schedule of stage 0, in which only the threshold acts (the released code)",),
            )
        if len(rates) != total:
            raise Refusal(f"stage {k} has {len(rates)} learning rates: expected {total}")
        _same(subject, f"learning rate of stage {k}", rates, first, dict)


CHECKS = (learning_rates, thresholds, algorithm_1, stages)
