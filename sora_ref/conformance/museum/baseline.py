"""A right SoRA in plain NumPy, as one would write it in an afternoon: the baseline of most mistakes of the museum.

It shares no code with the specification's own functions, so the kit is tried on code that the kit does not use itself.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sora_ref.conformance.protocol.implementation import Implementation
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple


class PlainSoRA(Implementation):
    """The paper's rule: SGD, then the soft threshold at η_t·λ."""

    name = "plain NumPy"

    # --- the linear map ---

    def forward(self, layer: Layer, x: Floats) -> Floats:  # noqa: D102 - as in Implementation, here and below
        y = x @ layer.W0.T + self.branch(layer, x)
        return y if layer.b is None else y + layer.b

    def branch(self, layer: Layer, x: Floats) -> Floats:
        """s·((x Aᵀ) ⊙ g) Bᵀ."""
        out: Floats = layer.s * ((x @ layer.A.T) * layer.g) @ layer.B.T
        return out

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:  # noqa: D102
        return self.gradients_through(layer, x, dy, np.ones_like(x))

    def gradients_through(self, layer: Layer, x: Floats, dy: Floats, factor: Floats) -> dict[str, Floats]:
        """With x ⊙ factor, dropout's mask and scale, going into the branch."""
        W0, _, A, g, B, s = layer
        h = x * factor
        rows, drows = h.reshape(-1, h.shape[-1]), dy.reshape(-1, dy.shape[-1])
        z, v = rows @ A.T, s * (drows @ B)
        return {
            "dx": dy @ W0 + factor * ((s * (dy @ B) * g) @ A),
            "dA": (v * g).T @ rows,
            "dg": (v * z).sum(axis=0),
            "dB": s * drows.T @ (z * g),
        }

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        """0 with probability p, else 1/(1 − p), entry by entry."""
        keep = np.random.default_rng(seed).random(x.shape) >= p
        return (keep / (1 - p)).astype(x.dtype)

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:  # noqa: D102
        y = x @ layer.W0.T + self.branch(layer, x * self.mask(x, p, seed))
        return y if layer.b is None else y + layer.b

    def training_gradients(  # noqa: D102
        self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int
    ) -> Mapping[str, Floats]:
        return self.gradients_through(layer, x, dy, self.mask(x, p, seed))

    # --- gates and training ---

    def prox(self, v: Floats, xi: float) -> Floats:  # noqa: D102
        a = v.dtype.type(xi)
        out: Floats = v - np.minimum(np.maximum(v, -a), a)
        return out

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:  # noqa: D102
        after = []
        for t, grad in enumerate(grads):
            g = self.gate_step(g, grad, plan, t)
            after.append(g)
        return np.array(after)

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        """Step t, counted from 0."""
        lr = plan.lrs[t]
        return self.prox(g - lr * grad, lr * plan.strength)

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:  # noqa: D102
        return lam * sum(float(np.abs(g).sum()) for g in gates)

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:  # noqa: D102
        after = []
        for t, (x, dy) in enumerate(zip(xs, dys, strict=True)):
            grads = self.clip(self.gradients(layer, x, dy), plan.clip)
            layer = self.step(layer, grads, plan, t)
            after.append(Triple(layer.A, np.asarray(layer.g), layer.B))
        return after

    def clip(self, grads: Mapping[str, Floats], limit: float | None) -> dict[str, Floats]:
        """The gradients of A, g and B, their common norm at most `limit`."""
        found = {name: grads[name] for name in ("dA", "dg", "dB")}
        if limit is None:
            return found
        norm = math.sqrt(sum(float((grad * grad).sum()) for grad in found.values()))
        return {name: grad * min(1.0, limit / norm) if norm else grad for name, grad in found.items()}

    def step(self, layer: Layer, grads: Mapping[str, Floats], plan: Plan, t: int) -> Layer:
        """All three parameters, from gradients at this layer."""
        lr, decay = plan.lrs[t], plan.weight_decay
        return layer._replace(
            A=layer.A - lr * grads["dA"] - lr * decay * layer.A,
            g=self.gate_step(np.asarray(layer.g), grads["dg"], plan, t),
            B=layer.B - lr * grads["dB"] - lr * decay * layer.B,
        )

    def accumulate(  # noqa: D102
        self, layer: Layer, microbatches: Sequence[tuple[Floats, Floats]]
    ) -> Mapping[str, Floats]:
        parts = [self.gradients(layer, x, dy) for x, dy in microbatches]
        examples = sum(len(x) for x, _ in microbatches)
        return {name: np.sum([part[name] for part in parts], axis=0) / examples for name in ("dA", "dg", "dB")}

    # --- schedules ---

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:  # noqa: D102
        top = max(warmup, 1)
        return [peak * min(t / top, (total + 1 - t) / (total + 1 - top)) for t in range(1, total + 1)]

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:  # noqa: D102
        if kind == "linear":
            return list(np.linspace(start, stop, stages))
        if kind == "log_linear":
            return list(np.log(np.linspace(np.exp(start), np.exp(stop), stages)))
        return list(np.exp(np.linspace(np.log(start), np.log(stop), stages)))

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:  # noqa: D102
        count = math.floor((xi_max - xi0) / delta + 1e-9) + 1
        return [xi0 + k * delta for k in range(count)]

    def stage_rates(  # noqa: D102
        self, values: Sequence[float], peak: float, total: int, warmup: int
    ) -> Sequence[Sequence[float]]:
        return [self.learning_rates(peak, total, warmup) for _ in values]

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:  # noqa: D102
        rng = np.random.default_rng([seed, zlib.crc32(module.encode())])
        edge = 1 / math.sqrt(in_)
        A, g = rng.uniform(-edge, edge, (r, in_)), rng.standard_normal(r)
        dtype = np.float64
        W0, b, B = np.zeros((out, in_), dtype), np.zeros(out, dtype), np.zeros((out, r), dtype)
        return Layer(W0, b, A, g, B, alpha / max(r, 1))

    # --- what is left ---

    def prune(self, layer: Layer) -> Layer:  # noqa: D102
        keep = self.open(np.asarray(layer.g))
        return layer._replace(A=layer.A[keep], g=np.asarray(layer.g)[keep], B=layer.B[:, keep])

    def open(self, g: Floats) -> Floats:
        """Which components stay."""
        found: Floats = np.flatnonzero(g)
        return found

    def merge(self, layer: Layer) -> Floats:  # noqa: D102
        return layer.W0 + self.delta(layer)

    def unmerge(self, layer: Layer) -> Floats:  # noqa: D102
        return self.merge(layer) - self.delta(layer)

    def delta(self, layer: Layer) -> Floats:
        """s·B diag(g) A."""
        out: Floats = layer.s * (layer.B * layer.g) @ layer.A
        return out

    def refuse_merge(self, layer: Layer, case: str) -> None:  # noqa: D102
        raise ValueError(f"{case}: this layer cannot be merged")

    def count(self, layers: Mapping[str, Layer]) -> int:  # noqa: D102
        return sum((layer.A.shape[1] + layer.B.shape[0]) * self.rank(layer) for layer in layers.values())

    def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:  # noqa: D102
        return {name: self.rank(layer) for name, layer in layers.items()}

    def rank(self, layer: Layer) -> int:
        """The open components."""
        return int(np.count_nonzero(layer.g))

    def save(self, layer: Layer, folder: Path) -> None:  # noqa: D102
        np.savez(folder / "adapter.npz", A=layer.A, g=np.asarray(layer.g), B=layer.B)
        (folder / "scale.json").write_text(json.dumps(layer.s), encoding="utf-8", newline="\n")

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:  # noqa: D102
        with np.load(folder / "adapter.npz") as found:
            A, g, B = (found[name] for name in ("A", "g", "B"))
        return Layer(W0, b, A, g, B, json.loads((folder / "scale.json").read_text(encoding="utf-8")))
