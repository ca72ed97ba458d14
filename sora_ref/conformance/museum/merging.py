"""Mistakes in merging, unmerging and counting."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import ungated
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer

# --- merging ---


@mistake("SORA-PRUNE-4", seen="hao-ai-lab/FastVideo#870")
class MergedWithoutScale(PlainSoRA):
    """s is left out of the merge."""

    def merge(self, layer: Layer) -> Floats:
        return super().merge(layer._replace(s=1.0))


@mistake("SORA-PRUNE-4", seen="LoRA's merge called on a SoRA layer")
class MergedWithoutGate(PlainSoRA):
    """B A is merged, without the gate between them."""

    def merge(self, layer: Layer) -> Floats:
        return super().merge(ungated(layer))


@mistake("SORA-PRUNE-4", seen="microsoft/LoRA#61")
class MergedTransposed(PlainSoRA):
    """The branch is added transposed where the layer is square."""

    def merge(self, layer: Layer) -> Floats:
        delta = self.delta(layer)
        return layer.W0 + (delta.T if delta.shape == delta.T.shape else delta)


@mistake("SORA-PRUNE-4")
class MergedWithMinus(PlainSoRA):
    """The branch is subtracted."""

    def merge(self, layer: Layer) -> Floats:
        return layer.W0 - self.delta(layer)


@mistake("SORA-PRUNE-4", seen="EricLBuehler/candle-lora#26")
class MergedTwice(PlainSoRA):
    """The branch is added twice: the layer does not know that it is merged."""

    def merge(self, layer: Layer) -> Floats:
        return super().merge(layer) + self.delta(layer)


@mistake("SORA-PRUNE-4", seen="microsoft/LoRA#34; trl#386")
class MergeDoesNothing(PlainSoRA):
    """The merged weight is W0: a copy was merged, and thrown away."""

    def merge(self, layer: Layer) -> Floats:
        return layer.W0


@mistake("SORA-PRUNE-4", seen="meta-pytorch/torchtune#1101; peft#1388")
class MergedInFloat16(PlainSoRA):
    """The branch is computed in float16 before it is added."""

    def merge(self, layer: Layer) -> Floats:
        rounded: Floats = self.delta(layer).astype(np.float16).astype(layer.W0.dtype)
        return layer.W0 + rounded


@mistake("SORA-LINEAR-5", seen="weight.data += delta")
class MergedInPlace(PlainSoRA):
    """The branch is added to the caller's W0."""

    def merge(self, layer: Layer) -> Floats:
        W = layer.W0
        W += self.delta(layer)
        return W


@mistake("SORA-PRUNE-4.refuse")
class SecondMergeGoesThrough(PlainSoRA):
    """A merged layer may be merged again."""

    def refuse_merge(self, layer: Layer, case: str) -> None:
        if case != "again":
            super().refuse_merge(layer, case)


@mistake("SORA-PRUNE-4.refuse", seen="peft#2018")
class TiedMergeGoesThrough(PlainSoRA):
    """A merge into a tied weight changes the other layer, silently."""

    def refuse_merge(self, layer: Layer, case: str) -> None:
        if case != "tied":
            super().refuse_merge(layer, case)


# --- unmerging ---


@mistake("SORA-PRUNE-5")
class UnmergeForgotten(PlainSoRA):
    """The merged weight is what comes back."""

    def unmerge(self, layer: Layer) -> Floats:
        return self.merge(layer)


@mistake("SORA-PRUNE-5")
class UnmergeAdds(PlainSoRA):
    """The branch is added a second time where it is to be taken off."""

    def unmerge(self, layer: Layer) -> Floats:
        return self.merge(layer) + self.delta(layer)


@mistake("SORA-PRUNE-5", seen="diffusers#4473")
class UnmergedInFloat16(PlainSoRA):
    """The branch is taken off in less precision than it was added in."""

    def unmerge(self, layer: Layer) -> Floats:
        rounded: Floats = self.delta(layer).astype(np.float16).astype(layer.W0.dtype)
        return self.merge(layer) - rounded


# --- counting ---


@mistake("SORA-COUNT-1")
class RanksOfAll(PlainSoRA):
    """The rank of a module counts closed gates too."""

    def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:
        return {name: len(layer.A) for name, layer in layers.items()}


@mistake("SORA-COUNT-1")
class RanksOfTheMatrix(PlainSoRA):
    """The rank of a module is that of B diag(g) A, which may be less."""

    def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:
        return {name: int(np.linalg.matrix_rank(self.delta(layer))) for name, layer in layers.items()}


@mistake("SORA-COUNT-2", seen="released code")
class CountedByHidden(PlainSoRA):
    """2·hidden is deducted for every closed gate, also where in and out differ."""

    def count(self, layers: Mapping[str, Layer]) -> int:
        hidden: int = next(iter(layers.values())).A.shape[1]
        closed = sum(len(layer.A) - self.rank(layer) for layer in layers.values())
        return sum(layer.A.size + layer.B.size for layer in layers.values()) - 2 * hidden * closed


@mistake("SORA-COUNT-2")
class CountedWithGates(PlainSoRA):
    """Open gates are counted as well."""

    def count(self, layers: Mapping[str, Layer]) -> int:
        return super().count(layers) + sum(self.ranks(layers).values())


@mistake("SORA-COUNT-2")
class CountedAAlone(PlainSoRA):
    """B's columns are not counted."""

    def count(self, layers: Mapping[str, Layer]) -> int:
        return sum(layer.A.shape[1] * self.rank(layer) for layer in layers.values())


@mistake("SORA-COUNT-2", seen="print_trainable_parameters")
class CountedClosedToo(PlainSoRA):
    """Closed components are counted: what is trained, not what is retained."""

    def count(self, layers: Mapping[str, Layer]) -> int:
        return sum(layer.A.size + layer.B.size for layer in layers.values())
