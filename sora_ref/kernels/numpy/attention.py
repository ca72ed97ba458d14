"""Attention in blocks of heads whose scores fit into the processor's cache, with few passes over the scores.

The probabilities P = E/Z are not formed.  E = exp(S − max S) is, and Z, its sums over the keys; Z divides arrays of the
width of a head: the context O = E V/Z, and in the backward dO′ = dO/Z.  Then

    dS = P ⊙ (dP − Σ dP ⊙ P) = E ⊙ (dO′ Vᵀ − Σ dO′ ⊙ O)        since Σ_j dP_ij P_ij = Σ_k dO_ik O_ik

With dropout on the probabilities, D = keep/(1 − p), the context and dV take D ⊙ E for E, and dS takes D ⊙ (dO′ Vᵀ) for
dO′ Vᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sora_ref.backends import Array
from sora_ref.preconditions import require_shape

BLOCK = 262_144  # scores of a block: 1 MiB of float32


class AttentionCache(NamedTuple):
    """What the backward needs of the forward."""

    q: Array  # (b, h, t, d/h)  times the scale
    k: Array  # (b, h, t, d/h)
    v: Array  # (b, h, t, d/h)
    context: Array  # (b, h, t, d/h)
    e: Array  # (b, h, t, t)  E
    total: Array  # (b, h, t, 1)  Z
    scale: float  # 1/√(d/h)
    keep: Array | None  # (b, h, t, t) boolean
    p: float


def attention_forward(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
) -> tuple[Array, AttentionCache]:
    """softmax(q kᵀ/√(d/h) + bias) v, head by head; q, k, v (b, t, d) -> (b, t, d), and what the backward needs.

    bias: (b or 1, h or 1, t or 1, t), −∞ for a key that may not be seen; a query that sees no key gets zeros.
    keep, p: inverted dropout on the probabilities, keep (b, h, t, t).
    """
    e = np.empty((q.shape[0], heads, q.shape[1], q.shape[1]), q.dtype)
    return _attention(q, k, v, heads, bias, keep, p, e)


def attention_value(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
) -> tuple[Array, None]:
    """`attention_forward` for an evaluation: no backward follows, so nothing is kept."""
    return _attention(q, k, v, heads, bias, keep, p, None)[0], None


def _attention(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None, p: float, e: Array | None
) -> tuple[Array, AttentionCache]:
    """The context and the cache.  E is written into `e`; where that is None, into one buffer, block after block."""
    require_alike(q, k, v)
    b, t, d = q.shape
    scale = 1 / math.sqrt(d // heads)
    y = np.empty(q.shape, q.dtype)
    q, k, v, context = (split_heads(x, heads) for x in (q * scale, k, v, y))
    total = np.empty((b, heads, t, 1), q.dtype)
    ones = np.ones((t, 1), q.dtype)
    masked = not bool(np.all(bias == 0))
    bias = np.broadcast_to(bias, (b, heads, t, t))
    buffer = scores_buffer(b, heads, t, BLOCK, q.dtype) if e is None else None
    for part in blocks(b, heads, t, BLOCK):
        scores = e[part] if e is not None else corner(buffer, q[part].shape)
        np.matmul(q[part], k[part].mT, out=scores)
        if masked:
            scores += bias[part]
        top = scores.max(axis=-1, keepdims=True)
        scores -= np.where(np.isfinite(top), top, 0) if masked else top
        np.exp(scores, out=scores)
        np.matmul(scores, ones, out=total[part])
        if masked:
            total[part] += total[part] == 0  # a row of zeros over 1, not over 0
        dropped = scores if keep is None else _dropped(scores, keep[part], p)
        np.divide(dropped @ v[part], total[part], out=context[part])
    return y, AttentionCache(q, k, v, context, e, total, scale, keep, p)


def attention_backward(dy: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
    """(dq, dk, dv), each (b, t, d), for dy (b, t, d)."""
    q, k, v, context, e, total, scale, keep, p = cache
    b, heads, t, width = q.shape
    require_shape("dy", dy, (b, t, heads * width))
    grads = np.empty(dy.shape, dy.dtype), np.empty(dy.shape, dy.dtype), np.empty(dy.shape, dy.dtype)
    dq, dk, dv = (split_heads(grad, heads) for grad in grads)
    dy = split_heads(dy, heads)
    buffer = scores_buffer(b, heads, t, BLOCK, dy.dtype)
    for part in blocks(b, heads, t, BLOCK):
        do = dy[part] / total[part]
        inner = np.vecdot(do, context[part])[..., None]
        dscores = np.matmul(do, v[part].mT, out=corner(buffer, q[part].shape))
        seen = e[part]
        if keep is not None:
            dscores = _dropped(dscores, keep[part], p)
            seen = _dropped(seen, keep[part], p)
        dv[part] = seen.mT @ do  # term 1: through the values
        dscores -= inner
        dscores *= e[part]  # term 2: through the softmax
        dq[part] = dscores @ k[part]  # term 3: through the scores
        dk[part] = dscores.mT @ q[part]
    grads[0][...] *= scale
    return grads


def require_alike(q: Array, k: Array, v: Array) -> None:
    """SoRAError unless k and v have q's shape: a block of more sequences than q has would never be looked at."""
    require_shape("k", k, q.shape)
    require_shape("v", v, q.shape)


def blocks(b: int, heads: int, t: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Slices of sequences and heads with up to `most` scores each; at least one head of one sequence."""
    if heads * t * t <= most:
        step = max(most // max(heads * t * t, 1), 1)
        for start in range(0, b, step):
            yield slice(start, min(start + step, b)), slice(0, heads)
        return
    step = max(most // (t * t), 1)
    for sequence in range(b):
        for start in range(0, heads, step):
            yield slice(sequence, sequence + 1), slice(start, min(start + step, heads))


def scores_buffer(b: int, heads: int, t: int, most: int, dtype: Any) -> Array:
    """Room for the scores of the largest of these blocks."""
    return np.empty(
        max(((s.stop - s.start) * (h.stop - h.start) * t * t for s, h in blocks(b, heads, t, most)), default=0), dtype
    )


def corner(buffer: Array, shape: tuple[int, ...]) -> Array:
    """The beginning of `buffer` as scores (b, h, t, t), for q of this shape (b, h, t, d/h)."""
    b, heads, t, _ = shape
    return buffer[: b * heads * t * t].reshape(b, heads, t, t)


def _dropped(x: Array, keep: Array, p: float) -> Array:
    return np.where(keep, x / (1 - p), 0)


def split_heads(x: Array, heads: int) -> Array:
    """(b, t, d) -> (b, h, t, d/h), a view."""
    b, t, d = x.shape
    return x.reshape(b, t, heads, d // heads).transpose(0, 2, 1, 3)
