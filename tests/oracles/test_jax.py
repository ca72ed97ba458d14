"""The SoRA linear and every layer, written in JAX from their formulas and differentiated by JAX, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from operations import LAYERS, SORA_LINEAR, Floats, Operation, check_bounded, check_measured

jax = pytest.importorskip("jax", reason="needs jax: pip install 'sora_ref[oracles]'")
jnp = jax.numpy

pytestmark = pytest.mark.usefixtures("jax_in_float64")


def sora_linear(x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any, *, s: float, keep: Any, p: float) -> Any:
    """Component by component: Σ_i s·g_i·⟨a_i, drop(x)⟩·b_i."""
    dropped = x if keep is None else jnp.where(keep, x / (1 - p), 0)
    branch = jnp.einsum("...k,ik,i,oi->...o", dropped, A, g, B)
    return jnp.einsum("...k,ok->...o", x, W0) + b + s * branch


def layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    return jax.nn.standardize(x, axis=-1, epsilon=eps) * weight + bias


def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def silu(x: Any) -> Any:
    return jax.nn.silu(x)


def tanh(x: Any) -> Any:
    return jnp.tanh(x)


def embedding(table: Any, *, ids: Any) -> Any:
    return table[ids]


def attention(q: Any, k: Any, v: Any, *, heads: int, mask: Any, keep: Any, p: float) -> Any:
    b, t, d = q.shape
    q, k, v = (jnp.reshape(x, (b, t, heads, d // heads)) for x in (q, k, v))
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(d // heads)
    weights = jax.nn.softmax(scores, axis=-1, where=mask[:, None, None, :])
    if keep is not None:
        weights = jnp.where(keep, weights / (1 - p), 0)
    return jnp.reshape(jnp.einsum("bhij,bjhd->bihd", weights, v), (b, t, d))


def summed_cross_entropy(logits: Any, *, labels: Any) -> Any:
    return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


def summed_linear_cross_entropy(hidden: Any, *, W: Any, bias: Any, labels: Any) -> Any:
    return summed_cross_entropy((hidden @ W.T + bias)[labels >= 0], labels=labels[labels >= 0])


def summed_squared_error(outputs: Any, *, targets: Any) -> Any:
    return jnp.sum(jnp.square(outputs[:, 0] - targets))


def by_jax(operation: Operation, dy: Floats) -> dict[str, Floats]:
    theirs = globals()[operation.name]  # this module's function of that name

    @jax.jit
    def value_and_pullback(inputs: Any, dy: Any) -> Any:
        y, pull = jax.vjp(lambda at: theirs(**at, **operation.fixed), inputs)
        return y, pull(dy)[0]

    y, grads = value_and_pullback(dict(operation.inputs), dy)
    assert y.dtype == jnp.float64
    return {"y": np.asarray(y), **{f"d{name}": np.asarray(grad) for name, grad in grads.items()}}


@pytest.mark.bounded("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-LINEAR-4")
@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-LINEAR-4", "SORA-BOUND-2", "SORA-BOUND-4")
@pytest.mark.parametrize("operation", SORA_LINEAR, ids=str)
def test_sora_linear_equals_jax(operation: Operation) -> None:
    check_bounded(operation, by_jax)


@pytest.mark.independent
@pytest.mark.parametrize("operation", LAYERS, ids=str)
def test_layer_equals_jax(operation: Operation) -> None:
    check_measured(operation, by_jax)
