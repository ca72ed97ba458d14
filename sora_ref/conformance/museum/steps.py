"""Mistakes in a whole training step: where gradients are taken, what moves and by how much, clipping, accumulation."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple

Grads = Mapping[str, Floats]
Microbatches = Sequence[tuple[Floats, Floats]]

# --- one iterate ---


class _Alternating(PlainSoRA):
    """Steps in which a part of the layer moves first, and the others' gradients are taken where it has gone."""

    order: tuple[str, str]

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
        after = []
        for t, (x, dy) in enumerate(zip(xs, dys, strict=True)):
            for names in self.order:
                grads = self.clip(self.gradients(layer, x, dy), plan.clip)
                moved = self.step(layer, grads, plan, t)
                layer = layer._replace(**{name: getattr(moved, name) for name in names})
            after.append(Triple(layer.A, gate(layer), layer.B))
        return after


@mistake("SORA-STEP-1", seen="two optimisers with a backward each")
class WeightsFirst(_Alternating):
    """The gates' gradient is taken at A and B that this step has moved already."""

    order = ("AB", "g")


@mistake("SORA-STEP-1", seen="alternating minimisation")
class GatesFirst(_Alternating):
    """The gradients of A and B are taken at gates that this step has thresholded already."""

    order = ("g", "AB")


# --- what moves, and by how much ---


@mistake("SORA-STEP-1")
class GatesByThresholdAlone(PlainSoRA):
    """The gates are in no optimiser: only the threshold moves them."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, {**grads, "dg": np.zeros_like(grads["dg"])}, plan, t)


@mistake("SORA-STEP-1", seen="public re-implementations")
class PenaltyInTheLossToo(PlainSoRA):
    """Whole steps have λ·sgn(g) in the gates' gradient, beside the threshold."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        doubled = grads["dg"] + plan.strength * np.sign(gate(layer))
        return super().step(layer, {**grads, "dg": doubled}, plan, t)


@mistake("SORA-STEP-1")
class WeightsThresholded(PlainSoRA):
    """The threshold acts on A, as on every parameter of its optimiser."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        moved = super().step(layer, grads, plan, t)
        return moved._replace(A=self.prox(moved.A, plan.lrs[t] * plan.strength))


@mistake("SORA-STEP-1", seen="LoRA-FA, not declared")
class AFrozen(PlainSoRA):
    """A stays as it was drawn."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, grads, plan, t)._replace(A=layer.A)


@mistake("SORA-STEP-1", seen="LoRA+, not declared")
class BFaster(PlainSoRA):
    """B has sixteen times the learning rate of A."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, {**grads, "dB": 16 * grads["dB"]}, plan, t)


@mistake("SORA-STEP-7", seen="lists of references to one tensor")
class StatesShareMemory(PlainSoRA):
    """The states of all steps are one: the parameters are updated in place, and never copied."""

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
        after = super().train(layer, xs, dys, plan)
        return [after[-1]] * len(after)


@mistake("SORA-STEP-7", seen="schedulers that step before the optimiser")
class WeightsOneRateAhead(PlainSoRA):
    """A and B move by the learning rate of the step to come, and the gates by this step's."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, grads, plan, t + 1)._replace(g=super().step(layer, grads, plan, t).g)


@mistake("SORA-STEP-7", seen="schedulers tied to one of two optimisers")
class WeightsAtThePeak(PlainSoRA):
    """A and B move by the peak of the schedule, which only the gates follow."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        steady = replace(plan, lrs=(plan.peak,) * len(plan.lrs))
        return super().step(layer, grads, steady, t)._replace(g=super().step(layer, grads, plan, t).g)


# --- weight decay ---


@mistake("SORA-STEP-6", seen="masks in the manner of pruning")
class ClosedComponentsRest(PlainSoRA):
    """Row and column of a closed gate do not move, not even by decay."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        moved, opened = super().step(layer, grads, plan, t), gate(layer) != 0
        return moved._replace(A=np.where(opened[:, None], moved.A, layer.A), B=np.where(opened, moved.B, layer.B))


