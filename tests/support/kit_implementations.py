"""Right implementations in unusual form, and the ways of looking at a report, that the tests of the kit share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sora_ref.conformance import Implementation, Layer, Plan, Report, StorageLayout, Triple
from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.protocol.storage_layout import grouped, ungrouped

Floats = Any


def failed(report: Report) -> list[str]:
    """The ids of the checks that did not pass where they had to."""
    return [outcome.check.id for outcome in report.shortcomings()]


def skipped(report: Report) -> dict[str, str]:
    """Why each check was skipped that was."""
    return {outcome.check.id: outcome.reason for outcome in report.outcomes if outcome.status == "skipped"}


class Transposed(PlainSoRA):
    """Weights as Hugging Face's Conv1D has them: (in, out)."""

    layout = StorageLayout(transposed=True)

    def forward(self, layer: Layer, x: Floats) -> Floats:
        y = x @ layer.W0 + layer.s * ((x @ layer.A) * layer.g) @ layer.B
        return y if layer.b is None else y + layer.b

    def gradients_through(self, layer: Layer, x: Floats, dy: Floats, factor: Floats) -> dict[str, Floats]:
        found = super().gradients_through(straight(layer), x, dy, factor)
        return found | {"dA": found["dA"].T, "dB": found["dB"].T}

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        return super().training_forward(straight(layer), x, p, seed)

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer, x)

    def prune(self, layer: Layer) -> Layer:
        keep = self.open(layer.g)
        return layer._replace(A=layer.A[:, keep], g=layer.g[keep], B=layer.B[keep])

    def delta(self, layer: Layer) -> Floats:
        return super().delta(straight(layer)).T

    def count(self, layers: Mapping[str, Layer]) -> int:
        return super().count({name: straight(layer) for name, layer in layers.items()})

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        layer = super().initial(module, out, in_, r, alpha, seed)
        return layer._replace(W0=layer.W0.T, A=layer.A.T, B=layer.B.T)


def straight(layer: Layer) -> Layer:
    """A transposed layer as (out, in)."""
    return layer._replace(W0=layer.W0.T, A=layer.A.T, B=layer.B.T)


class Stepping(Implementation):
    """What has gradients of its own and takes its steps as the plain implementation does."""

    inner: ClassVar[PlainSoRA] = PlainSoRA()

    def prox(self, v: Floats, xi: float) -> Floats:
        return self.inner.prox(v, xi)

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
        after = []
        for t, (x, dy) in enumerate(zip(xs, dys, strict=True)):
            layer = self.inner.step(layer, self.inner.clip(self.gradients(layer, x, dy), plan.clip), plan, t)
            after.append(Triple(layer.A, layer.g, layer.B))
        return after


class Fused(Stepping):
    """Three projections in one, each with a triple of its own, as a fused QKV layer has them."""

    layout = StorageLayout(groups=3)

    def whole(self, layer: Layer) -> Layer:
        return layer._replace(B=grouped(layer.B, 3))

    def forward(self, layer: Layer, x: Floats) -> Floats:
        parts = []
        for W0, b, A, g, B in zip(
            np.split(layer.W0, 3),
            [None] * 3 if layer.b is None else np.split(layer.b, 3),
            np.split(layer.A, 3),
            np.split(layer.g, 3),
            np.split(layer.B, 3),
            strict=True,
        ):
            parts.append(self.inner.forward(Layer(W0, b, A, g, B, layer.s), x))
        return np.concatenate(parts, axis=-1)

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        found = dict(self.inner.gradients(self.whole(layer), x, dy))
        return found | {"dB": ungrouped(found["dB"], 3)}

    def prune(self, layer: Layer) -> Layer:
        """Slices keep one rank: that of the one with most open gates; closed ones fill the others up."""
        g, A, B = (np.split(part, 3) for part in (layer.g, layer.A, layer.B))
        rank = max(np.count_nonzero(each) for each in g)
        keep = [np.sort(np.argsort(each == 0, kind="stable")[:rank]) for each in g]
        return layer._replace(
            A=np.concatenate([each[k] for each, k in zip(A, keep, strict=True)]),
            g=np.concatenate([each[k] for each, k in zip(g, keep, strict=True)]),
            B=np.concatenate([each[:, k] for each, k in zip(B, keep, strict=True)]),
        )

    def merge(self, layer: Layer) -> Floats:
        return self.inner.merge(self.whole(layer))


