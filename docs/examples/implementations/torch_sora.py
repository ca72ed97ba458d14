"""SoRA in PyTorch, written from the specification alone, with autograd: a module, an optimiser, and all the rest.

The last class shows them to the conformance kit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sora_ref.conformance import Layer, Plan
from sora_ref.conformance.protocol.torch_base import TorchImplementation, array, tensor


class SoRALinear(nn.Module):
    """y = x W0ᵀ + b + s·((drop(x) Aᵀ) ⊙ g) Bᵀ (SORA-LINEAR-1) around a frozen linear layer."""

    def __init__(self, base: nn.Linear, r: int, scale: float, p: float = 0.0) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base.requires_grad_(False), scale, nn.Dropout(p)
        make = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Parameter(torch.zeros(r, base.in_features, **make))
        self.gate = nn.Parameter(torch.ones(r, **make))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **make))
        self.kept: Tensor | None = None  # W0 while this layer is merged

    @classmethod
    def fresh(cls, base: nn.Linear, r: int, alpha: float, path: str, seed: int) -> SoRALinear:
        """A branch that begins at zero, its draws keyed by seed and path (SORA-INIT-1, SORA-INIT-2)."""
        layer = cls(base, r, alpha / max(r, 1))
        edge = 1 / math.sqrt(base.in_features)
        nn.init.uniform_(layer.lora_A, -edge, edge, generator=generator(seed, "A", path))
        nn.init.normal_(layer.gate, generator=generator(seed, "gate", path))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Of x (..., in); the merged weight alone while merged."""
        y: Tensor = self.base(x)
        if self.kept is not None:
            return y
        return y + self.scale * ((self.dropout(x) @ self.lora_A.T) * self.gate) @ self.lora_B.T

    @property
    def open(self) -> Tensor:
        """The components whose gate is not zero (SORA-PRUNE-1)."""
        return self.gate.detach().nonzero()[:, 0]

    def pruned(self) -> SoRALinear:
        """The same map without the closed components, with the same scale (SORA-PRUNE-2)."""
        keep = self.open
        smaller = SoRALinear(self.base, len(keep), self.scale, self.dropout.p)
        with torch.no_grad():
            smaller.lora_A.copy_(self.lora_A[keep])
            smaller.gate.copy_(self.gate[keep])
            smaller.lora_B.copy_(self.lora_B[:, keep])
        return smaller


def generator(*key: object) -> torch.Generator:
    """A stream of its own for every key, whatever was drawn before."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


# --- training ---


class ProximalSGD(torch.optim.Optimizer):
    """Weights by SGD with decoupled decay (SORA-OPT-1); gates by g ← T_{ηλ}(g − η∇), the rule `paper` (SORA-GATE-1)."""

    def __init__(
        self, weights: Iterable[Tensor], gates: Iterable[Tensor], lr: float, lam: float, weight_decay: float = 0.0
    ) -> None:
        decayed = {"params": list(weights), "weight_decay": weight_decay, "lam": 0.0}
        super().__init__([decayed, {"params": list(gates), "weight_decay": 0.0, "lam": lam}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; both groups read the learning rate of this very step (SORA-GATE-2, SORA-STEP-5)."""
        for group in self.param_groups:
            lr, amount = group["lr"], group["lr"] * group["lam"]
            for theta in group["params"]:
                theta.mul_(1 - lr * group["weight_decay"]).sub_(lr * theta.grad)
                if amount:
                    theta.sub_(theta.clamp(-amount, amount))  # T(v) = v − clip(v, −a, a) (SORA-PROX-1)


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> None:
    """Scale all gradients to a common norm of at most `limit` (SORA-STEP-4); torch's own adds 1e-6 to the norm."""
    grads = [theta.grad for theta in parameters if theta.grad is not None]
    factor = limit / nn.utils.get_total_norm(grads).clamp(min=limit)
    for grad in grads:
        grad.mul_(factor)


def linear_schedule(optimizer: torch.optim.Optimizer, total: int, warmup: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up and decay without a wasted step (SORA-SCHED-1); torch counts from 0."""
    top = max(warmup, 1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / top, (total - k) / (total + 1 - top)))


def stage_thresholds(kind: str, start: float, stop: float, stages: int) -> list[float]:
    """Equal steps of ξ, of exp ξ or of log ξ (SORA-SCHED-3)."""
    there, back = {
        "linear": (lambda v: v, lambda v: v),
        "log_linear": (torch.exp, torch.log),
        "exp_linear": (torch.log, torch.exp),
    }[kind]
    first, last = there(torch.tensor([start, stop], dtype=torch.float64)).tolist()
    values: list[float] = back(torch.linspace(first, last, stages, dtype=torch.float64)).tolist()
    return values


def sparsifying_thresholds(xi0: float, xi_max: float, delta: float) -> list[float]:
    """ξ0, ξ0 + δ, … up to ξ_max, summed as the decimals they are written in (SORA-SCHED-4)."""
    first, last, step = (Decimal(str(value)) for value in (xi0, xi_max, delta))
    return [float(first + k * step) for k in range(int((last - first) / step) + 1)]


# --- what is left ---


def sora_layers(model: nn.Module) -> dict[str, SoRALinear]:
    """The SoRA layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SoRALinear)}


