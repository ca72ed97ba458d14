"""BERT with a head: classification by cross-entropy, or regression by squared error.

Two heads.  "cls": the first token's state through BERT's pooler (dense, tanh), dropout, a linear classifier, as
transformers' BertForSequenceClassification.  "mean": the mean of the states of real tokens, then a linear layer.
Both classifiers are called `classifier`; the pooler keeps the name `pooler.dense` of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from array_api_compat import array_namespace, device

from sora_ref.backends import Array
from sora_ref.linear import LinearCache
from sora_ref.models import layers
from sora_ref.models.bert import Batch, BertCache, BertConfig, Params, bert_backward, bert_forward, bert_states
from sora_ref.models.dropout import Dropout
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Classifier:
    """A BERT with a head of so many outputs (classes, or 1 for regression)."""

    bert: BertConfig
    head: Literal["cls", "mean"]
    outputs: int

    def __post_init__(self) -> None:
        require(self.head in ("cls", "mean"), f"head is {self.head!r}: expected 'cls' or 'mean'")
        require(self.outputs >= 1, f"{self.outputs} outputs: expected at least 1")


def classifier_shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the head, by name."""
    d = model.bert.hidden_size
    pooler = {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)} if model.head == "cls" else {}
    return {**pooler, "classifier.weight": (model.outputs, d), "classifier.bias": (model.outputs,)}


class ClassifierCache(NamedTuple):
    """What classifier_backward needs of the forward."""

    bert: BertCache
    mask: Array
    pooler: tuple[LinearCache, Array] | None
    classifier: LinearCache
    keep: Array | None
    hidden_dropout: float


def classifier_forward(
    model: Classifier,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
    dropout: Dropout | None = None,
) -> tuple[Array, ClassifierCache]:
    """Logits (b, outputs) and the backward's cache.  A sequence without a token has mean 0."""
    hidden, bert = bert_forward(model.bert, params, batch, scales=scales, ops=ops, dropout=dropout)
    logits, head = _head_forward(model, params, hidden, batch.mask, ops, dropout)
    return logits, ClassifierCache(bert, batch.mask, *head)


def classifier_logits(
    model: Classifier,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
) -> Array:
    """The logits alone, of an evaluation; see `bert_states`."""
    hidden = bert_states(model.bert, params, batch, scales=scales, ops=ops)
    return _head_forward(model, params, hidden, batch.mask, ops, None)[0]


def _head_forward(
    model: Classifier, params: Params, hidden: Array, mask: Array, ops: ModelOps, dropout: Dropout | None
) -> tuple[Array, tuple[Any, LinearCache, Array | None, float]]:
    """Logits (b, outputs) of hidden states (b, t, d), and the head's part of the cache."""
    xp = array_namespace(hidden)
    pooler = None
    if model.head == "cls":
        first = hidden[:, 0, :]
        dense, cache = ops.sora_linear_forward(first, params["pooler.dense.weight"], params["pooler.dense.bias"], None)
        pooled, y = layers.tanh_forward(dense)
        pooler = (cache, y)
    else:
        weights = mean_weights(mask, hidden.dtype)
        pooled = xp.squeeze(xp.expand_dims(weights, axis=1) @ hidden, axis=1)  # (b, 1, t) @ (b, t, d)
    p = dropout.hidden if dropout else 0.0
    keep = dropout.vector("classifier", model.bert.hidden_size, p) if dropout else None
    dropped = layers.dropout_forward(pooled, keep, p)
    logits, classifier = ops.sora_linear_forward(dropped, params["classifier.weight"], params["classifier.bias"], None)
    return logits, (pooler, classifier, keep, p)


def classifier_backward(dlogits: Array, cache: ClassifierCache, wanted: Collection[str]) -> dict[str, Array]:
    """Gradients of ⟨dlogits, logits⟩ for the parameters named in `wanted`; dlogits (b, outputs)."""
    xp = array_namespace(dlogits)
    bert, mask, pooler, classifier, keep, p = cache
    ops = bert.run.ops
    found: dict[str, Array] = {}
    head = ops.sora_linear_backward(dlogits, classifier, dW0=True, db=True)
    found["classifier.weight"], found["classifier.bias"] = head.dW0, head.db
    dpooled = layers.dropout_forward(head.dx, keep, p)
    if pooler is not None:
        dense = ops.sora_linear_backward(layers.tanh_backward(dpooled, pooler[1]), pooler[0], dW0=True, db=True)
        found["pooler.dense.weight"], found["pooler.dense.bias"] = dense.dW0, dense.db

    grads = {name: grad for name, grad in found.items() if name in wanted}
    encoder = [name for name in wanted if name.startswith(("encoder.", "embeddings."))]
    if encoder:
        if pooler is not None:
            dhidden = _first_token(dense.dx, mask.shape[1])
        else:
            weights = mean_weights(mask, dpooled.dtype)
            dhidden = xp.expand_dims(weights, axis=2) * xp.expand_dims(dpooled, axis=1)  # (b, t, 1) * (b, 1, d)
        grads |= bert_backward(dhidden, bert, encoder)
    return grads


def _first_token(dfirst: Array, t: int) -> Array:
    """(b, d) -> (b, t, d): the gradient in place 0, zero elsewhere."""
    xp = array_namespace(dfirst)
    first = xp.expand_dims(dfirst, axis=1)
    return xp.concat([first, *[xp.zeros_like(first)] * (t - 1)], axis=1)


def mean_weights(mask: Array, dtype: object) -> Array:
    """Mask (b, t) -> (b, t): 1/(tokens of the row) where a token is, 0 where padding is; a row without one is zero."""
    xp = array_namespace(mask)
    tokens = xp.astype(mask, dtype)
    count = xp.sum(tokens, axis=1, keepdims=True)
    return tokens / xp.where(count == 0, xp.ones_like(count), count)


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Σ_n (log Σ_c exp logits_nc − logits_n,label), 0-d, and its gradient softmax(logits) − onehot(labels).

    logits: (b, c); labels: (b,) integers in [0, c).  A sum over examples: SORA-STEP-2 divides it.
    """
    xp = array_namespace(logits)
    classes = xp.arange(logits.shape[1], dtype=labels.dtype, device=device(labels))
    hit = xp.expand_dims(labels, axis=1) == classes
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    log_total = xp.log(xp.sum(xp.exp(shifted), axis=1))
    own = xp.sum(xp.where(hit, shifted, xp.zeros_like(shifted)), axis=1)  # a product with 0 would make NaN of −∞
    return xp.sum(log_total - own), layers.softmax(logits) - xp.astype(hit, logits.dtype)


def squared_error(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Σ_n (output_n − target_n)², 0-d, and its gradient; outputs (b, 1), targets (b,) of their dtype."""
    xp = array_namespace(outputs)
    difference = outputs - xp.expand_dims(targets, axis=1)
    return xp.sum(difference * difference), 2 * difference
