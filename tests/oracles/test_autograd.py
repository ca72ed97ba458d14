"""The SoRA linear and every layer beside torch's own functions and autograd, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from operations import LAYERS, SORA_LINEAR, Floats, Operation, check_bounded, check_measured

torch = pytest.importorskip("torch", reason="needs torch: pip install 'sora_ref[oracles]'")
F = torch.nn.functional


def sora_linear(x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any, *, s: float, keep: Any, p: float) -> Any:
    dropped = x if keep is None else x * torch.tensor(keep) / (1 - p)
    return F.linear(x, W0, b) + s * F.linear(dropped, B @ torch.diag(g) @ A)


def layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    return F.rms_norm(x, weight.shape, weight, eps)


def gelu(x: Any) -> Any:
    return F.gelu(x)


def silu(x: Any) -> Any:
    return F.silu(x)


def tanh(x: Any) -> Any:
    return torch.tanh(x)


def embedding(table: Any, *, ids: Any) -> Any:
    return F.embedding(torch.tensor(ids), table)


def attention(q: Any, k: Any, v: Any, *, heads: int, mask: Any, keep: Any, p: float) -> Any:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    seen = torch.tensor(mask)[:, None, None, :]
    if keep is None:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    else:
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        y = (torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1) * torch.tensor(keep) / (1 - p)) @ v
    return y.transpose(1, 2).flatten(2)


def summed_cross_entropy(logits: Any, *, labels: Any) -> Any:
    return F.cross_entropy(logits, torch.tensor(labels), reduction="sum")


def summed_linear_cross_entropy(hidden: Any, *, W: Any, bias: Any, labels: Any) -> Any:
    logits = F.linear(hidden, torch.tensor(W), torch.tensor(bias))
    return F.cross_entropy(logits, torch.tensor(labels), reduction="sum", ignore_index=-100)


def summed_squared_error(outputs: Any, *, targets: Any) -> Any:
    return F.mse_loss(outputs.squeeze(1), torch.tensor(targets), reduction="sum")


def by_autograd(operation: Operation, dy: Floats) -> dict[str, Floats]:
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in operation.inputs.items()}
    y = globals()[operation.name](**leaves, **operation.fixed)  # this module's function of that name
    (y * torch.tensor(dy)).sum().backward()
    return {"y": y.detach().numpy(), **{f"d{name}": np.asarray(leaf.grad) for name, leaf in leaves.items()}}


@pytest.mark.bounded("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-LINEAR-4")
@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-LINEAR-4", "SORA-BOUND-2", "SORA-BOUND-4")
@pytest.mark.parametrize("operation", SORA_LINEAR, ids=str)
def test_sora_linear_equals_autograd(operation: Operation) -> None:
    check_bounded(operation, by_autograd)


@pytest.mark.independent
@pytest.mark.parametrize("operation", LAYERS, ids=str)
def test_layer_equals_autograd(operation: Operation) -> None:
    check_measured(operation, by_autograd)
