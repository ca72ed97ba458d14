"""The layers of a transformer that SoRA does not touch, each forward beside its backward.

Every pair repeats the same beats: shapes, forward, what is kept, then the backward's terms as in the derivation.
Pairs that faster kernels may replace are also fields of `models.ops.ModelOps`, which states their signatures: models
call those through `ops`, and the others from here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from sora_ref import backends
from sora_ref.backends import Array


class EmbeddingCache(NamedTuple):
    """What embedding_backward needs: the ids, flattened, and how many rows the table has."""

    ids: Array
    rows: int


def embedding_forward(table: Array, ids: Array) -> tuple[Array, EmbeddingCache]:
    """y[...] = table[ids[...]]; table (rows, d), ids (...) integers in [0, rows) -> (..., d).

    Ids are the caller's to check: CuPy wraps those out of range without a word.
    """
    xp = array_namespace(table)
    flat = xp.reshape(ids, (-1,))
    y = xp.reshape(xp.take(table, flat, axis=0), (*ids.shape, table.shape[1]))
    return y, EmbeddingCache(flat, table.shape[0])


def embedding_backward(dy: Array, cache: EmbeddingCache) -> Array:
    """dtable[k] = Σ over places with id k of dy; (..., d) -> (rows, d)."""
    xp = array_namespace(dy)
    ids, rows = cache
    return backends.of(dy).scatter_add(rows, ids, xp.reshape(dy, (-1, dy.shape[-1])))


def dropout_forward(x: Array, keep: Array | None, p: float) -> Array:
    """keep ⊙ x/(1 − p), the inverted dropout; x itself where keep is None.  Its backward is the same map."""
    xp = array_namespace(x)
    return x if keep is None else xp.where(keep, x / (1 - p), xp.zeros_like(x))


class LayerNormCache(NamedTuple):
    """What layer_norm_backward needs."""

    xhat: Array  # (..., d)
    rstd: Array  # (..., 1)  1/√(var x + ε)
    weight: Array  # (d,)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
) -> tuple[Array, LayerNormCache]:
    """y = w ⊙ x̂ + b with x̂ = (x − mean x)/√(var x + ε) over the last axis; x (..., d), weight and bias (d,).

    The variance is the population's; ε stands inside the root, so a constant row gives b.
    residual: of x's shape; x + residual then stands for x, and the gradient by each of them is dx.
    """
    xp = array_namespace(x)
    x = x if residual is None else x + residual
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    rstd = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    xhat = centred * rstd
    return xhat * weight + bias, LayerNormCache(xhat, rstd, weight)


def layer_norm_backward(
    dy: Array, cache: LayerNormCache, *, parameters: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """(dx, dweight, dbias) with dx = rstd·(dx̂ − mean dx̂ − x̂·mean(dx̂ ⊙ x̂)), dx̂ = w ⊙ dy.

    parameters: whether to compute the last two, which are None otherwise.
    """
    xp = array_namespace(dy)
    xhat, rstd, weight = cache
    dxhat = dy * weight
    mean_d = xp.mean(dxhat, axis=-1, keepdims=True)  # term 1: through the mean
    mean_dx = xp.mean(dxhat * xhat, axis=-1, keepdims=True)  # term 2: through the variance
    dx = rstd * (dxhat - mean_d - xhat * mean_dx)
    if not parameters:
        return dx, None, None
    leading = tuple(range(dy.ndim - 1))
    return dx, xp.sum(dy * xhat, axis=leading), xp.sum(dy, axis=leading)


class RMSNormCache(NamedTuple):
    """What rms_norm_backward needs."""

    xhat: Array  # (..., d)
    rrms: Array  # (..., 1)  1/√(mean x² + ε)
    weight: Array  # (d,)


def rms_norm_forward(x: Array, weight: Array, eps: float) -> tuple[Array, RMSNormCache]:
    """y = w ⊙ x̂ with x̂ = x/√(mean x² + ε) over the last axis; x (..., d), weight (d,), as in Llama.

    ε stands inside the root, so a row of zeros gives zeros.
    """
    xp = array_namespace(x)
    rrms = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    xhat = x * rrms
    return xhat * weight, RMSNormCache(xhat, rrms, weight)


def rms_norm_backward(dy: Array, cache: RMSNormCache, *, parameters: bool = True) -> tuple[Array, Array | None]:
    """(dx, dweight) with dx = rrms·(dx̂ − x̂·mean(dx̂ ⊙ x̂)), dx̂ = w ⊙ dy.

    parameters: whether to compute the last, which is None otherwise.
    """
    xp = array_namespace(dy)
    xhat, rrms, weight = cache
    dxhat = dy * weight
    mean_dx = xp.mean(dxhat * xhat, axis=-1, keepdims=True)  # through the mean square
    dx = rrms * (dxhat - xhat * mean_dx)
    return dx, xp.sum(dy * xhat, axis=tuple(range(dy.ndim - 1))) if parameters else None


def gelu_forward(x: Array) -> tuple[Array, Array]:
    """y = x·Φ(x), Φ(x) = ½(1 + erf(x/√2)): the exact GELU, not its tanh form.  Kept: gelu'(x) = Φ(x) + x·φ(x)."""
    xp = array_namespace(x)
    cdf = 0.5 * (1 + backends.of(x).erf(x * math.sqrt(0.5)))
    density = xp.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
    return x * cdf, cdf + x * density


