"""LayerNorm in place, its means as inner products: `vecdot` takes half the time of `sum` and needs no temporary."""

from __future__ import annotations

import numpy as np

from sora_ref.backends import Array
from sora_ref.models.layers import LayerNormCache


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
) -> tuple[Array, LayerNormCache]:
    """y = w ⊙ x̂ + b with x̂ = (x − mean x)/√(var x + ε) over the last axis, of x + residual where there is one."""
    if residual is None:
        xhat = x - _mean(x)
    else:
        xhat = x + residual
        xhat -= _mean(xhat)
    rstd = np.vecdot(xhat, xhat)[..., None]
    rstd /= x.shape[-1]
    rstd += eps
    np.reciprocal(np.sqrt(rstd, out=rstd), out=rstd)
    xhat *= rstd
    y = xhat * weight
    y += bias
    return y, LayerNormCache(xhat, rstd, weight)


def layer_norm_backward(
    dy: Array, cache: LayerNormCache, *, parameters: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """(dx, dweight, dbias) with dx = rstd·(dx̂ − mean dx̂ − x̂·mean(dx̂ ⊙ x̂)), dx̂ = w ⊙ dy."""
    xhat, rstd, weight = cache
    dx = dy * weight
    slope = np.vecdot(dx, xhat)[..., None]  # term 2: through the variance
    slope /= dy.shape[-1]
    dx -= _mean(dx)  # term 1: through the mean
    dx -= xhat * slope
    dx *= rstd
    if not parameters:
        return dx, None, None
    leading = tuple(range(dy.ndim - 1))
    return dx, (dy * xhat).sum(axis=leading), dy.sum(axis=leading)


def _mean(x: Array) -> Array:
    return np.vecdot(x, np.full(x.shape[-1], 1 / x.shape[-1], x.dtype))[..., None]
