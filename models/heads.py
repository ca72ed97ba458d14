"""Heads: from the hidden states to logits, as data and one pair of functions.

    pooled = the first token's state, or the mean of the states of real tokens          (b, t, d) -> (b, d)
    pooled = f(D drop(pooled) + d₀)        where the head has a dense layer             (b, d) -> (b, d)
    logits = C drop(pooled) + c₀                                                        (b, d) -> (b, outputs)

The dropout in front of the dense layer is an option, for architectures differ in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.models import layers
from sora_ref.models.dropout import Dropout
from sora_ref.models.ops import ModelOps
from sora_ref.ops import LinearKept

HeadName = Literal["cls", "mean"]
Activation = Literal["tanh", "relu"]

_ACTIVATIONS: Mapping[Activation, tuple[Callable[[Array], tuple[Array, Array]], Callable[[Array, Array], Array]]] = {
    "tanh": (layers.tanh_forward, layers.tanh_backward),
    "relu": (layers.relu_forward, layers.relu_backward),
}


@dataclass(frozen=True)
class Head:
    """What stands between hidden states and logits.

    pooling:    the state of the "first" token, or the "mean" over real tokens.
    out:        the last linear layer's module, (outputs, d).  Dropout stands in front of it.
    dense:      the module of a (d, d) layer before it, with this activation after it; None where there is none.
    drop_dense: whether dropout stands in front of the dense layer too.
    dense_is_models: whether the dense layer belongs to the model and may be in its checkpoint (BERT's pooler).
    in_transformers: whether transformers' classifier class has this head, so that it ships inside that class.
    """

    pooling: Literal["first", "mean"]
    out: str
    dense: str | None = None
    activation: Activation = "tanh"
    drop_dense: bool = False
    dense_is_models: bool = False
    in_transformers: bool = True

    def shapes(self, hidden_size: int, outputs: int) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter, by name."""
        d = hidden_size
        dense = {} if self.dense is None else {f"{self.dense}.weight": (d, d), f"{self.dense}.bias": (d,)}
        return {**dense, f"{self.out}.weight": (outputs, d), f"{self.out}.bias": (outputs,)}

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter."""
        modules = (self.out,) if self.dense is None else (self.dense, self.out)
        return tuple(f"{module}.{part}" for module in modules for part in ("weight", "bias"))

    @property
    def outer(self) -> tuple[str, ...]:
        """The parameters outside the model, which are always drawn anew and trained."""
        return tuple(name for name in self.names if self.is_outside(name))

    @property
    def inner(self) -> tuple[str, ...]:
        """The parameters of the model's own dense layer, which its checkpoint may hold."""
        return tuple(name for name in self.names if not self.is_outside(name))

    def is_outside(self, name: str) -> bool:
        """Whether a module or parameter is this head's, and no part of the model below."""
        modules = {self.out} if self.dense is None or self.dense_is_models else {self.dense, self.out}
        return any(name == module or name.startswith(f"{module}.") for module in modules)


class HeadCache(NamedTuple):
    """What head_backward needs of the forward.

    dense: the dense layer's cache, what its activation keeps, and the mask in front of it.
    """

    head: Head
    mask: Array
    dense: tuple[LinearKept, Array, Array | None] | None
    out: LinearKept
    keep: Array | None
    hidden_dropout: float
    ops: ModelOps


def head_forward(
    head: Head, params: Mapping[str, Array], hidden: Array, mask: Array, ops: ModelOps, dropout: Dropout | None
) -> tuple[Array, HeadCache]:
    """Logits (b, outputs) of hidden states (b, t, d); mask (b, t) True where a token is."""
    pooled = _pool(head, hidden, mask)
    d, p = hidden.shape[-1], dropout.hidden if dropout else 0.0
    dense = None
    if head.dense is not None:
        keep_dense = dropout.vector(head.dense, d, p) if dropout and head.drop_dense else None
        dropped = layers.dropout_forward(pooled, keep_dense, p)
        y, cache = _linear(head.dense, params, dropped, ops)
        pooled, kept = _ACTIVATIONS[head.activation][0](y)
        dense = (cache, kept, keep_dense)
    keep = dropout.vector(head.out, d, p) if dropout else None
    logits, out = _linear(head.out, params, layers.dropout_forward(pooled, keep, p), ops)
    return logits, HeadCache(head, mask, dense, out, keep, p, ops)


def head_backward(
    dlogits: Array, cache: HeadCache, wanted: Collection[str], *, below: bool
) -> tuple[dict[str, Array], Array | None]:
    """Gradients of ⟨dlogits, logits⟩ for the head's parameters named in `wanted`; and by the states, where `below`."""
    head, mask, dense, out, keep, p, ops = cache
    found: dict[str, Array] = {}
    grads = ops.sora_linear_backward(dlogits, out, dW0=True, db=True)
    found[f"{head.out}.weight"], found[f"{head.out}.bias"] = grads.dW0, grads.db
    dpooled = layers.dropout_forward(grads.dx, keep, p)
    if dense is not None:
        linear, kept, keep_dense = dense
        grads = ops.sora_linear_backward(_ACTIVATIONS[head.activation][1](dpooled, kept), linear, dW0=True, db=True)
        found[f"{head.dense}.weight"], found[f"{head.dense}.bias"] = grads.dW0, grads.db
        dpooled = layers.dropout_forward(grads.dx, keep_dense, p)
    dhidden = _unpool(head, dpooled, mask) if below else None
    return {name: grad for name, grad in found.items() if name in wanted}, dhidden


def mean_weights(mask: Array, dtype: object) -> Array:
    """Mask (b, t) -> (b, t): 1/(tokens of the row) where a token is, 0 where padding is; a row without one is zero."""
    xp = array_namespace(mask)
    tokens = xp.astype(mask, dtype)
    count = xp.sum(tokens, axis=1, keepdims=True)
    return tokens / xp.where(count == 0, xp.ones_like(count), count)


def _linear(module: str, params: Mapping[str, Array], x: Array, ops: ModelOps) -> tuple[Array, LinearKept]:
    y, cache = ops.sora_linear_forward(x, params[f"{module}.weight"], params[f"{module}.bias"], None)
    return y, cache


def _pool(head: Head, hidden: Array, mask: Array) -> Array:
    """(b, t, d) -> (b, d)."""
    if head.pooling == "first":
        return hidden[:, 0, :]
    xp = array_namespace(hidden)
    weights = mean_weights(mask, hidden.dtype)
    return xp.squeeze(xp.expand_dims(weights, axis=1) @ hidden, axis=1)  # (b, 1, t) @ (b, t, d)


def _unpool(head: Head, dpooled: Array, mask: Array) -> Array:
    """(b, d) -> (b, t, d): the gradient by every state."""
    xp = array_namespace(dpooled)
    across = xp.expand_dims(dpooled, axis=1)
    if head.pooling == "first":
        return xp.concat([across, *[xp.zeros_like(across)] * (mask.shape[1] - 1)], axis=1)
    weights = mean_weights(mask, dpooled.dtype)
    return xp.expand_dims(weights, axis=2) * across  # (b, t, 1) * (b, 1, d)
