"""PEFT's AdaLoRA as a negative control: lora_E stands where SoRA's gate does, and yet it is not SoRA.

Its forward multiplies the branch by `lora_alpha / (ranknum + 1e-5)`: as it is meant to be used, with α = s·r, by
s·r/(r + 1e-5), too little by one part in 10⁵ at rank 1.  A comparison with rtol = 1e-4 passes it.  Bounds derived from
the roundings of the arithmetic refuse it, even in float32: SORA-LINEAR-1 and SORA-LINEAR-3, and in float64, for numbers
of full mantissas too, SORA-BOUND-2 and SORA-BOUND-4; merging has the same factor (SORA-PRUNE-4).

Its lora_E has no threshold: a budget masks the least important entries every few steps, by scores, not by sizes.  So
there is no gate step to show.  Rank 0 is taken, unlike by PEFT's LoRA.
"""

from __future__ import annotations

from typing import Any

from peft import AdaLoraConfig
from peft.tuners.adalora import SVDLinear
from torch import nn

from sora_ref.conformance import Layer
from sora_ref.conformance.protocol.torch_base import TorchImplementation, array


class PeftAdaLoRA(TorchImplementation):
    """`peft.tuners.adalora.SVDLinear`."""

    name = "PEFT AdaLoRA"
    parameters = {
        "W0": "base_layer.weight",
        "b": "base_layer.bias",
        "A": "lora_A.default",
        "g": "lora_E.default",
        "B": "lora_B.default",
    }

    def module(self, layer: Layer) -> SVDLinear:
        (out, in_), r = layer.W0.shape, len(layer.A)
        base = nn.Linear(in_, out, bias=layer.b is not None)
        return SVDLinear(base, "default", AdaLoraConfig(total_step=1, init_r=r), r=r, lora_alpha=layer.s * r)

    def merge(self, layer: Layer) -> Any:
        module = self.build(layer)
        module.merge()
        return array(module.base_layer.weight)

    def unmerge(self, layer: Layer) -> Any:
        module = self.build(layer)
        module.merge()
        module.unmerge()
        return array(module.base_layer.weight)


# ruff: noqa: D102, RUF012 - methods are described in Implementation
