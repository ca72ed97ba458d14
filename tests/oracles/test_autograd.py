"""The SoRA linear and every layer beside torch's own functions and autograd, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny_bert

from sora_ref import SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.models import cross_entropy, layers, squared_error

torch = pytest.importorskip("torch", reason="needs torch: pip install 'sora_ref[oracles]'")

Named = Mapping[str, npt.NDArray[Any]]
Ours = Callable[[Named], tuple[Any, Callable[[Any], tuple[Any, ...]]]]


def compare(inputs: Named, ours: Ours, theirs: Callable[..., Any], seed: int = 0) -> None:
    """Value and gradients of ⟨dy, f⟩: ours: inputs -> (y, dy -> gradients in their order); theirs: torch function."""
    shape = ours(inputs)[0].shape
    dy = np.random.default_rng(seed).standard_normal(shape)

    def compute(dtype: str) -> dict[str, npt.NDArray[Any]]:
        y, backward = ours({name: x.astype(dtype) for name, x in inputs.items()})
        grads = zip(inputs, backward(dy.astype(dtype)), strict=True)
        return {"y": np.asarray(y), **{f"d{name}": np.asarray(grad) for name, grad in grads}}

    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in inputs.items()}
    y = theirs(**leaves)
    (y * torch.tensor(dy)).sum().backward()
    expected = {"y": y.detach().numpy(), **{f"d{name}": leaf.grad.numpy() for name, leaf in leaves.items()}}
    tiny_bert.Rounding.of(compute).check(compute("float64"), expected)


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("rank", [1, 4, 9])
@pytest.mark.parametrize("leading", [(6,), (2, 3), ()])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_sora_linear_equals_autograd(leading: tuple[int, ...], rank: int, p: float) -> None:
    inputs = normal(1, x=(*leading, 5), W0=(7, 5), b=(7,), A=(rank, 5), g=(rank,), B=(7, rank))
    inputs["g"][0] = 0
    keep = np.random.default_rng(2).random((*leading, 5)) >= p if p else None

    def ours(at: Named) -> Any:
        y, cache = sora_linear_forward(at["x"], at["W0"], at["b"], SoRA(at["A"], at["g"], at["B"], 1.5), keep=keep, p=p)

        def backward(dy: Any) -> Any:
            d = sora_linear_backward(dy, cache, dW0=True, db=True)
            return d.dx, d.dW0, d.db, d.dA, d.dg, d.dB

        return y, backward

    def theirs(x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any) -> Any:
        dropped = x if keep is None else x * torch.tensor(keep) / (1 - p)
        weight = B @ torch.diag(g) @ A
        return torch.nn.functional.linear(x, W0, b) + 1.5 * torch.nn.functional.linear(dropped, weight)

    compare(inputs, ours, theirs)


@pytest.mark.parametrize("eps", [1e-12, 1e-1])
def test_layer_norm_equals_autograd(eps: float) -> None:
    def ours(at: Named) -> Any:
        y, cache = layers.layer_norm_forward(at["x"], at["weight"], at["bias"], eps)
        return y, lambda dy: layers.layer_norm_backward(dy, cache)

    def theirs(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.layer_norm(x, (6,), weight, bias, eps)

    compare(normal(3, x=(2, 3, 6), weight=(6,), bias=(6,)), ours, theirs)


@pytest.mark.parametrize(
    ("name", "theirs"), [("gelu", lambda x: torch.nn.functional.gelu(x)), ("tanh", lambda x: torch.tanh(x))]
)
def test_activations_equal_autograd(name: str, theirs: Callable[..., Any]) -> None:
    def ours(at: Named) -> Any:
        y, cache = getattr(layers, f"{name}_forward")(at["x"])
        return y, lambda dy: (getattr(layers, f"{name}_backward")(dy, cache),)

    compare({"x": np.linspace(-5, 5, 101)}, ours, theirs)


def test_embedding_equals_autograd() -> None:
    ids = np.array([[0, 3, 3], [2, 0, 3]])

    def ours(at: Named) -> Any:
        y, cache = layers.embedding_forward(at["table"], ids)
        return y, lambda dy: (layers.embedding_backward(dy, cache),)

    compare(normal(4, table=(5, 3)), ours, lambda table: torch.nn.functional.embedding(torch.tensor(ids), table))


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_equals_autograd(heads: int, p: float) -> None:
    mask = np.arange(5) < np.array([[5], [2]])
    keep = np.random.default_rng(5).random((2, heads, 5, 5)) >= p if p else None

    def ours(at: Named) -> Any:
        bias = layers.attention_bias(mask, at["q"].dtype)
        y, cache = layers.attention_forward(at["q"], at["k"], at["v"], heads, bias, keep, p)
        return y, lambda dy: layers.attention_backward(dy, cache)

    def theirs(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if keep is None:
            seen = torch.tensor(mask)[:, None, None, :]
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
            scores = scores.masked_fill(~torch.tensor(mask)[:, None, None, :], -math.inf)
            y = (torch.softmax(scores, dim=-1) * torch.tensor(keep) / (1 - p)) @ v
        return y.transpose(1, 2).flatten(2)

    compare(normal(6, q=(2, 5, 6), k=(2, 5, 6), v=(2, 5, 6)), ours, theirs)


def test_losses_equal_autograd() -> None:
    labels, targets = np.array([0, 2, 1, 2]), np.array([0.5, -1.0, 2.0, 0.0])

    def loss_of(pair: tuple[Any, Any]) -> Any:
        return pair[0], lambda dy: (dy * pair[1],)

    F = torch.nn.functional
    compare(
        normal(7, logits=(4, 3)),
        lambda at: loss_of(cross_entropy(at["logits"], labels)),
        lambda logits: F.cross_entropy(logits, torch.tensor(labels), reduction="sum"),
    )
    compare(
        normal(8, outputs=(4, 1)),
        lambda at: loss_of(squared_error(at["outputs"], targets.astype(at["outputs"].dtype))),
        lambda outputs: F.mse_loss(outputs.squeeze(1), torch.tensor(targets), reduction="sum"),
    )
