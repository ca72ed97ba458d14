"""The smallest real adapter for PyTorch: a module, an optimiser, pruning, and the class that shows them to the kit."""

import torch
from torch import nn

from sora_ref.conformance import TorchImplementation


class SoRALinear(nn.Linear):
    def __init__(self, in_features, out_features, r, scale, bias=True):
        super().__init__(in_features, out_features, bias)
        self.lora_A = nn.Parameter(torch.zeros(r, in_features))
        self.gate = nn.Parameter(torch.ones(r))
        self.lora_B = nn.Parameter(torch.zeros(out_features, r))
        self.scale = scale

    def forward(self, x):
        return super().forward(x) + self.scale * ((x @ self.lora_A.T) * self.gate) @ self.lora_B.T

    def prune(self):
        keep = self.gate.detach() != 0
        self.lora_A, self.gate = nn.Parameter(self.lora_A[keep]), nn.Parameter(self.gate[keep])
        self.lora_B = nn.Parameter(self.lora_B[:, keep])


class ProxSGD(torch.optim.SGD):
    @torch.no_grad()
    def step(self):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                p -= p.clamp(-group["lr"] * group["lam"], group["lr"] * group["lam"])


class Mine(TorchImplementation):
    def module(self, layer):
        out, in_ = layer.W0.shape
        return SoRALinear(in_, out, r=len(layer.A), scale=layer.s, bias=layer.b is not None)

    def optimizer(self, module, plan):
        weights = {"params": [module.lora_A, module.lora_B], "lam": 0.0, "weight_decay": plan.weight_decay}
        return ProxSGD([weights, {"params": [module.gate], "lam": plan.strength}], lr=plan.peak)

    def prune(self, layer):
        module = self.build(layer)
        module.prune()
        return self.layer(module, module.scale)


# ruff: noqa: D101, D102
