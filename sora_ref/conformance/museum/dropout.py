"""Mistakes in dropout on the branch's input, forward and backward."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer


@mistake("SORA-LINEAR-1.dropout")
class DropoutOnFrozenPath(PlainSoRA):
    """x is dropped before it is split, so the frozen layer loses inputs too."""

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        return self.forward(layer, x * self.mask(x, p, seed))


@mistake("SORA-LINEAR-1.dropout")
class DropoutNotRescaled(PlainSoRA):
    """What is kept is not divided by 1 − p."""

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x, p, seed) * (1 - p)


@mistake("SORA-LINEAR-1.dropout")
class DropoutDividedByP(PlainSoRA):
    """What is kept is divided by p, which is the same at one half."""

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x, p, seed) * ((1 - p) / p)


@mistake("SORA-LINEAR-1.dropout", seen="APIs that ask for keep_prob")
class DropoutKeepsP(PlainSoRA):
    """p is taken for the probability to keep."""

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x, 1 - p, seed)


@mistake("SORA-LINEAR-1.dropout")
class DropoutByRow(PlainSoRA):
    """Whole rows of x are dropped together."""

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x[..., :1], p, seed) * np.ones_like(x)


@mistake("SORA-LINEAR-1.dropout")
class DropoutOneMaskForAll(PlainSoRA):
    """One mask is drawn for the inputs, and used for every row."""

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x[(0,) * (x.ndim - 1)], p, seed) * np.ones_like(x)


@mistake("SORA-LINEAR-1.dropout")
class DropoutAfterDown(PlainSoRA):
    """The mask acts on A x, and not on x."""

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        z, up = x @ layer.A.T, layer._replace(A=np.eye(len(layer.A), dtype=x.dtype))
        return self.forward(layer, x) + self.branch(up, z * self.mask(z, p, seed) - z)


@mistake("SORA-LINEAR-1.dropout")
class DropoutAfterUp(PlainSoRA):
    """The mask acts on the branch's output."""

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        added = self.branch(layer, x)
        y: Floats = self.forward(layer, x) + added * (self.mask(added, p, seed) - 1)
        return y


@mistake("SORA-LINEAR-1.dropout")
class ScaleForgottenInTraining(PlainSoRA):
    """Evaluation multiplies by s, and training does not."""

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        return super().training_forward(layer._replace(s=1.0), x, p, seed)


@mistake("SORA-LINEAR-1.dropout", seen="meta-pytorch/torchtune#996")
class DropoutNeverApplied(PlainSoRA):
    """The probability is accepted, and dropped on the way to the layer."""

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        return self.forward(layer, x)


@mistake("SORA-LINEAR-1.dropout")
class DropoutIgnoresSeed(PlainSoRA):
    """The mask comes from a stream of its own, whatever the seed."""

    def __init__(self) -> None:
        self.stream = np.random.default_rng(0)

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        return super().mask(x, p, int(self.stream.integers(2**32)))


@mistake("SORA-LINEAR-5", seen="karpathy/nanoGPT#240")
class DropoutInEvaluation(PlainSoRA):
    """Dropout goes on in evaluation: a functional call whose `training` defaults to true."""

    def __init__(self) -> None:
        self.stream = np.random.default_rng(0)

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return self.training_forward(layer, x, 0.5, int(self.stream.integers(2**32)))


@mistake("SORA-LINEAR-1", seen="ooples/AiDotNet#256")
class DropoutRescaledTwice(PlainSoRA):
    """Training divides by 1 − p, and evaluation multiplies by it as well."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return super().forward(layer._replace(s=0.9 * layer.s), x)


@mistake("SORA-LINEAR-3.dropout", seen="recomputation without the generator's state")
class MaskRedrawn(PlainSoRA):
    """The backward draws a mask of its own."""

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> Mapping[str, Floats]:
        return super().training_gradients(layer, x, dy, p, seed + 1)


@mistake("SORA-LINEAR-3.dropout")
class MaskForgotten(PlainSoRA):
    """The backward knows nothing of dropout."""

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> Mapping[str, Floats]:
        return self.gradients(layer, x, dy)


@mistake("SORA-LINEAR-3.dropout", seen="foundation-model-stack/fms-acceleration#97")
class MaskForgottenInDx(PlainSoRA):
    """The gradient that goes back to x passes through inputs that were dropped."""

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> Mapping[str, Floats]:
        found = super().training_gradients(layer, x, dy, p, seed)
        return {**found, "dx": self.gradients(layer, x, dy)["dx"]}


@mistake("SORA-LINEAR-3.dropout")
class MaskOnAllOfDx(PlainSoRA):
    """The mask acts on the frozen layer's part of dx as well."""

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> Mapping[str, Floats]:
        found, frozen = super().training_gradients(layer, x, dy, p, seed), dy @ layer.W0
        return {**found, "dx": found["dx"] - frozen + self.mask(x, p, seed) * frozen}
