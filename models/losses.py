"""Losses, each with its gradient.  They are sums over examples: SORA-STEP-2 divides them."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from sora_ref.backends import Array
from sora_ref.models.layers import softmax

IGNORED = -100  # the label of a place that has none, as in torch and transformers


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Σ_n (log Σ_c exp logits_nc − logits_n,label), 0-d, and its gradient softmax(logits) − onehot(labels).

    logits: (b, c); labels: (b,) integers in [0, c).
    """
    losses, dlogits = _of_rows(logits, labels)
    return array_namespace(logits).sum(losses), dlogits


def linear_cross_entropy(hidden: Array, W: Array, bias: Array | None, labels: Array) -> tuple[Array, Array, Array]:
    """The loss of a language model's head: cross-entropy of W h + bias, summed over the places that have a label.

    hidden: (n, d); W: (V, d), bias: (V,), for a vocabulary of V; labels: (n,) integers in [0, V), or IGNORED.
    Returns the loss, 0-d; its gradient by hidden, (n, d), zero at a place without a label, whatever stands there; and
    how many places have a label, 0-d.
    """
    xp = array_namespace(hidden)
    logits = hidden @ W.mT
    logits = logits if bias is None else logits + bias
    labelled = labels != IGNORED
    losses, dlogits = _of_rows(logits, labels)
    dhidden = dlogits @ W
    loss = xp.sum(xp.where(labelled, losses, xp.zeros_like(losses)))
    dhidden = xp.where(xp.expand_dims(labelled, axis=1), dhidden, xp.zeros_like(dhidden))
    return loss, dhidden, xp.sum(xp.astype(labelled, xp.int64))


def _of_rows(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The cross-entropy of every row, (b,), and the gradient of their sum."""
    xp = array_namespace(logits)
    classes = xp.arange(logits.shape[1], dtype=labels.dtype, device=device(labels))
    hit = xp.expand_dims(labels, axis=1) == classes
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    log_total = xp.log(xp.sum(xp.exp(shifted), axis=1))
    own = xp.sum(xp.where(hit, shifted, xp.zeros_like(shifted)), axis=1)  # a product with 0 would make NaN of −∞
    return log_total - own, softmax(logits) - xp.astype(hit, logits.dtype)


def squared_error(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Σ_n (output_n − target_n)², 0-d, and its gradient; outputs (b, 1), targets (b,) of their dtype."""
    xp = array_namespace(outputs)
    difference = outputs - xp.expand_dims(targets, axis=1)
    return xp.sum(difference * difference), 2 * difference
