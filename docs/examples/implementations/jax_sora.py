"""SoRA in JAX, written from the specification alone, with autograd: pure functions on dictionaries of arrays.

A layer is {"W0", "b", "A", "g", "B", "s"}, a merged one {"W0", "b"}; a model is a dictionary of layers.  The last class
shows them to the conformance kit.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from sora_ref.conformance import Layer, Plan
from sora_ref.conformance.protocol.jax_base import JaxImplementation

Params = dict[str, Any]


def sora_linear(layer: Params, x: Any, keep: Any = None, p: float = 0.0) -> Any:
    """y = x W0ᵀ + b + s·((drop(x) Aᵀ) ⊙ g) Bᵀ (SORA-LINEAR-1); keep is dropout's mask, shaped as x."""
    y = x @ layer["W0"].T
    if layer["b"] is not None:
        y = y + layer["b"]
    if "A" not in layer:
        return y
    dropped = x if keep is None else jnp.where(keep, x / (1 - p), 0)
    return y + layer["s"] * ((dropped @ layer["A"].T) * layer["g"]) @ layer["B"].T


# --- training ---


def soft_threshold(v: Any, a: float) -> Any:
    """T_a(v) = v − clip(v, −a, a) (SORA-PROX-1)."""
    return v - jnp.clip(v, -a, a)


def clip_gradients(grads: Params, limit: float) -> Params:
    """All gradients, scaled to a common norm of at most `limit` (SORA-STEP-4)."""
    norm = jnp.sqrt(sum(jnp.vdot(grad, grad) for grad in grads.values()))
    return jax.tree_util.tree_map(lambda grad: grad * jnp.minimum(1, limit / norm), grads)


def proximal_sgd(trained: Params, grads: Params, lr: float, lam: float, decay: float = 0.0) -> Params:
    """Weights by SGD with decoupled decay (SORA-OPT-1), gates by the rule `paper` (SORA-GATE-1), at one iterate."""
    moved = {name: trained[name] - lr * (grads[name] + decay * trained[name]) for name in ("A", "B")}
    return moved | {"g": soft_threshold(trained["g"] - lr * grads["g"], lr * lam)}


def mean_gradients(layer: Params, microbatches: Sequence[tuple[Any, Any]]) -> Params:
    """Of ⟨dy, y⟩, summed over all examples and divided by their number (SORA-STEP-2)."""

    def loss(trained: Params, x: Any, dy: Any) -> Any:
        return jnp.vdot(dy, sora_linear(layer | trained, x))

    trained = {name: layer[name] for name in ("A", "g", "B")}
    parts = [jax.grad(loss)(trained, x, dy) for x, dy in microbatches]
    examples = sum(len(x) for x, _ in microbatches)
    return jax.tree_util.tree_map(lambda *grads: sum(grads) / examples, *parts)


def linear_rate(t: int, peak: float, total: int, warmup: int) -> float:
    """The learning rate of step t = 1 … total (SORA-SCHED-1)."""
    top = max(warmup, 1)
    return peak * min(t / top, (total + 1 - t) / (total + 1 - top))


def stage_thresholds(kind: str, start: float, stop: float, stages: int) -> list[float]:
    """Equal steps of ξ, of exp ξ or of log ξ (SORA-SCHED-3)."""
    there, back = {
        "linear": (lambda v: v, lambda v: v),
        "log_linear": (math.exp, math.log),
        "exp_linear": (math.log, math.exp),
    }[kind]
    first, last = there(start), there(stop)
    return [start, *(back(first + (last - first) * k / (stages - 1)) for k in range(1, stages))]


def sparsifying_thresholds(xi0: float, xi_max: float, delta: float) -> list[float]:
    """ξ0, ξ0 + δ, … up to ξ_max, summed as the decimals they are written in (SORA-SCHED-4)."""
    first, last, step = (Fraction(str(value)) for value in (xi0, xi_max, delta))
    return [float(first + k * step) for k in range((last - first) // step + 1)]


def fresh(path: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Params:
    """A branch that begins at zero, its draws keyed by seed and path (SORA-INIT-1, SORA-INIT-2)."""
    for_A, for_g = jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode())))
    edge = 1 / math.sqrt(in_)
    A, g = jax.random.uniform(for_A, (r, in_), minval=-edge, maxval=edge), jax.random.normal(for_g, (r,))
    return {"A": A, "g": g, "B": jnp.zeros((out, r)), "s": alpha / max(r, 1)}


# --- what is left ---


def prune(layer: Params) -> Params:
    """The same map without the closed components, with the same scale (SORA-PRUNE-1, SORA-PRUNE-2)."""
    keep = np.flatnonzero(layer["g"])
    return layer | {"A": layer["A"][keep], "g": layer["g"][keep], "B": layer["B"][:, keep]}