@mistake("SORA-STEP-6")
class DecayGrows(PlainSoRA):
    """The decay has the wrong sign, and weights grow."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, grads, replace(plan, weight_decay=-plan.weight_decay), t)


@mistake("SORA-STEP-6", seen="AdamW as published, where the schedule's multiplier alone is a factor")
class DecayWithoutRate(PlainSoRA):
    """θ ← θ − wθ: the decay is not multiplied by the learning rate."""

    def step(self, layer: Layer, grads: Grads, plan: Plan, t: int) -> Layer:
        return super().step(layer, grads, replace(plan, weight_decay=plan.weight_decay / plan.lrs[t]), t)


# --- clipping ---


@mistake("SORA-STEP-4", seen="gates with an optimiser of their own")
class ClipWithoutGates(PlainSoRA):
    """The norm that is clipped is that of A's and B's gradients."""

    def clip(self, grads: Grads, limit: float | None) -> dict[str, Floats]:
        return {**super().clip({**grads, "dg": 0 * grads["dg"]}, limit), "dg": grads["dg"]}


@mistake("SORA-STEP-4")
class ClipByParameter(PlainSoRA):
    """Every parameter is clipped by its own norm."""

    def clip(self, grads: Grads, limit: float | None) -> dict[str, Floats]:
        nothing = {name: 0 * grad for name, grad in grads.items()}
        return {
            name: super(ClipByParameter, self).clip({**nothing, name: grads[name]}, limit)[name]
            for name in ("dA", "dg", "dB")
        }


@mistake("SORA-STEP-4", seen="normalised gradients")
class ClipScalesUp(PlainSoRA):
    """The norm becomes the limit, also where it is below."""

    def clip(self, grads: Grads, limit: float | None) -> dict[str, Floats]:
        found = super().clip(grads, None)
        norm = math.sqrt(sum(float((grad * grad).sum()) for grad in found.values()))
        return found if limit is None or not norm else {name: grad * (limit / norm) for name, grad in found.items()}


@mistake("SORA-STEP-4", seen="clip_grad_value_")
class ClipByValue(PlainSoRA):
    """Every entry is clipped by itself."""

    def clip(self, grads: Grads, limit: float | None) -> dict[str, Floats]:
        found = super().clip(grads, None)
        return found if limit is None else {name: np.clip(grad, -limit, limit) for name, grad in found.items()}


# --- microbatches ---


@mistake("SORA-STEP-2", seen="transformers#35438; ml-explore/mlx-lm#1413")
class MeanOfMeans(PlainSoRA):
    """Every microbatch counts the same, however few examples it has."""

    def accumulate(self, layer: Layer, microbatches: Microbatches) -> Grads:
        means = [super(MeanOfMeans, self).accumulate(layer, [part]) for part in microbatches]
        return {name: np.mean([mean[name] for mean in means], axis=0) for name in means[0]}


@mistake("SORA-STEP-2", seen="openai/guided-diffusion#111")
class SumNotDivided(PlainSoRA):
    """The sum over examples is taken for their mean."""

    def accumulate(self, layer: Layer, microbatches: Microbatches) -> Grads:
        found = super().accumulate(layer, microbatches)
        return {name: grad * sum(len(x) for x, _ in microbatches) for name, grad in found.items()}


@mistake("SORA-STEP-2")
class DividedByMicrobatches(PlainSoRA):
    """The sum over examples is divided by the number of microbatches."""

    def accumulate(self, layer: Layer, microbatches: Microbatches) -> Grads:
        found, examples = super().accumulate(layer, microbatches), sum(len(x) for x, _ in microbatches)
        return {name: grad * (examples / len(microbatches)) for name, grad in found.items()}


@mistake("SORA-STEP-2", seen="zero_grad inside the loop")
class LastMicrobatchAlone(PlainSoRA):
    """Gradients are cleared before every microbatch, so the last one alone is left."""

    def accumulate(self, layer: Layer, microbatches: Microbatches) -> Grads:
        return super().accumulate(layer, microbatches[-1:])
