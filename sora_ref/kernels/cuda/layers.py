"""GELU, LayerNorm and attention on a GPU, with the signatures of `models.layers`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from sora_ref.backends import Array
from sora_ref.kernels.cuda.device import Device
from sora_ref.kernels.cuda.matmul import Matmul, Operand
from sora_ref.models.layers import LayerNormCache
from sora_ref.models.ops import ModelOperations


class AttentionCache(NamedTuple):
    """What attention_backward needs; q, k, v (b, h, t, d/h) ready to be multiplied, probabilities (b, h, t, t)."""

    q: Operand
    k: Operand
    v: Operand
    probabilities: Array
    dropped: Array
    keep: Array | None
    p: float


def layer_operations(device: Device, matmul: Matmul) -> ModelOperations:
    """The functions by the field of `ModelOps` they replace."""
    cp = device.cp

    def gelu_forward(x: Array) -> tuple[Array, Array]:
        """x·Φ(x) and its derivative, in one launch."""
        x = device.contiguous(x)
        y, derivative = cp.empty(x.shape, x.dtype), cp.empty(x.shape, x.dtype)
        device.launch("gelu_forward", x.dtype, (device.blocks(x.size),), x, x.size, y, derivative)
        return y, derivative

    def layer_norm_forward(
        x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
    ) -> tuple[Array, LayerNormCache]:
        """The normalised rows of x, or of x + residual, in one launch."""
        x, d = device.contiguous(x if residual is None else x + residual), x.shape[-1]
        rows = math.prod(x.shape[:-1])
        y, xhat, rstd = (cp.empty(shape, x.dtype) for shape in (x.shape, x.shape, (*x.shape[:-1], 1)))
        device.launch("layer_norm_forward", x.dtype, (rows,), x, weight, bias, float(eps), d, y, xhat, rstd)
        return y, LayerNormCache(xhat, rstd, weight)

    def layer_norm_backward(
        dy: Array, cache: LayerNormCache, *, parameters: bool = True
    ) -> tuple[Array, Array | None, Array | None]:
        """(dx, dweight, dbias), the last two None unless `parameters`; dx in one launch."""
        xhat, rstd, weight = cache
        dy = device.contiguous(dy)
        dx = cp.empty(dy.shape, dy.dtype)
        rows, d = math.prod(dy.shape[:-1]), dy.shape[-1]
        device.launch("layer_norm_backward", dy.dtype, (rows,), dy, xhat, rstd, weight, d, dx)
        if not parameters:
            return dx, None, None
        leading = tuple(range(dy.ndim - 1))
        return dx, cp.sum(dy * xhat, axis=leading), cp.sum(dy, axis=leading)

    def attention_forward(
        q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
    ) -> tuple[Array, AttentionCache]:
        """softmax(q kᵀ/√(d/h) + bias) v, head by head; the softmax with its scale and mask in one launch."""
        q, k, v = (matmul.operand(_split_heads(device, x, heads)) for x in (q, k, v))
        b, h, t, width = q.shape
        probabilities = matmul(q, k.T)
        scale, mask = 1 / math.sqrt(width), device.contiguous(bias)
        device.launch("softmax_forward", q.real, (b * h * t,), probabilities, mask, scale, h * t, t)
        dropped = _dropout(cp, probabilities, keep, p)
        return _join_heads(device, matmul(dropped, v)), AttentionCache(q, k, v, probabilities, dropped, keep, p)

    def attention_backward(dy: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
        """(dq, dk, dv), each (b, t, d); the gradient through the softmax in one launch."""
        q, k, v, probabilities, dropped, keep, p = cache
        b, h, t, width = q.shape
        of_dy = matmul.operand(_split_heads(device, dy, h))
        dv = matmul(dropped.swapaxes(-1, -2), of_dy)
        dscores = device.contiguous(_dropout(cp, matmul(of_dy, v.T), keep, p))
        device.launch("softmax_backward", q.real, (b * h * t,), dscores, probabilities, 1 / math.sqrt(width), t)
        of_dscores = matmul.operand(dscores)
        dq, dk = matmul(of_dscores, k), matmul(of_dscores.T, q)
        return _join_heads(device, dq), _join_heads(device, dk), _join_heads(device, dv)

    return {
        "gelu_forward": gelu_forward,
        "layer_norm_forward": layer_norm_forward,
        "layer_norm_backward": layer_norm_backward,
        "attention_forward": attention_forward,
        "attention_backward": attention_backward,
    }


def _dropout(cp: Any, x: Array, keep: Array | None, p: float) -> Array:
    return x if keep is None else cp.where(keep, x / (1 - p), cp.zeros_like(x))


def _split_heads(device: Device, x: Array, heads: int) -> Array:
    """(b, t, d) -> (b, h, t, d/h), contiguous, as a batched product needs it."""
    b, t, d = x.shape
    return device.contiguous(x.reshape(b, t, heads, d // heads).transpose(0, 2, 1, 3))


def _join_heads(device: Device, x: Array) -> Array:
    """(b, h, t, d/h) -> (b, t, d)."""
    b, h, t, width = x.shape
    return device.contiguous(x.transpose(0, 2, 1, 3)).reshape(b, t, h * width)