def gelu_backward(dy: Array, derivative: Array) -> Array:
    """dx = dy ⊙ gelu'(x)."""
    return dy * derivative


def silu_forward(x: Array) -> tuple[Array, Array]:
    """y = x·σ(x), σ(x) = 1/(1 + e⁻ˣ) = ½(1 + tanh(x/2)), which does not overflow.  Kept: silu'(x) = σ(x) + y·σ(−x)."""
    xp = array_namespace(x)
    sigmoid = 0.5 * (1 + xp.tanh(0.5 * x))
    y = x * sigmoid
    return y, sigmoid + y * (1 - sigmoid)


def silu_backward(dy: Array, derivative: Array) -> Array:
    """dx = dy ⊙ silu'(x)."""
    return dy * derivative


def tanh_forward(x: Array) -> tuple[Array, Array]:
    """y = tanh x.  Kept: y."""
    y = array_namespace(x).tanh(x)
    return y, y


def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy ⊙ (1 − y²)."""
    return dy * (1 - y * y)


def relu_forward(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0); NaN stays NaN.  Kept: where x ≤ 0."""
    xp = array_namespace(x)
    cut = x <= 0
    return xp.where(cut, xp.zeros_like(x), x), cut


def relu_backward(dy: Array, cut: Array) -> Array:
    """dx = 0 where x ≤ 0, the derivative at 0 being taken as 0, and dy elsewhere."""
    xp = array_namespace(dy)
    return xp.where(cut, xp.zeros_like(dy), dy)


class AttentionCache(NamedTuple):
    """What attention_backward needs; q, k, v are split into heads."""

    q: Array  # (b, h, t, d/h)
    k: Array
    v: Array
    probabilities: Array  # (b, h, t, t)
    dropped: Array  # (b, h, t, t)  the probabilities after dropout
    keep: Array | None  # (b, h, t, t) boolean
    p: float


def softmax(scores: Array) -> Array:
    """exp(x_i − max x)/Σ exp(x_j − max x) over the last axis; a row of −∞ alone gives zeros, not NaN."""
    xp = array_namespace(scores)
    top = xp.max(scores, axis=-1, keepdims=True)
    e = xp.exp(scores - xp.where(xp.isfinite(top), top, xp.zeros_like(top)))
    total = xp.sum(e, axis=-1, keepdims=True)
    return e / xp.where(total == 0, xp.ones_like(total), total)


def attention_forward(
    q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
) -> tuple[Array, AttentionCache]:
    """softmax(q kᵀ/√(d/h) + bias) v, head by head; q, k, v (b, t, d) -> (b, t, d).

    bias: (b or 1, h or 1, t or 1, t), −∞ for a key that may not be seen; a query that sees no key gets zeros.
    keep, p: inverted dropout on the probabilities, keep (b, h, t, t).
    """
    q, k, v = (_split_heads(x, heads) for x in (q, k, v))
    scores = q @ k.mT  # (b, h, t, d/h) -> (b, h, t, t)
    probabilities = softmax(scores * (1 / math.sqrt(q.shape[-1])) + bias)
    dropped = dropout_forward(probabilities, keep, p)
    context = _join_heads(dropped @ v)
    return context, AttentionCache(q, k, v, probabilities, dropped, keep, p)


def attention_backward(dy: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
    """(dq, dk, dv), each (b, t, d), for dy (b, t, d)."""
    xp = array_namespace(dy)
    q, k, v, probabilities, dropped, keep, p = cache
    dy = _split_heads(dy, q.shape[1])
    dv = dropped.mT @ dy  # term 1: through the values
    dp = dropout_forward(dy @ v.mT, keep, p)
    inner = xp.sum(dp * probabilities, axis=-1, keepdims=True)
    dscores = probabilities * (dp - inner) * (1 / math.sqrt(q.shape[-1]))  # term 2: through the softmax
    dq, dk = dscores @ k, dscores.mT @ q  # term 3: through the scores
    return _join_heads(dq), _join_heads(dk), _join_heads(dv)


def _split_heads(x: Array, heads: int) -> Array:
    """(b, t, d) -> (b, h, t, d/h)."""
    xp = array_namespace(x)
    b, t, d = x.shape
    return xp.permute_dims(xp.reshape(x, (b, t, heads, d // heads)), (0, 2, 1, 3))


def _join_heads(x: Array) -> Array:
    """(b, h, t, d/h) -> (b, t, d)."""
    xp = array_namespace(x)
    b, h, t, d = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (b, t, h * d))


def attention_bias(mask: Array, dtype: Any) -> Array:
    """Mask (b, t), True where a token is, -> bias (b, 1, 1, t): 0 where it is, −∞ where padding is."""
    xp = array_namespace(mask)
    zero = xp.zeros_like(mask, dtype=dtype)
    bias = xp.where(mask, zero, xp.full_like(zero, -math.inf))
    return xp.reshape(bias, (mask.shape[0], 1, 1, mask.shape[1]))
