"""Mistakes in how an implementation begins: its scale, its distributions, its random numbers."""
# ruff: noqa: D102 - a class says what its one method does wrong

from __future__ import annotations

import math

import numpy as np

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import gate
from sora_ref.conformance.museum.mistake import mistake
from sora_ref.conformance.protocol.layer import Layer


@mistake("SORA-LINEAR-2", seen="public re-implementations; Blaizzy/mlx-vlm#841")
class BeginsWithAlpha(PlainSoRA):
    """s is α."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        return super().initial(module, out, in_, r, alpha, seed)._replace(s=alpha)


@mistake("SORA-LINEAR-2", seen="rsLoRA's scale, not declared")
class BeginsRankStabilised(PlainSoRA):
    """s is α/√r."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        return super().initial(module, out, in_, r, alpha, seed)._replace(s=alpha / math.sqrt(max(r, 1)))


@mistake("SORA-LINEAR-2", seen="QingruZhang/AdaLoRA#12: ranknum + 1e-5")
class BeginsWithSafeDivisor(PlainSoRA):
    """s is α/(r + 10⁻⁵), so that a rank of zero does not divide."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        return super().initial(module, out, in_, r, alpha, seed)._replace(s=alpha / (r + 1e-5))


@mistake("SORA-INIT-2", seen="public re-implementations")
class ADrawnNormal(PlainSoRA):
    """A is normal with the variance that the uniform one has."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        normal = np.random.default_rng([seed, *module.encode()]).standard_normal((r, in_)) / math.sqrt(3 * in_)
        return super().initial(module, out, in_, r, alpha, seed)._replace(A=normal)


@mistake("SORA-INIT-2", seen="kaiming_uniform_ with its default a = 0")
class ADrawnTooWide(PlainSoRA):
    """A reaches √6/√in: Kaiming's bound without a = √5."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(A=math.sqrt(6) * layer.A)


@mistake("SORA-INIT-2")
class ADrawnByTheRank(PlainSoRA):
    """A reaches 1/√r: the fan is that of the other axis."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(A=math.sqrt(in_ / max(r, 1)) * layer.A)


@mistake("SORA-INIT-2", seen="peft's init_lora_weights=False")
class BNotZero(PlainSoRA):
    """B is drawn as well, so the branch does not begin at zero."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(B=0.02 * np.random.default_rng(seed).standard_normal((out, r)))


@mistake("SORA-INIT-2")
class GateBeginsAtZero(PlainSoRA):
    """g is zero, as B is: nothing ever moves."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(g=0 * gate(layer))


@mistake("SORA-INIT-2", seen="BERT's initializer_range")
class GateDrawnNarrow(PlainSoRA):
    """g is drawn as weights are, with a standard deviation of 0.02: the first thresholds close every gate."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(g=0.02 * gate(layer))


@mistake("SORA-INIT-1")
class ModulesAlike(PlainSoRA):
    """The seed is set anew for every module, so every A of one shape is the same."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        alike = super().initial("", out, in_, r, alpha, seed)
        return super().initial(module, out, in_, r, alpha, seed)._replace(A=alike.A)


@mistake("SORA-INIT-1")
class GatesAlike(PlainSoRA):
    """The gates of all modules are drawn with one key."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        alike = super().initial("gates", out, in_, r, alpha, seed)
        return super().initial(module, out, in_, r, alpha, seed)._replace(g=alike.g)


@mistake("SORA-INIT-1", seen="global generators")
class DrawnInOrder(PlainSoRA):
    """Draws depend on how many modules were made before."""

    drawn = 0

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        self.drawn += 1
        return super().initial(f"{self.drawn}", out, in_, r, alpha, seed)


@mistake("SORA-INIT-1")
class SeedIgnored(PlainSoRA):
    """The seed is accepted, and not used."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        return super().initial(module, out, in_, r, alpha, 0)
