"""Every operation with a backward, at the places where another library differentiates its own form of it.

An oracle gives a function of the same name and arguments for each operation, and its way to differentiate it; inputs,
our side and the comparison are here.  Distances are bounded beforehand for the SoRA linear (SORA-BOUND-2, 4) and
measured for the layers (`tiny_bert.Rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tiny_bert

from sora_ref import SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.bounds import linear_backward_bound, linear_bound
from sora_ref.models import cross_entropy, layers, linear_cross_entropy, squared_error

Floats = npt.NDArray[Any]
Named = Mapping[str, Floats]
Pullback = Callable[[Any], tuple[Any, ...]]
Oracle = Callable[["Operation", Floats], Named]  # (operation, dy) -> y, and d⟨dy, y⟩ as `d` + the input's name

LABELS, TARGETS = np.array([0, 2, 1, 2]), np.array([0.5, -1.0, 2.0, 0.0])


@dataclass(frozen=True)
class Operation:
    """One operation at one place.

    ours:   (**inputs, **fixed) -> y, and dy -> gradients of ⟨dy, y⟩ in the order of the inputs.
    inputs: the arguments that are differentiated;  fixed: the others.
    """

    ours: Callable[..., tuple[Any, Pullback]]
    inputs: Named
    fixed: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def name(self) -> str:
        """What an oracle calls its own form of it."""
        return self.ours.__name__

    def __str__(self) -> str:
        return f"{self.name}-{self.place}" if self.place else self.name

    def results(self, dy: Floats, dtype: str = "float64") -> dict[str, Floats]:
        y, backward = self.ours(**{name: x.astype(dtype) for name, x in self.inputs.items()}, **self.fixed)
        grads = zip(self.inputs, backward(dy.astype(dtype)), strict=True)
        return {"y": np.asarray(y), **{f"d{name}": np.asarray(grad) for name, grad in grads}}

    def cotangent(self) -> Floats:
        shape = np.shape(self.ours(**self.inputs, **self.fixed)[0])
        return np.asarray(np.random.default_rng(0).standard_normal(shape))


def check_measured(operation: Operation, oracle: Oracle) -> None:
    """Value and gradients within the rounding that float32 shows (see `tiny_bert`)."""
    dy = operation.cotangent()
    rounding = tiny_bert.Rounding.of(lambda dtype: operation.results(dy, dtype))
    rounding.check(operation.results(dy), oracle(operation, dy))


def check_bounded(operation: Operation, oracle: Oracle) -> None:
    """A SoRA linear's value and gradients within twice the derived bound, and zero where zero gates make them so."""
    x, W0, b, A, g, B = (operation.inputs[name] for name in ("x", "W0", "b", "A", "g", "B"))
    keep, p, s = (operation.fixed[name] for name in ("keep", "p", "s"))
    dy = operation.cotangent()
    found, expected, adapter = operation.results(dy), oracle(operation, dy), SoRA(A, g, B, s)
    bound = linear_backward_bound(dy, x, W0, adapter, keep=keep, p=p)._asdict()
    bound["y"] = linear_bound(x, W0, b, adapter, keep=keep, p=p)
    assert found.keys() == expected.keys() == bound.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape == bound[name].shape, name
        assert np.all(np.abs(found[name] - value) <= 2 * bound[name]), name
    for results in (found, expected):
        assert not np.any(results["dA"][g == 0])
        assert not np.any(results["dB"][:, g == 0])


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


# --- our side: each function's name and arguments are those of the oracles' functions


def sora_linear(
    x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any, *, s: float, keep: Any, p: float
) -> tuple[Any, Pullback]:
    y, cache = sora_linear_forward(x, W0, b, SoRA(A, g, B, s), keep=keep, p=p)

    def backward(dy: Any) -> tuple[Any, ...]:
        d = sora_linear_backward(dy, cache, dW0=True, db=True)
        return d.dx, d.dW0, d.db, d.dA, d.dg, d.dB

    return y, backward


def layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> tuple[Any, Pullback]:
    y, cache = layers.layer_norm_forward(x, weight, bias, eps)
    return y, lambda dy: layers.layer_norm_backward(dy, cache)


def rms_norm(x: Any, weight: Any, *, eps: float) -> tuple[Any, Pullback]:
    y, cache = layers.rms_norm_forward(x, weight, eps)
    return y, lambda dy: layers.rms_norm_backward(dy, cache)


