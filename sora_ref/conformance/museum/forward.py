"""Mistakes in y = x W0ᵀ + b + s·((x Aᵀ) ⊙ g) Bᵀ: scale, gate, order of axes, shapes, precision, memory."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

import math

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate, ungated
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer

# --- the scale ---


@mistake("SORA-LINEAR-1", seen="public re-implementations; Blaizzy/mlx-vlm#845")
class ScaleIsAlpha(PlainSoRA):
    """The branch is multiplied by α where α/r is meant."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer, x) * max(len(layer.A), 1)


@mistake("SORA-LINEAR-1", seen="mflux-community/mflux#449")
class ScaleForgotten(PlainSoRA):
    """The branch is not multiplied by s at all."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(s=1.0), x)


@mistake("SORA-LINEAR-1")
class ScaleTwice(PlainSoRA):
    """s is folded into B when the layer is made, and multiplied again in the forward."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(B=layer.s * layer.B), x)


@mistake("SORA-LINEAR-1", seen="rsLoRA's scale, not declared")
class RankStabilised(PlainSoRA):
    """The branch is multiplied by α/√r where α/r is meant."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer, x) * math.sqrt(max(len(layer.A), 1))


@mistake("SORA-LINEAR-1")
class FrozenPathScaled(PlainSoRA):
    """s multiplies the whole output, and not the branch alone."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return layer.s * super().forward(layer._replace(s=1.0), x)


# --- the gate ---


@mistake("SORA-LINEAR-1")
class GateForgotten(PlainSoRA):
    """The gate is trained and thresholded, but is no factor of the branch."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(ungated(layer), x)


@mistake("SORA-LINEAR-1")
class GateWithoutSign(PlainSoRA):
    """|g| stands in the branch: a negative gate does not flip its component."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(g=np.abs(gate(layer))), x)


@mistake("SORA-LINEAR-1", seen="gated layers in the manner of an LSTM")
class GateSquashed(PlainSoRA):
    """A sigmoid of g stands in the branch, so a gate of zero is half open."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(g=1 / (1 + np.exp(-gate(layer)))), x)


@mistake("SORA-LINEAR-1")
class GateTwice(PlainSoRA):
    """The gate multiplies A x, and the columns of B once more: g²."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(B=layer.B * gate(layer)), x)


@mistake("SORA-LINEAR-1")
class GateReversed(PlainSoRA):
    """Gates and components are numbered from opposite ends."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(g=gate(layer)[::-1]), x)


@mistake("SORA-LINEAR-1")
class GateAlongRows(PlainSoRA):
    """The gate is broadcast along the rows of x, and not along the components."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        rows = np.resize(gate(layer), (*x.shape[:-1], 1))
        return super().branch(ungated(layer), x) * rows


# --- the frozen layer, signs and axes ---


@mistake("SORA-LINEAR-1", seen="public re-implementations")
class BiasLost(PlainSoRA):
    """The layer that takes the frozen one's place has no bias."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return super().forward(layer._replace(b=None), x)


@mistake("SORA-LINEAR-1")
class BiasScaled(PlainSoRA):
    """The bias is added to the branch, before s multiplies it."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return super().forward(layer._replace(b=None if layer.b is None else layer.s * layer.b), x)


@mistake("SORA-LINEAR-1")
class BranchSubtracted(PlainSoRA):
    """The branch is taken off the frozen output."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return -super().branch(layer, x)


@mistake("SORA-LINEAR-1")
class BReshaped(PlainSoRA):
    """B is stored as (r, out), and is reshaped where it has to be transposed."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(B=layer.B.reshape(layer.B.shape[::-1]).T), x)


@mistake("SORA-LINEAR-1", seen="bottleneck implementations")
class NonlinearBetween(PlainSoRA):
    """A ReLU stands between A and B."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        out: Floats = layer.s * (np.maximum(x @ layer.A.T, 0) * layer.g) @ layer.B.T
        return out


# --- shapes ---


@mistake("SORA-LINEAR-1", seen="batch_first of torch.nn.RNN")
class SequenceFirst(PlainSoRA):
    """The first two axes of the output are swapped."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        y = super().forward(layer, x)
        return y if y.ndim < 3 else y.swapaxes(0, 1)


@mistake("SORA-LINEAR-1")
class VectorBecomesRow(PlainSoRA):
    """A single vector comes back as a batch of one."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return super().forward(layer, np.atleast_2d(x))


@mistake("SORA-LINEAR-1", seen="peft#1539")
class RankZeroRaises(PlainSoRA):
    """A layer whose gates are all pruned divides by its rank of zero."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        alpha = layer.s * len(layer.A)
        return super().branch(layer._replace(s=alpha / len(layer.A)), x)


@mistake("SORA-LINEAR-1")
class EmptyBatchRaises(PlainSoRA):
    """Rows are mapped one by one and stacked, which a batch without rows has none of."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        rows = [super(EmptyBatchRaises, self).forward(layer, row) for row in x.reshape(-1, x.shape[-1])]
        return np.stack(rows).reshape(*x.shape[:-1], -1)


# --- precision ---


@mistake("SORA-BOUND-2", seen="autocast")
class DownInFloat32(PlainSoRA):
    """A x is computed in float32 in the middle of a float64 map."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        z = (x.astype(np.float32) @ layer.A.T.astype(np.float32)).astype(x.dtype)
        out: Floats = layer.s * (z * layer.g) @ layer.B.T
        return out


@mistake("SORA-BOUND-2", seen="models loaded in half precision")
class FrozenInFloat16(PlainSoRA):
    """The frozen weight is held in float16."""

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return super().forward(layer._replace(W0=layer.W0.astype(np.float16).astype(x.dtype)), x)


# --- memory ---


@mistake("SORA-LINEAR-1", seen="caches of merged weights")
class StaleMerged(PlainSoRA):
    """The merged weight is computed once for every frozen weight, and not again when A, g or B have changed."""

    def __init__(self) -> None:
        self.merged: dict[bytes, Floats] = {}

    def forward(self, layer: Layer, x: Floats) -> Floats:
        W = self.merged.setdefault(bytes(layer.W0.shape) + layer.W0.tobytes(), self.merge(layer))
        y: Floats = x @ W.T
        return y if layer.b is None else y + layer.b


@mistake("SORA-LINEAR-5", seen="copies to a device that are not waited for")
class OneCallLate(PlainSoRA):
    """The forward uses the A of the call before, where that has the same shape."""

    A: Floats = np.zeros(0)

    def branch(self, layer: Layer, x: Floats) -> Floats:
        before, self.A = self.A, layer.A
        return super().branch(layer._replace(A=before) if before.shape == layer.A.shape else layer, x)


@mistake("SORA-LINEAR-5", seen="out= of NumPy and torch")
class BufferReused(PlainSoRA):
    """Every output of one shape is written into the same buffer, over the one before."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, ...], Floats] = {}

    def forward(self, layer: Layer, x: Floats) -> Floats:
        y = super().forward(layer, x)
        buffer = self.buffers.setdefault(y.shape, np.empty_like(y))
        buffer[...] = y
        return buffer


@mistake("SORA-LINEAR-5", seen="NumPy's float64 scalars beside float32 arrays")
class PromotedToFloat64(PlainSoRA):
    """s is an array of float64, so what goes in as float32 comes out as float64."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return np.array([1.0]) * super().branch(layer, x)


@mistake("SORA-LINEAR-5")
class InputScaledInPlace(PlainSoRA):
    """s is multiplied into x in place: the caller's x changes."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        x *= layer.s
        return super().branch(layer._replace(s=1.0), x)
