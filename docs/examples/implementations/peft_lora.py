"""PEFT's LoRA as the pruned form of SoRA: a layer without gates, the gate having been absorbed.

What PEFT 0.21.2 does where the specification says something, and what that means here:

rank 0         is refused ("`r` should be a positive integer"): least_rank is 1.
scale          is `lora_alpha / r`, so s travels as α = s·r and comes back as α/r; a config without `alpha_pattern`
               divides by the rank that pruning has left.
unmerge        subtracts ΔW, computed anew, from the merged weight; nothing is kept.  W0 comes back within a rounding
               or two (SORA-BOUND-3), and a wrong W0 where A or B has changed in between.
double merge   warns "All adapters are already merged, nothing to do." and does nothing: harmless, but no refusal.
unmerge twice  warns "Already unmerged. Nothing to do."
dropout        a merge in training mode with dropout goes through without a word.
tied weights   `merge_and_unload` raises for a model whose config says `tie_word_embeddings`; a layer cannot know.

SORA-PRUNE-4 asks for an error in three cases, so `refuse_merge` is not claimed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from sora_ref.conformance import Layer, Plan
from sora_ref.conformance.protocol.torch_base import TorchImplementation, array, tensor


class PeftLoRA(TorchImplementation):
    """`peft.tuners.lora.Linear`, and for saving the `PeftModel` around it."""

    name = "PEFT LoRA"
    gated = False
    least_rank = 1
    parameters = {
        "W0": "base_layer.weight",
        "b": "base_layer.bias",
        "A": "lora_A.default.weight",
        "B": "lora_B.default.weight",
    }

    def module(self, layer: Layer) -> Linear:
        out, in_ = layer.W0.shape
        base, r, alpha = nn.Linear(in_, out, bias=layer.b is not None), len(layer.A), layer.s * len(layer.A)
        # Where dropout is 0, PEFT puts an identity: some dropout shows its place.
        return Linear(base, "default", LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.5), r=r, lora_alpha=alpha)

    def merge(self, layer: Layer) -> Any:
        module = self.build(layer)
        module.merge()
        return array(module.base_layer.weight)

    def unmerge(self, layer: Layer) -> Any:
        module = self.build(layer)
        module.merge()
        module.unmerge()
        return array(module.base_layer.weight)

    def save(self, layer: Layer, folder: Path) -> None:
        r = len(layer.A)
        config = LoraConfig(r=r, lora_alpha=layer.s * r, target_modules=["linear"])
        model = get_peft_model(around(tensor(layer.W0), tensor(layer.b)), config)
        linear = model.base_model.model.linear
        for weight, value in ((linear.lora_A.default.weight, layer.A), (linear.lora_B.default.weight, layer.B)):
            weight.data.copy_(tensor(value))
        model.save_pretrained(folder)

    def load(self, folder: Path, W0: Any, b: Any) -> Layer:
        model = PeftModel.from_pretrained(around(tensor(W0), tensor(b)), folder)
        linear = model.base_model.model.linear
        return self.layer(linear, linear.scaling["default"])


class TrainedPeftLoRA(PeftLoRA):
    """With torch's SGD, whose decay, coupled to the gradient, is the decoupled one as long as there is no momentum."""

    name = "PEFT LoRA, trained by SGD"

    def optimizer(self, module: Any, plan: Plan) -> torch.optim.SGD:
        weights = (module.lora_A.default.weight, module.lora_B.default.weight)
        return torch.optim.SGD(weights, lr=plan.peak, weight_decay=plan.weight_decay)


def around(W0: torch.Tensor, b: torch.Tensor | None) -> nn.Module:
    """A model with one linear layer of these numbers, called `linear`."""
    linear = nn.Linear(W0.shape[1], W0.shape[0], bias=b is not None, dtype=W0.dtype)
    linear.load_state_dict({"weight": W0} if b is None else {"weight": W0, "bias": b})
    return nn.ModuleDict({"linear": linear})


# ruff: noqa: D102, RUF012 - methods are described in Implementation