def gelu(x: Any) -> tuple[Any, Pullback]:
    y, cache = layers.gelu_forward(x)
    return y, lambda dy: (layers.gelu_backward(dy, cache),)


def silu(x: Any) -> tuple[Any, Pullback]:
    y, cache = layers.silu_forward(x)
    return y, lambda dy: (layers.silu_backward(dy, cache),)


def tanh(x: Any) -> tuple[Any, Pullback]:
    y, cache = layers.tanh_forward(x)
    return y, lambda dy: (layers.tanh_backward(dy, cache),)


def embedding(table: Any, *, ids: Any) -> tuple[Any, Pullback]:
    y, cache = layers.embedding_forward(table, ids)
    return y, lambda dy: (layers.embedding_backward(dy, cache),)


def attention(q: Any, k: Any, v: Any, *, heads: int, mask: Any, keep: Any, p: float) -> tuple[Any, Pullback]:
    y, cache = layers.attention_forward(q, k, v, heads, layers.attention_bias(mask, q.dtype), keep, p)
    return y, lambda dy: layers.attention_backward(dy, cache)


def summed_cross_entropy(logits: Any, *, labels: Any) -> tuple[Any, Pullback]:
    loss, dlogits = cross_entropy(logits, labels)
    return loss, lambda dy: (dy * dlogits,)


def summed_linear_cross_entropy(hidden: Any, *, W: Any, bias: Any, labels: Any) -> tuple[Any, Pullback]:
    loss, dhidden, _ = linear_cross_entropy(hidden, W, bias, labels)
    return loss, lambda dy: (dy * dhidden,)


def summed_squared_error(outputs: Any, *, targets: Any) -> tuple[Any, Pullback]:
    loss, doutputs = squared_error(outputs, targets.astype(outputs.dtype))
    return loss, lambda dy: (dy * doutputs,)


# --- the places


def sora_linear_at(leading: tuple[int, ...], rank: int, p: float) -> Operation:
    """In 5, out 7: a rank of 9 exceeds both.  Every other gate is zero."""
    inputs = normal(1, x=(*leading, 5), W0=(7, 5), b=(7,), A=(rank, 5), g=(rank,), B=(7, rank))
    inputs["g"][::2] = 0
    keep = np.random.default_rng(2).random((*leading, 5)) >= p if p else None
    return Operation(sora_linear, inputs, {"s": 1.5, "keep": keep, "p": p}, f"{leading}-{rank}-{p}")


def attention_at(heads: int, p: float) -> Operation:
    mask = np.arange(5) < np.array([[5], [2]])
    keep = np.random.default_rng(5).random((2, heads, 5, 5)) >= p if p else None
    fixed = {"heads": heads, "mask": mask, "keep": keep, "p": p}
    return Operation(attention, normal(6, q=(2, 5, 6), k=(2, 5, 6), v=(2, 5, 6)), fixed, f"{heads}-{p}")


SORA_LINEAR = [
    sora_linear_at(leading, rank, p)
    for leading in ((6,), (2, 3), (), (2, 0))
    for rank in (0, 1, 4, 9)
    for p in (0.0, 0.3)
]
LAYERS = [
    *(
        Operation(layer_norm, normal(3, x=(2, 3, 6), weight=(6,), bias=(6,)), {"eps": eps}, str(eps))
        for eps in (1e-12, 1e-1)
    ),
    Operation(rms_norm, normal(9, x=(2, 3, 6), weight=(6,)), {"eps": 1e-6}),
    Operation(gelu, {"x": np.linspace(-5, 5, 101)}),
    Operation(silu, {"x": np.linspace(-5, 5, 101)}),
    Operation(tanh, {"x": np.linspace(-5, 5, 101)}),
    Operation(embedding, normal(4, table=(5, 3)), {"ids": np.array([[0, 3, 3], [2, 0, 3]])}),
    *(attention_at(heads, p) for heads in (1, 2, 3) for p in (0.0, 0.3)),
    Operation(summed_cross_entropy, normal(7, logits=(4, 3)), {"labels": LABELS}),
    Operation(
        summed_linear_cross_entropy,
        normal(10, hidden=(5, 3)),
        {**normal(11, W=(4, 3), bias=(4,)), "labels": np.array([0, -100, 3, 1, -100])},
    ),
    Operation(summed_squared_error, normal(8, outputs=(4, 1)), {"targets": TARGETS}),
]
