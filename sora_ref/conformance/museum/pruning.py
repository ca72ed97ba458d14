"""Mistakes in pruning and absorbing: what is dropped, and what becomes of the gate, of s, and of the frozen layer."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer


@mistake("SORA-PRUNE-1", seen="public re-implementations")
class SmallGatesDropped(PlainSoRA):
    """A component is dropped where |g| ≤ 10⁻⁸."""

    def open(self, g: Floats) -> Floats:
        return np.flatnonzero(np.abs(g) > 1e-8)


@mistake("SORA-PRUNE-1", seen="public re-implementations")
class NotSoSmallGatesDropped(PlainSoRA):
    """A component is dropped where |g| ≤ 10⁻³."""

    def open(self, g: Floats) -> Floats:
        return np.flatnonzero(np.abs(g) > 1e-3)


@mistake("SORA-PRUNE-1")
class NegativeGatesDropped(PlainSoRA):
    """A component is kept where g > 0."""

    def open(self, g: Floats) -> Floats:
        return np.flatnonzero(g > 0)


@mistake("SORA-PRUNE-1")
class OpenGatesDropped(PlainSoRA):
    """The mask of what is closed is taken for that of what stays."""

    def open(self, g: Floats) -> Floats:
        return np.flatnonzero(g == 0)


@mistake("SORA-PRUNE-1", seen="public re-implementations")
class RankForcedToOne(PlainSoRA):
    """Where every gate is closed, the first component stays."""

    def open(self, g: Floats) -> Floats:
        found = super().open(g)
        return found if len(found) else np.arange(len(g))[:1]


@mistake("SORA-PRUNE-1", seen="peft#3373, #432 and #1801")
class NothingDropped(PlainSoRA):
    """Pruning is never called: the rank stays what it was."""

    def prune(self, layer: Layer) -> Layer:
        return layer


@mistake("SORA-LINEAR-5")
class PrunedInFloat32(PlainSoRA):
    """What is left of A is float32."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        return left._replace(A=left.A.astype(np.float32))


@mistake("SORA-PRUNE-2", seen="public re-implementations; implementations saved with a new r")
class ScaleRecomputed(PlainSoRA):
    """s becomes α/(the rank that is left)."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        return left._replace(s=layer.s * len(layer.A) / max(len(left.A), 1))


@mistake("SORA-PRUNE-2")
class GateNotAbsorbed(PlainSoRA):
    """What is left is called a plain LoRA, but the gate is in neither factor."""

    def prune(self, layer: Layer) -> Layer:
        return super().prune(layer)._replace(g=None)


@mistake("SORA-PRUNE-2")
class GateAbsorbedTwice(PlainSoRA):
    """The gate is multiplied into A and into B."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        return left._replace(A=gate(left)[:, None] * left.A, g=None, B=left.B * gate(left))


@mistake("SORA-PRUNE-2")
class GateAbsorbedAndKept(PlainSoRA):
    """The gate is multiplied into A, and acts on its own as well."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        return left._replace(A=gate(left)[:, None] * left.A)


@mistake("SORA-PRUNE-2", seen="SVD-like splits of a singular value")
class GateAbsorbedByRoots(PlainSoRA):
    """√|g| is multiplied into A and into B, and the sign is lost."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        root = np.sqrt(np.abs(gate(left)))
        return left._replace(A=root[:, None] * left.A, g=None, B=left.B * root)


@mistake("SORA-PRUNE-2")
class FirstColumnsKept(PlainSoRA):
    """Rows of A and gates are kept by their index, columns of B by their number: the first ones."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        return left._replace(B=layer.B[:, : len(left.A)])


@mistake("SORA-PRUNE-2")
class SortedBySize(PlainSoRA):
    """A and g are sorted by |g|, and B is not."""

    def prune(self, layer: Layer) -> Layer:
        left = super().prune(layer)
        order = np.argsort(-np.abs(gate(left)), kind="stable")
        return left._replace(A=left.A[order], g=gate(left)[order])


@mistake("SORA-PRUNE-2", seen="public re-implementations")
class BiasLostInPruning(PlainSoRA):
    """The pruned layer is made anew, without the bias."""

    def prune(self, layer: Layer) -> Layer:
        return super().prune(layer)._replace(b=None)


@mistake("SORA-PRUNE-2")
class MergedInPruning(PlainSoRA):
    """Pruning merges into W0, and keeps the branch."""

    def prune(self, layer: Layer) -> Layer:
        return super().prune(layer)._replace(W0=self.merge(layer))
