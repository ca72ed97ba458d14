"""Mistakes in saving and loading."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

from pathlib import Path

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate, ungated
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Floats, Layer


@mistake("SORA-STORE-1", seen="public re-implementations")
class GateNotSaved(PlainSoRA):
    """The gate is no part of the state dict, and comes back as ones."""

    def save(self, layer: Layer, folder: Path) -> None:
        super().save(ungated(layer), folder)


@mistake("SORA-STORE-1")
class GateSavedWithoutSign(PlainSoRA):
    """|g| is saved."""

    def save(self, layer: Layer, folder: Path) -> None:
        super().save(layer._replace(g=np.abs(gate(layer))), folder)


@mistake("SORA-STORE-1", seen="kohya's files without alpha, read as alpha = rank")
class ScaleNotSaved(PlainSoRA):
    """s is not saved, and comes back as 1."""

    def save(self, layer: Layer, folder: Path) -> None:
        super().save(layer._replace(s=1.0), folder)


@mistake("SORA-STORE-1", seen="diffusers#14409")
class ScaleOfAnotherRank(PlainSoRA):
    """s is made anew from α = 16 and the rank that is loaded."""

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        layer = super().load(folder, W0, b)
        return layer._replace(s=16 / max(len(layer.A), 1))


@mistake("SORA-STORE-1", seen="checkpoints in half precision")
class SavedInFloat16(PlainSoRA):
    """Everything is saved in float16, and cast back when it is read."""

    def save(self, layer: Layer, folder: Path) -> None:
        half = {name: getattr(layer, name).astype(np.float16).astype(layer.A.dtype) for name in ("A", "g", "B")}
        super().save(layer._replace(**half), folder)


@mistake("SORA-STORE-1")
class LoadedInFloat32(PlainSoRA):
    """What was saved in float64 comes back as float32."""

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        layer = super().load(folder, W0, b)
        return layer._replace(A=layer.A.astype(np.float32))


@mistake("SORA-STORE-1", seen="safetensors#825")
class MemoryForValues(PlainSoRA):
    """The memory of an array that is not C-contiguous is written as if it were: safetensors 0.8.0."""

    def save(self, layer: Layer, folder: Path) -> None:
        stored = np.asfortranarray(layer.A)
        super().save(layer._replace(A=stored.ravel(order="K").reshape(stored.shape)), folder)


@mistake("SORA-STORE-1")
class SwappedWhereShapesAgree(PlainSoRA):
    """A and B are told apart by their shapes, and swapped where these are the same."""

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        layer = super().load(folder, W0, b)
        return layer._replace(A=layer.B, B=layer.A) if layer.A.shape == layer.B.shape else layer


@mistake("SORA-STORE-1", seen="state dicts of what is open")
class ClosedNotSaved(PlainSoRA):
    """Closed components are left out, so a run cannot be resumed: none of them can come back."""

    def save(self, layer: Layer, folder: Path) -> None:
        super().save(self.prune(layer), folder)


@mistake("SORA-STORE-1")
class BiasLostInLoading(PlainSoRA):
    """The layer that is loaded has no bias, whatever the frozen one has."""

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        return super().load(folder, W0, None)