def merge(model: Mapping[str, Params], p: float = 0.0) -> dict[str, Params]:
    """Every layer as one weight, W0 + s·B diag(g) A; p is the dropout in force, and has to be none (SORA-PRUNE-4)."""
    if p > 0:
        raise ValueError(f"merging under dropout {p}: expected none")
    uses = Counter(id(layer["W0"]) for layer in model.values())
    for name, layer in model.items():
        if "A" not in layer:
            raise ValueError(f"{name} is merged already")
        if uses[id(layer["W0"])] > 1:
            raise ValueError(f"the frozen weight of {name} is tied to another: merging would part them")
    return {name: {"W0": layer["W0"] + update(layer), "b": layer["b"]} for name, layer in model.items()}


def unmerge(merged: Params, layer: Params) -> Params:
    """The layer again, its W0 within a rounding or two (SORA-PRUNE-5)."""
    return layer | {"W0": merged["W0"] - update(layer)}


def update(layer: Params) -> Any:
    """s·B diag(g) A."""
    return (layer["s"] * layer["B"] * layer["g"]) @ layer["A"]


def ranks(model: Mapping[str, Params]) -> dict[str, int]:
    """Open components by module (SORA-COUNT-1)."""
    return {name: int(jnp.count_nonzero(layer["g"])) for name, layer in model.items()}


def retained(model: Mapping[str, Params]) -> int:
    """Entries of A and B in open components (SORA-COUNT-2)."""
    return sum(rank * sum(model[name]["W0"].shape) for name, rank in ranks(model).items())


def save(layer: Params, file: Path) -> None:
    """The branch; its scale travels in the header, where no dtype rounds it."""
    tensors = {name: np.ascontiguousarray(layer[name]) for name in ("A", "g", "B")}
    save_file(tensors, file, metadata={"scale": repr(layer["s"])})


def load(file: Path) -> Params:
    """The branch that was saved."""
    with safe_open(file, framework="numpy") as found:
        branch = {name: jnp.asarray(found.get_tensor(name)) for name in ("A", "g", "B")}
        return branch | {"s": float(found.metadata()["scale"])}


# --- shown to the kit ---


class JaxSoRA(JaxImplementation):
    """Everything above."""

    name = "JAX, by autograd"

    def apply(self, params: Params, x: Any) -> Any:
        return sora_linear(params, x)

    def apply_in_training(self, params: Params, x: Any, p: float, key: Any) -> Any:
        return sora_linear(params, x, jax.random.bernoulli(key, 1 - p, x.shape), p)

    def update(self, trained: Params, grads: Params, state: Any, plan: Plan, t: int) -> tuple[Params, Any]:
        return proximal_sgd(trained, grads, plan.lrs[t - 1], plan.strength, plan.weight_decay), state

    def clip(self, grads: Params, limit: float) -> Params:
        return clip_gradients(grads, limit)

    def prox(self, v: Any, xi: float) -> Any:
        return np.asarray(soft_threshold(jnp.asarray(v), xi))

    def penalty(self, gates: Sequence[Any], lam: float) -> float:
        return float(lam * sum(jnp.abs(g).sum() for g in gates))

    def accumulate(self, layer: Layer, microbatches: Any) -> dict[str, Any]:
        found = mean_gradients(self.params(layer), microbatches)
        return {f"d{name}": np.asarray(grad) for name, grad in found.items()}

    def learning_rates(self, peak: float, total: int, warmup: int) -> list[float]:
        return [linear_rate(t, peak, total, warmup) for t in range(1, total + 1)]

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> list[list[float]]:
        return [self.learning_rates(peak, total, warmup) for _ in values]  # a schedule for every stage

    stage_values = staticmethod(stage_thresholds)
    algorithm_1 = staticmethod(sparsifying_thresholds)

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        frozen = {"W0": jnp.zeros((out, in_)), "b": jnp.zeros(out)}
        return self.layer(frozen | fresh(module, out, in_, r, alpha, seed))

    def prune(self, layer: Layer) -> Layer:
        return self.layer(prune(self.params(layer)))

    def merge(self, layer: Layer) -> Any:
        return np.asarray(merge({"m": self.params(layer)})["m"]["W0"])

    def unmerge(self, layer: Layer) -> Any:
        params = self.params(layer)
        return np.asarray(unmerge(merge({"m": params})["m"], params)["W0"])

    def refuse_merge(self, layer: Layer, case: str) -> None:
        params = self.params(layer)
        model = {"m": params, "n": params} if case == "tied" else {"m": params}
        merge(merge(model) if case == "again" else model, p=0.1 if case == "dropout" else 0.0)

    def ranks(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        return ranks({name: self.params(layer) for name, layer in layers.items()})

    def count(self, layers: Mapping[str, Layer]) -> int:
        return retained({name: self.params(layer) for name, layer in layers.items()})

    def save(self, layer: Layer, folder: Path) -> None:
        save(self.params(layer), folder / "adapter.safetensors")

    def load(self, folder: Path, W0: Any, b: Any) -> Layer:
        return self.layer({"W0": W0, "b": b} | load(folder / "adapter.safetensors"))


# ruff: noqa: D102 - methods are described in Implementation
