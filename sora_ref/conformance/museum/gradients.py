"""Mistakes in dB = s·dyᵀ(z ⊙ g), dg = Σₙ v ⊙ z, dA = (v ⊙ g)ᵀx and dx = dy W0 + (v ⊙ g)A, with z = x Aᵀ, v = s·dy B."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate, ungated
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer


@mistake("SORA-LINEAR-3")
class DbWithoutScale(PlainSoRA):
    """dB lacks s."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dB": super().gradients(layer._replace(s=1.0), x, dy)["dB"]}


@mistake("SORA-LINEAR-3")
class DbWithTheWrongSign(PlainSoRA):
    """dB points uphill."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dB": -found["dB"]}


@mistake("SORA-LINEAR-3")
class DaWithoutGate(PlainSoRA):
    """dA lacks the gate, so rows of closed components go on moving."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dA": super().gradients(ungated(layer), x, dy)["dA"]}


@mistake("SORA-LINEAR-3")
class DbWithoutGate(PlainSoRA):
    """dB lacks the gate: z is kept for the backward where z ⊙ g is meant."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dB": super().gradients(ungated(layer), x, dy)["dB"]}


@mistake("SORA-LINEAR-3")
class DgWithGate(PlainSoRA):
    """dg has the gate as a factor: z ⊙ g is kept where z is meant, and closed gates freeze."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dg": found["dg"] * gate(layer)}


@mistake("SORA-LINEAR-3", seen="masks in the manner of pruning")
class DgMaskedWhereClosed(PlainSoRA):
    """Closed gates get no gradient, so none comes back."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dg": np.where(gate(layer) == 0, 0, found["dg"])}


@mistake("SORA-LINEAR-3")
class DgOfTheSize(PlainSoRA):
    """dg is that of |g|: the sign of the gate turns its gradient around."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dg": found["dg"] * np.sign(gate(layer))}


@mistake("SORA-LINEAR-3")
class DgMeanOverRows(PlainSoRA):
    """dg is the mean over rows, and every other gradient the sum."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dg": found["dg"] / max(x.size // x.shape[-1], 1)}


@mistake("SORA-LINEAR-3", seen="estimators that go straight through a mask")
class StraightThrough(PlainSoRA):
    """Closed components get the gradients of open ones: a straight-through estimator."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        opened = np.where(gate(layer) == 0, 1, gate(layer))
        return super().gradients(layer._replace(g=opened), x, dy)


@mistake("SORA-LINEAR-3")
class FirstOfTheBatch(PlainSoRA):
    """Of an input with three axes or more, only the first of the leading one reaches dA, dg and dB."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return found if x.ndim < 3 else {**super().gradients(layer, x[0], dy[0]), "dx": found["dx"]}


@mistake("SORA-LINEAR-3")
class DxWithoutBranch(PlainSoRA):
    """Nothing goes back to x through the branch, whose input was detached."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        return {**super().gradients(layer, x, dy), "dx": dy @ layer.W0}


@mistake("SORA-LINEAR-3")
class DxWithoutFrozenPath(PlainSoRA):
    """Nothing goes back to x through the frozen layer, taken for a constant."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dx": super().gradients(layer._replace(W0=np.zeros_like(layer.W0)), x, dy)["dx"]}


@mistake("SORA-LINEAR-3")
class DxWithoutGate(PlainSoRA):
    """The branch's part of dx lacks the gate."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        return {**found, "dx": super().gradients(ungated(layer), x, dy)["dx"]}


@mistake("SORA-LINEAR-5", seen="optimisers without zero_grad")
class GradientsAdded(PlainSoRA):
    """Gradients of one call are added to those of the call before."""

    def __init__(self) -> None:
        self.before: dict[tuple[int, ...], Floats] = {}

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = dict(super().gradients(layer, x, dy))
        self.before[layer.B.shape] = found["dB"] = found["dB"] + self.before.get(layer.B.shape, 0)
        return found


@mistake("SORA-BOUND-4", seen="activations kept in half precision")
class KeptInFloat16(PlainSoRA):
    """The input that is kept for the backward is rounded to float16."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        return super().gradients(layer, x.astype(np.float16).astype(x.dtype), dy)


@mistake("SORA-BOUND-4", seen="autocast")
class DxInFloat32(PlainSoRA):
    """The frozen layer's part of dx is computed in float32."""

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = super().gradients(layer, x, dy)
        frozen = (dy.astype(np.float32) @ layer.W0.astype(np.float32)).astype(dy.dtype)
        return {**found, "dx": found["dx"] - dy @ layer.W0 + frozen}
