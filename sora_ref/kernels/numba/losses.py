"""Cross-entropy in one compiled pass over the logits, and over a vocabulary in chunks, so that no place has all logits.

    p_c = e_c/Σe    e_c = exp(l_c − m)    loss = log Σe − (l_label − m)    dl = p − onehot(label)          m = max l

Over chunks m and Σe run along: where a chunk raises m to m′, what was summed before is multiplied by exp(m − m′).  The
gradient by hidden, Σ_c p_c W_c − W_label, is such a sum too, so that one sweep over W makes it.  (Milakov & Gimelshein
2018; Dao et al. 2022.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.exp import exp32, exp32_of_nonpositive
from sora_ref.models import losses
from sora_ref.models.losses import IGNORED

CHUNK = 2048  # words of the vocabulary
_ZERO, _ONE, _LEAST = np.float32(0), np.float32(1), np.float32(-math.inf)


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """As `losses.cross_entropy`: the loss summed over the rows, and its gradient; sums of rows are float32's.

    The rows' losses are added in float64, in their order, and rounded once.
    """
    known = labels.dtype.kind in "iu" and labels.shape == logits.shape[:1]
    if logits.dtype != FLOAT32 or logits.ndim != 2 or logits.shape[1] == 0 or not known:
        return losses.cross_entropy(logits, labels)
    dlogits = np.empty(logits.shape, FLOAT32)
    loss = _cross_entropy(flat(logits).reshape(logits.shape), flat(labels.astype(np.int64, copy=False)), dlogits)
    return np.float32(loss), dlogits


def linear_cross_entropy(
    hidden: Array, W: Array, bias: Array | None, labels: Array, chunk: int = CHUNK
) -> tuple[Array, Array, Array]:
    """As `losses.linear_cross_entropy`, in memory for n·chunk logits: the loss, its gradient by hidden, the places.

    hidden (n, d), W (V, d), bias (V,), labels (n,).  Places without a label are left out of all products.
    """
    arrays = (hidden, W) if bias is None else (hidden, W, bias)
    fitting = hidden.ndim == W.ndim == 2 and (bias is None or bias.shape == W.shape[:1]) and len(W) > 0
    known = labels.dtype.kind in "iu" and labels.shape == hidden.shape[:1]
    if any(x.dtype != FLOAT32 for x in arrays) or not (fitting and known):
        return losses.linear_cross_entropy(hidden, W, bias, labels)
    places = np.flatnonzero(labels != IGNORED)
    own = labels[places].astype(np.int64)
    if not np.all((own >= 0) & (own < len(W))):
        return losses.linear_cross_entropy(hidden, W, bias, labels)
    dhidden = np.zeros(hidden.shape, FLOAT32)
    loss, dhidden[places] = _over_chunks(hidden[places], W, bias, own, chunk)
    return loss, dhidden, np.int64(places.size)


def _over_chunks(x: Array, W: Array, bias: Array | None, labels: Array, chunk: int) -> tuple[Array, Array]:
    """Loss and gradient of places that all have a label; x (n, d), labels (n,) int64 in [0, V)."""
    n = len(x)
    top, total, own, factor = np.full(n, _LEAST), np.zeros(n, FLOAT32), np.zeros(n, FLOAT32), np.empty(n, FLOAT32)
    summed, product, buffer = np.zeros_like(x), np.empty_like(x), np.empty(n * min(chunk, len(W)), FLOAT32)
    for begin in range(0, len(W), chunk):
        rows = W[begin : begin + chunk]
        logits = np.matmul(x, rows.T, out=buffer[: n * len(rows)].reshape(n, len(rows)))
        if bias is not None:
            logits += bias[begin : begin + chunk]
        highest = np.maximum(top, np.max(logits, axis=1))
        _exponentials(logits, labels - begin, top, highest, total, own, factor)
        summed *= factor[:, None]
        summed += np.matmul(logits, rows, out=product)
        top = highest
    dx = summed / np.where(total == 0, _ONE, total)[:, None] - W[labels]
    return np.float32(_loss(top, total, own)), dx


@compiled
def _cross_entropy(logits: Any, labels: Any, dlogits: Any) -> Any:
    """The loss; its gradient into dlogits; logits and dlogits (n, c), labels (n,)."""
    loss = 0.0
    for i in range(logits.shape[0]):
        row, e, label = logits[i], dlogits[i], labels[i]
        top = _LEAST
        for j in range(row.size):
            top = row[j] if row[j] > top else top  # NaN gets into the sum
        shift = top if np.isfinite(top) else _ZERO
        for j in range(row.size):
            e[j] = exp32(row[j] - shift)
        total = _sum(e)
        divisor = _ONE if total == 0 else total
        for j in range(row.size):
            e[j] = e[j] / divisor
        hit = 0 <= label < row.size
        own = row[label] if hit else top  # as in the specification, which costs such a row log Σe
        if hit:
            e[label] -= _ONE
        loss += _loss_of(top, total, own)
    return np.float32(loss)


@compiled
def _exponentials(logits: Any, labels: Any, top: Any, highest: Any, total: Any, own: Any, factor: Any) -> None:
    """One chunk, logits (n, c), becomes e = exp(logits − m′) in place; the running numbers of each place follow.

    labels: (n,), counted from the chunk's beginning; the logit of one that is in the chunk goes to `own`.
    top, highest: m and m′, the largest logits before the chunk and with it.
    total: Σe so far.  factor: exp(m − m′) goes there.
    """
    for i in range(logits.shape[0]):
        row, label = logits[i], labels[i]
        if 0 <= label < row.size:
            own[i] = row[label]
        shift = _ZERO if highest[i] == _LEAST else highest[i]  # −∞ alone: every e is 0
        for j in range(row.size):
            row[j] = exp32_of_nonpositive(row[j] - shift)
        factor[i] = exp32(top[i] - shift)
        total[i] = total[i] * factor[i] + _sum(row)


@compiled
def _loss(top: Any, total: Any, own: Any) -> Any:
    """The sum of the places' losses in float64, in their order, rounded to float32."""
    loss = 0.0
    for i in range(top.size):
        loss += _loss_of(top[i], total[i], own[i])
    return np.float32(loss)


@compiled
def _loss_of(top: Any, total: Any, own: Any) -> Any:
    """log Σe − (l_label − m), in float64; NaN where the largest logit is no finite number."""
    if not np.isfinite(top):
        return np.nan
    return math.log(np.float64(total)) - (np.float64(own) - np.float64(top))


@compiled(fastmath={"reassoc"})
def _sum(x: Any) -> Any:
    """Σ x_i in float32, of as many partial sums as the compiler finds fit ("reassoc")."""
    total = _ZERO
    for i in range(x.size):
        total += x[i]
    return total
