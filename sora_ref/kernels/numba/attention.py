"""Attention whose softmax is one compiled pass over a block of scores, and its derivative another; BLAS multiplies.

    P = softmax(s·q kᵀ + bias)    context = D v                                    s = 1/√(d/h)
    dv = Dᵀ dO    dD = dO vᵀ    dS = s·P ⊙ (dP − Σ_j dP ⊙ P)    dq = dS k    dk = dSᵀ q

D is P, and dP is dD; under dropout D = keep ⊙ P/(1 − p) and dP = keep ⊙ dD/(1 − p).  A block has as many heads as have
scores that fit into the processor's cache: there a product leaves them, and the pass and the next product find them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.exp import exp32, exp32_of_nonpositive
from sora_ref.kernels.numba.inlined import bits_of, float_of, inlined
from sora_ref.kernels.numba.sums import inner_product, sum_of
from sora_ref.kernels.numpy import attention as plain
from sora_ref.kernels.numpy.attention import blocks, corner, scores_buffer, split_heads
from sora_ref.models import layers

BLOCK = 131_072  # scores of a block: 512 KiB
_ZERO, _ONE, _INFINITY = np.float32(0), np.float32(1), np.float32(math.inf)
_ALL_BUT_SIGN = np.int32(2**31 - 1)


class AttentionCache(NamedTuple):
    """What the backward needs of the forward."""

    q: Array  # (b, h, t, d/h)
    k: Array  # (b, h, t, d/h)
    v: Array  # (b, h, t, d/h)
    probabilities: Array | None  # (b, h, t, t)  P
    keep: Array | None  # (b, h, t, t) boolean
    p: float


def attention_forward(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
) -> tuple[Array, Any]:
    """softmax(q kᵀ/√(d/h) + bias) v, head by head; q, k, v (b, t, d) -> (b, t, d), and what the backward needs.

    bias: (b or 1, h or 1, t or 1, t), −∞ for a key that may not be seen; a query that sees no key gets zeros.
    keep, p: inverted dropout on the probabilities, keep (b, h, t, t).
    """
    if not _compilable(q, k, v):
        return plain.attention_forward(q, k, v, heads, bias, keep, p)
    probabilities = np.empty((q.shape[0], heads, q.shape[1], q.shape[1]), q.dtype)
    return _attention(q, k, v, heads, bias, keep, p, probabilities)


def attention_value(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
) -> tuple[Array, None]:
    """`attention_forward` for an evaluation: no backward follows, so nothing is kept."""
    if not _compilable(q, k, v):
        return plain.attention_value(q, k, v, heads, bias, keep, p)
    return _attention(q, k, v, heads, bias, keep, p, None)[0], None


def attention_backward(dy: Array, cache: Any) -> tuple[Array, Array, Array]:
    """(dq, dk, dv), each (b, t, d), for dy (b, t, d)."""
    if not isinstance(cache, AttentionCache):
        return plain.attention_backward(dy, cache)
    q, k, v, probabilities, keep, p = cache
    assert probabilities is not None
    b, heads, t, width = q.shape
    if dy.dtype != FLOAT32 or dy.shape != (b, t, heads * width):
        dropped = layers.dropout_forward(probabilities, keep, p)
        return layers.attention_backward(dy, layers.AttentionCache(q, k, v, probabilities, dropped, keep, p))
    grads = np.empty(dy.shape, dy.dtype), np.empty(dy.shape, dy.dtype), np.empty(dy.shape, dy.dtype)
    dq, dk, dv = (split_heads(grad, heads) for grad in grads)
    dy = split_heads(dy, heads)
    buffer, scale = scores_buffer(b, heads, t, BLOCK, dy.dtype), np.float32(1 / math.sqrt(width))
    for part in blocks(b, heads, t, BLOCK):
        dropped, P = probabilities[part], probabilities[part]
        scores = corner(buffer, q[part].shape)
        if keep is not None:
            dropped = _dropped(P, keep[part], p, scores)
        np.matmul(dropped.mT, dy[part], out=dv[part])  # term 1: through the values
        np.matmul(dy[part], v[part].mT, out=scores)
        if keep is not None:
            _dropped(scores, keep[part], p, scores)
        softmax_backward(_rows(P), _rows(scores), scale)  # term 2: through the softmax
        np.matmul(scores, k[part], out=dq[part])  # term 3: through the scores
        np.matmul(scores.mT, q[part], out=dk[part])
    return grads


def _attention(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None, p: float, probabilities: Array | None
) -> tuple[Array, AttentionCache]:
    """The context and the cache.  P is written into `probabilities`; where that is None, into one buffer."""
    b, t, d = q.shape
    y = np.empty((b, t, d), q.dtype)
    q, k, v, context = (split_heads(x, heads) for x in (q, k, v, y))
    scale, masked = np.float32(1 / math.sqrt(d // heads)), not bool(np.all(bias == 0))
    bias, keep = _fitting(bias, keep, (b, heads, t, t))
    buffer = scores_buffer(b, heads, t, BLOCK, q.dtype)
    for part in blocks(b, heads, t, BLOCK):
        of_block = corner(buffer, q[part].shape)
        scores = of_block if probabilities is None else probabilities[part]
        np.matmul(q[part], k[part].mT, out=scores)
        softmax(scores, scale, bias, masked, part[0].start, part[1].start)
        dropped = scores if keep is None else _dropped(scores, keep[part], p, of_block)
        np.matmul(dropped, v[part], out=context[part])
    return y, AttentionCache(q, k, v, probabilities, keep, p)


@compiled(fastmath={"contract"})
def softmax(scores: Any, scale: Any, bias: Any, masked: bool, sequence: int, head: int) -> None:
    """What `scores` holds is replaced by its probabilities, exp(scale·scores + bias) over their sum, row by row.

    scores: (s, h, t, t), those of the sequences and heads from `sequence` and `head` on.
    masked: whether bias is added.
    A row of −∞ becomes zeros.  Sums are those of `sum_of`.
    """
    s, h, t, _ = scores.shape
    odd, any_odd = np.zeros(s * h * t, np.bool_), False  # rows whose largest score is infinite, or NaN
    for i in range(s):
        for j in range(h):
            for m in range(t):
                x = scores[i, j, m]
                if masked:
                    own = bias[(sequence + i) % bias.shape[0], (head + j) % bias.shape[1], m % bias.shape[2]]
                    for n in range(t):
                        x[n] = x[n] * scale + own[n]
                top = largest(x)
                if not top < _INFINITY:
                    odd[(i * h + j) * t + m] = any_odd = True
                    top = _ZERO
                elif top == -_INFINITY:  # a query that sees no key
                    top = _ZERO
                if masked:
                    for n in range(t):
                        x[n] -= top
                else:
                    for n in range(t):
                        x[n] = (x[n] - top) * scale
    rows = scores.reshape(-1, t)
    if any_odd:
        for m in range(len(rows)):
            exponentials(rows[m], odd[m])
    else:
        exponentials(scores.reshape(-1), False)
    for m in range(len(rows)):
        x = rows[m]
        total = sum_of(x)
        share = _ZERO if total == _ZERO else _ONE / total
        for n in range(t):
            x[n] *= share


@compiled
def exponentials(x: Any, odd: bool) -> None:
    """What x (n,) holds is replaced by its exponentials; numbers above 0 are only where it is odd."""
    if odd:
        for n in range(len(x)):
            x[n] = exp32(x[n])
    else:
        for n in range(len(x)):
            x[n] = exp32_of_nonpositive(x[n])


@compiled(fastmath={"contract"})
def softmax_backward(P: Any, dP: Any, scale: Any) -> None:
    """dP is replaced by scale·P ⊙ (dP − Σ_j dP ⊙ P); both (n, t).  Sums are those of `inner_product`."""
    for i in range(len(P)):
        p, d = P[i], dP[i]
        inner = inner_product(p, d)
        for j in range(len(p)):
            d[j] = scale * p[j] * (d[j] - inner)


@compiled
def drop(x: Any, keep: Any, kept: Any, out: Any) -> None:
    """keep ⊙ x/kept into `out`, all flat; kept is 1 − p."""
    for i in range(len(x)):
        out[i] = x[i] / kept if keep[i] else _ZERO


@compiled
def largest(x: Any) -> Any:
    """The largest of x; a NaN counts as more than ∞, or with its sign set as less than −∞, and x has no largest then.

    For a softmax either will do: the exponential of a NaN is one, and so is the sum, and every probability of the row.
    """
    top = _rank(x[0])
    for i in range(len(x)):
        rank = _rank(x[i])
        top = rank if rank > top else top
    return _float_of_rank(top)


@inlined
def _rank(x: Any) -> Any:
    """An int32 that is larger for a larger x: of integers' maxima the compiler makes vectors, of floats' it may not."""
    bits = bits_of(x)
    return np.int32(bits ^ ((bits >> 31) & _ALL_BUT_SIGN))


@inlined
def _float_of_rank(rank: Any) -> Any:
    """The float32 of this rank."""
    return float_of(np.int32(rank ^ ((rank >> 31) & _ALL_BUT_SIGN)))


def _compilable(q: Array, k: Array, v: Array) -> bool:
    """Whether they are float32.  Raises ValueError where they are and differ in shape."""
    if not q.dtype == k.dtype == v.dtype == FLOAT32:
        return False
    if not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k and v have shapes {q.shape}, {k.shape} and {v.shape}: expected one shape, (b, t, d)")
    return True


def _fitting(bias: Array, keep: Array | None, shape: tuple[int, int, int, int]) -> tuple[Array, Array | None]:
    """The bias, (b or 1, h or 1, t or 1, t), and the mask, as compiled code takes them; it looks at no shape.

    Raises ValueError where one cannot be broadcast to the scores' shape, (b, h, t, t).
    """
    np.broadcast_to(bias, shape)
    bias = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (1, 1, 1, shape[-1])))
    if keep is not None:
        keep = np.require(np.broadcast_to(keep, shape), bool, ["C", "A", "W"])  # Numba compiles anew for what is not so
    return np.require(bias, np.float32, ["C", "A", "W"]), keep


def _rows(scores: Array) -> Array:
    """(s, h, t, t) -> (s·h·t, t)."""
    return scores.reshape(-1, scores.shape[-1])


def _dropped(x: Array, keep: Array, p: float, out: Array) -> Array:
    """keep ⊙ x/(1 − p), written into `out`, which may be x."""
    drop(x.reshape(-1), keep.reshape(-1), np.float32(1 - p), out.reshape(-1))
    return out
