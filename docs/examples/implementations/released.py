"""A model of what the authors' released code computes, in NumPy; each method names its departure from the paper.

It declares nothing, so that the kit has to find the departures; `Declared` says which rule it means.  What the code has
not got is missing here too: pruning, merging, and Algorithm 1 (its schedules take a number of stages).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.conformance import VARIANTS, Implementation, Layer, Plan, Triple

Floats = np.ndarray[Any, np.dtype[Any]]

SPARSE_LAMBDA = 10.0  # of the released script without a schedule
BETAS, EPS = (0.9, 0.999), 1e-6
CLIP_EPS = 1e-6


def threshold(g: Floats, xi: float) -> Floats:
    """Three lines in sequence: what the first two leave in (−ξ, ξ), the third sets to zero; the dead zone is 2ξ."""
    g, xi = g.copy(), g.dtype.type(xi)
    g[g > xi] -= xi
    g[g < -xi] += xi
    g[np.abs(g) < xi] = 0.0
    return g


class OldAdamW:
    """AdamW as transformers once had it: ε on the uncorrected √v, and decay of the value after the step."""

    def __init__(self, weight_decay: float = 0.0) -> None:
        self.decay, self.t, self.m, self.v = weight_decay, 0, 0.0, 0.0

    def step(self, theta: Floats, grad: Floats, lr: float) -> Floats:
        """The parameter after one more step."""
        (b1, b2), self.t = BETAS, self.t + 1
        self.m = self.m * b1 + grad * (1 - b1)
        self.v = self.v * b2 + grad * grad * (1 - b2)
        size = lr * np.sqrt(1 - b2**self.t) / (1 - b1**self.t)
        theta = theta - size * (self.m / (np.sqrt(self.v) + EPS))
        after: Floats = theta - lr * self.decay * theta
        return after.astype(grad.dtype)


class Released(Implementation):
    """The released code, taken for the paper's rule."""

    name = "released code (a model)"

    # --- the linear map and its gradients: as in the paper ---

    def forward(self, layer: Layer, x: Floats) -> Floats:
        y = x @ layer.W0.T + layer.s * (((x @ layer.A.T) * layer.g) @ layer.B.T)
        return y if layer.b is None else y + layer.b

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> dict[str, Floats]:
        W0, _, A, g, B, s = layer
        rows, drows = x.reshape(-1, A.shape[1]), dy.reshape(-1, B.shape[0])
        z, v = rows @ A.T, (s * drows) @ B
        dx = dy @ W0 + (((s * dy) @ B) * g) @ A
        return {"dx": dx, "dA": (v * g).T @ rows, "dg": (v * z).sum(0), "dB": (s * drows).T @ (z * g)}

    # --- gates ---

    def prox(self, v: Floats, xi: float) -> Floats:
        return threshold(v, xi)

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:
        """AdamW, then the threshold at a ξ that no learning rate multiplies."""
        adamw, after = OldAdamW(), []
        for grad, lr in zip(grads, plan.lrs, strict=False):
            g = threshold(adamw.step(g, grad, lr), plan.strength)
            after.append(g)
        return np.stack(after)

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        """The loss has the mean over all gates, not the sum."""
        return lam * sum(float(np.abs(g).sum()) for g in gates) / max(sum(g.size for g in gates), 1)

    # --- training ---

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> list[Triple]:
        """L1 in the loss as well, and so in the clipped gradient; all by AdamW, then the threshold on the gates."""
        adamw = {"A": OldAdamW(plan.weight_decay), "g": OldAdamW(), "B": OldAdamW(plan.weight_decay)}
        after = []
        for x, dy, lr in zip(xs, dys, plan.lrs, strict=False):
            grads = self.gradients(layer, x, dy)
            grads["dg"] = grads["dg"] + SPARSE_LAMBDA / len(layer.g) * np.sign(layer.g)
            grads = clipped({name: grads[f"d{name}"] for name in adamw}, plan.clip)
            moved = {name: adamw[name].step(getattr(layer, name), grad, lr) for name, grad in grads.items()}
            layer = layer._replace(A=moved["A"], g=threshold(moved["g"], plan.strength), B=moved["B"])
            after.append(Triple(layer.A, layer.g, layer.B))
        return after

    def learning_rates(self, peak: float, total: int, warmup: int) -> list[float]:
        """As transformers counts: with a warm-up, the first learning rate is 0."""
        steps = range(total)
        return [peak * (k / warmup if k < warmup else (total - k) / max(total - warmup, 1)) for k in steps]

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> list[float]:
        """Three names; a list raises, for it is looked up as a name."""
        ends = {"linear": (None, None), "log_linear": (np.exp, np.log), "exp_linear": (np.log, np.exp)}
        there, back = ends[kind]
        if there is None or back is None:
            return [float(v) for v in np.linspace(start, stop, stages)]
        return [float(v) for v in back(np.linspace(there(start), there(stop), stages))]

    def stage_rates(self, values: Sequence[float], peak: float, total: int, warmup: int) -> list[list[float]]:
        """One schedule for all stages: after the first it is exhausted, and only the threshold acts."""
        return [self.learning_rates(peak, total, warmup)] + [[0.0] * total for _ in values[1:]]

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        """Kaiming-uniform with a = √5 is U(−1/√in, 1/√in); keyed by the module, so that one call shows one module."""
        rng, edge = np.random.default_rng([seed, zlib.crc32(module.encode())]), 1 / np.sqrt(in_)
        A, g = rng.uniform(-edge, edge, (r, in_)), rng.standard_normal(r)
        return Layer(np.zeros((out, in_)), None, A, g, np.zeros((out, r)), alpha / max(r, 1))

    # --- what is left ---

    def ranks(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        return {name: int((layer.g != 0).sum()) for name, layer in layers.items()}

    def count(self, layers: Mapping[str, Layer]) -> int:
        """All parameters of A and B, less 2·hidden for every closed gate, whatever the shape of its module."""
        hidden = next(iter(layers.values())).A.shape[1]
        every = sum(layer.A.size + layer.B.size for layer in layers.values())
        return every - 2 * hidden * sum(int((layer.g == 0).sum()) for layer in layers.values())

    def save(self, layer: Layer, folder: Path) -> None:
        np.savez(folder / "state.npz", A=layer.A, g=layer.g, B=layer.B, s=np.float64(layer.s))

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        with np.load(folder / "state.npz") as state:
            return Layer(W0, b, state["A"], state["g"], state["B"], float(state["s"]))


class Declared(Released):
    """The same, and it says which rule it means: what the kit then reports is a verified deviation."""

    name = "released code (a model), declared"
    choices = VARIANTS["released"]


def clipped(grads: Mapping[str, Floats], limit: float | None) -> dict[str, Floats]:
    """As torch clips: 1e-6 is added to the norm."""
    if limit is None:
        return dict(grads)
    norm = math.sqrt(sum(float((grad * grad).sum()) for grad in grads.values()))
    return {name: grad * min(1.0, limit / (norm + CLIP_EPS)) for name, grad in grads.items()}


# ruff: noqa: D102 - methods are described in Implementation