def merge(model: nn.Module) -> None:
    """W0 ← W0 + s·B diag(g) A in every layer, or in none: again, tied, or under dropout refuses (SORA-PRUNE-4)."""
    uses = Counter(id(theta) for _, theta in model.named_parameters(remove_duplicate=False))
    for name, layer in sora_layers(model).items():
        if layer.kept is not None:
            raise RuntimeError(f"layer {name!r} is merged already")
        if uses[id(layer.base.weight)] > 1:
            raise RuntimeError(f"the frozen weight of layer {name!r} is tied to another: merging would move both")
        if layer.training and layer.dropout.p > 0:
            raise RuntimeError(f"layer {name!r} is in training with dropout: call eval() first")
    for layer in sora_layers(model).values():
        layer.kept = layer.base.weight.detach().clone()
        with torch.no_grad():
            layer.base.weight.add_(layer.scale * (layer.lora_B * layer.gate) @ layer.lora_A)


def unmerge(model: nn.Module) -> None:
    """Put every kept W0 back, bit for bit (SORA-PRUNE-5)."""
    for layer in sora_layers(model).values():
        if layer.kept is not None:
            layer.base.weight.data.copy_(layer.kept)
            layer.kept = None


def retained(model: nn.Module) -> int:
    """Entries of A and B in open components (SORA-COUNT-2)."""
    layers = sora_layers(model).values()
    return sum(len(layer.open) * (layer.base.in_features + layer.base.out_features) for layer in layers)


def save(layer: SoRALinear, file: Path) -> None:
    """The branch alone; its scale travels in the header, where no dtype rounds it."""
    tensors = {name: theta.detach().contiguous() for name, theta in layer.named_parameters() if "base" not in name}
    save_file(tensors, file, metadata={"scale": repr(layer.scale)})


def load(base: nn.Linear, file: Path) -> SoRALinear:
    """The layer that was saved, around this frozen one."""
    with safe_open(file, framework="pt") as found:
        tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 - no mapping
        layer = SoRALinear(base, len(tensors["gate"]), float(found.metadata()["scale"]))
    layer.load_state_dict(tensors, strict=False)
    return layer


# --- shown to the kit ---


def around(W0: Tensor, b: Tensor | None) -> nn.Linear:
    """A linear layer of these numbers."""
    base = nn.Linear(W0.shape[1], W0.shape[0], bias=b is not None, dtype=W0.dtype)
    base.load_state_dict({"weight": W0} if b is None else {"weight": W0, "bias": b})
    return base


class TorchSoRA(TorchImplementation):
    """Everything above."""

    name = "PyTorch, by autograd"
    parameters = {"W0": "base.weight", "b": "base.bias", "A": "lora_A", "g": "gate", "B": "lora_B"}

    def module(self, layer: Layer) -> SoRALinear:
        return SoRALinear(around(layer.W0, layer.b), len(layer.A), layer.s)

    def optimizer(self, module: Any, plan: Plan) -> ProximalSGD:
        weights = (module.lora_A, module.lora_B)
        return ProximalSGD(weights, [module.gate], plan.peak, plan.strength, plan.weight_decay)

    def clip(self, module: Any, limit: float) -> None:
        clip_gradients(module.parameters(), limit)

    def penalty(self, gates: Sequence[Any], lam: float) -> float:
        return float(lam * sum(tensor(g).abs().sum() for g in gates))

    def learning_rates(self, peak: float, total: int, warmup: int) -> list[float]:
        optimizer, rates = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak), []
        schedule = linear_schedule(optimizer, total, warmup)
        for _ in range(total):
            rates += schedule.get_last_lr()
            optimizer.step()
            schedule.step()
        return rates

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> list[list[float]]:
        return [self.learning_rates(peak, total, warmup) for _ in values]  # a schedule for every stage

    stage_values = staticmethod(stage_thresholds)
    algorithm_1 = staticmethod(sparsifying_thresholds)

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = SoRALinear.fresh(nn.Linear(in_, out), r, alpha, module, seed)
        return self.layer(layer, layer.scale)

    def prune(self, layer: Layer) -> Layer:
        return self.layer(self.build(layer).pruned(), layer.s)

    def merge(self, layer: Layer) -> Any:
        module = self.build(layer)
        merge(module)
        return array(module.base.weight)

    def unmerge(self, layer: Layer) -> Any:
        module = self.build(layer)
        merge(module)
        unmerge(module)
        return array(module.base.weight)

    def refuse_merge(self, layer: Layer, case: str) -> None:
        module = self.build(layer)
        if case == "again":
            merge(module)
        elif case == "tied":
            module = nn.Sequential(module, SoRALinear(module.base, 1, 1.0))
        elif case == "dropout":
            module.train().dropout.p = 0.1
        merge(module)

    def count(self, layers: Mapping[str, Layer]) -> int:
        return retained(self.model(layers))

    def ranks(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        found = sora_layers(self.model(layers))
        return {name: len(found[name.replace(".", "_")].open) for name in layers}

    def model(self, layers: Mapping[str, Layer]) -> nn.ModuleDict:
        """All of them in one model; its names may have no dots."""
        return nn.ModuleDict({name.replace(".", "_"): self.build(layer) for name, layer in layers.items()})

    def save(self, layer: Layer, folder: Path) -> None:
        save(self.build(layer), folder / "adapter.safetensors")

    def load(self, folder: Path, W0: Any, b: Any) -> Layer:
        module = load(around(tensor(W0), tensor(b)), folder / "adapter.safetensors")
        return self.layer(module, module.scale)


# ruff: noqa: D102, RUF012 - methods are described in Implementation