class Tied(Stepping):
    """One triple for two frozen layers."""

    layout = StorageLayout(sites=2)

    def at(self, layer: Layer, k: int) -> Layer:
        return layer._replace(W0=layer.W0[k], b=None if layer.b is None else layer.b[k])

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return np.stack([self.inner.forward(self.at(layer, k), x[k]) for k in range(2)])

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        one, two = (self.inner.gradients(self.at(layer, k), x[k], dy[k]) for k in range(2))
        summed = {name: one[name] + two[name] for name in ("dA", "dg", "dB")}
        return {"dx": np.stack([one["dx"], two["dx"]]), **summed}

    def prune(self, layer: Layer) -> Layer:
        return self.inner.prune(layer)

    def merge(self, layer: Layer) -> Floats:
        return np.stack([self.inner.merge(self.at(layer, k)) for k in range(2)])


class WholeSteps(Implementation):
    """Nothing but a forward, whole steps and pruning: an `nn.Module` and an optimiser, say."""

    inner: ClassVar[PlainSoRA] = PlainSoRA()

    def forward(self, layer: Layer, x: Floats) -> Floats:
        return self.inner.forward(layer, x)

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
        return self.inner.train(layer, xs, dys, plan)

    def prune(self, layer: Layer) -> Layer:
        return self.inner.prune(layer)


class PlainLoRA(Implementation):
    """What pruning leaves, without gates, of rank 1 at least."""

    gated = False
    least_rank = 1

    def forward(self, layer: Layer, x: Floats) -> Floats:
        y = x @ layer.W0.T + layer.s * (x @ layer.A.T) @ layer.B.T
        return y if layer.b is None else y + layer.b

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:
        rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return {
            "dx": dy @ layer.W0 + layer.s * (dy @ layer.B) @ layer.A,
            "dA": layer.s * (drows @ layer.B).T @ rows,
            "dB": layer.s * drows.T @ (rows @ layer.A.T),
        }

    def merge(self, layer: Layer) -> Floats:
        return layer.W0 + layer.s * layer.B @ layer.A


class Bfloat16(PlainSoRA):
    """Matrix products whose inputs are rounded to bf16 and whose sums are float32's."""

    dtypes = ("float32",)
    precision = "bf16"

    @staticmethod
    def low(x: Floats) -> Floats:
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
        even = (bits >> np.uint64(16)) & np.uint64(1)
        return (
            (((bits + np.uint64(0x7FFF) + even) >> np.uint64(16)) << np.uint64(16)).astype(np.uint32).view(np.float32)
        )

    def product(self, a: Floats, b: Floats) -> Floats:
        return self.low(a) @ self.low(b)

    def branch(self, layer: Layer, x: Floats) -> Floats:
        u = np.float32(layer.s) * self.product(x, layer.A.T) * layer.g
        return self.product(u, layer.B.T)

    def forward(self, layer: Layer, x: Floats) -> Floats:
        if x.dtype != np.float32:
            raise TypeError("float32 alone")
        y = self.product(x, layer.W0.T) + self.branch(layer, x)
        return y if layer.b is None else y + layer.b

    def gradients_through(self, layer: Layer, x: Floats, dy: Floats, factor: Floats) -> dict[str, Floats]:
        W0, _, A, g, B, s = layer
        rows, drows = (x * factor).reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        z, v = self.product(rows, A.T), np.float32(s) * self.product(drows, B)
        return {
            "dx": self.product(drows, W0).reshape(x.shape) + factor * self.product(v * g, A).reshape(x.shape),
            "dA": self.product((v * g).T, rows),
            "dg": (v * z).sum(axis=0),
            "dB": np.float32(s) * self.product(drows.T, z * g),
        }
