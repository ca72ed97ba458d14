"""LayerNorm in one pass over the rows, each of which stays in the processor's first cache meanwhile.

    y = w ⊙ x̂ + b    x̂ = (h − mean h)/√(var h + ε)    h = x, or x + residual

float32 alone is compiled; any other dtype goes to NumPy's form.  A row is swept as often as the specification sweeps
all of them: for the mean, for the mean square of what is centred, for the result.  Sums are `sum_of` and
`inner_product`; elsewhere a product and the sum it goes into may be contracted.  A row's bits do not depend on the rows
beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.rows import compilable, gapless, rows_of, sum_row
from sora_ref.kernels.numba.sums import inner_product, sum_of
from sora_ref.kernels.numpy import layer_norm as in_numpy
from sora_ref.models.layers import LayerNormCache

_ONE = np.float32(1)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
) -> tuple[Array, LayerNormCache]:
    """y and what is kept; see `layers.layer_norm_forward`.  x (..., d), its rows may lie apart, as in a[:, :d]."""
    if not compilable(x, (weight, bias), (residual,)):
        return in_numpy.layer_norm_forward(x, weight, bias, eps, residual)
    y, xhat, rstd = np.empty(x.shape, FLOAT32), np.empty(x.shape, FLOAT32), np.empty((*x.shape[:-1], 1), FLOAT32)
    x, residual = rows_of(x), None if residual is None else rows_of(residual)
    kept = xhat.reshape(x.shape), rstd.reshape(-1)
    _forward(x, residual, flat(weight), flat(bias), np.float32(eps), y.reshape(x.shape), *kept)
    return y, LayerNormCache(xhat, rstd, weight)


def layer_norm_value(
    x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
) -> tuple[Array, None]:
    """`layer_norm_forward` for an evaluation: no backward follows, so nothing is kept."""
    if not compilable(x, (weight, bias), (residual,)):
        return in_numpy.layer_norm_forward(x, weight, bias, eps, residual)[0], None
    y = np.empty(x.shape, FLOAT32)
    x, residual = rows_of(x), None if residual is None else rows_of(residual)
    _forward(x, residual, flat(weight), flat(bias), np.float32(eps), y.reshape(x.shape), None, None)
    return y, None


def layer_norm_backward(
    dy: Array, cache: LayerNormCache, *, parameters: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """(dx, dweight, dbias); see `layers.layer_norm_backward`.  The last two are added up row after row."""
    xhat, rstd, weight = cache
    if not compilable(dy, (weight,), (xhat,), (rstd,)):
        return in_numpy.layer_norm_backward(dy, cache, parameters=parameters)
    d = dy.shape[-1]
    dx, rows = np.empty(dy.shape, FLOAT32), rows_of(dy)
    of_row = rows, xhat.reshape(rows.shape), rstd.reshape(-1), flat(weight), dx.reshape(rows.shape)
    if not parameters:
        _backward(*of_row, None, None)
        return dx, None, None
    dweight, dbias = np.zeros(d, FLOAT32), np.zeros(d, FLOAT32)
    _backward(*of_row, dweight, dbias)
    return dx, dweight, dbias


@compiled
def _forward(x: Any, residual: Any, weight: Any, bias: Any, eps: Any, y: Any, xhat: Any, rstd: Any) -> None:
    """Row by row: x, residual, y, xhat (n, d), rstd (n,); what is None is not added, or not kept."""
    for i in range(len(x)):
        h = y[i] if xhat is None else xhat[i]
        if residual is None:
            sum_row(gapless(x[i]), None, h)
        else:
            sum_row(gapless(x[i]), gapless(residual[i]), h)
        scale = _centre_row(h, eps)
        if xhat is None:
            _finish_row(h, scale, weight, bias)
        else:
            rstd[i] = scale
            _finish_and_keep_row(h, scale, weight, bias, y[i])


@compiled
def _centre_row(h: Any, eps: Any) -> Any:
    """h − mean h in place of h; 1/√(var h + ε)."""
    d = np.float32(len(h))
    mean = sum_of(h) / d
    for j in range(len(h)):
        h[j] -= mean
    return _ONE / np.sqrt(inner_product(h, h) / d + eps)


@compiled(fastmath={"contract"})
def _finish_and_keep_row(h: Any, scale: Any, weight: Any, bias: Any, y: Any) -> None:
    """x̂ in place of h, and y = w ⊙ x̂ + b."""
    for j in range(len(h)):
        xhat = h[j] * scale
        h[j] = xhat
        y[j] = xhat * weight[j] + bias[j]


@compiled(fastmath={"contract"})
def _finish_row(h: Any, scale: Any, weight: Any, bias: Any) -> None:
    """w ⊙ x̂ + b in place of h."""
    for j in range(len(h)):
        h[j] = (h[j] * scale) * weight[j] + bias[j]


@compiled
def _backward(dy: Any, xhat: Any, rstd: Any, weight: Any, dx: Any, dweight: Any, dbias: Any) -> None:
    """Row by row: dy, xhat, dx (n, d), rstd (n,); dweight, dbias (d,) are added to, or None."""
    for i in range(len(dy)):
        _backward_row(gapless(dy[i]), xhat[i], rstd[i], weight, dx[i])
        if dweight is not None:
            _add_parameters(gapless(dy[i]), xhat[i], dweight, dbias)


@compiled(fastmath={"contract"})
def _backward_row(dy: Any, xhat: Any, rstd: Any, weight: Any, dx: Any) -> None:
    """dx = rstd·(dx̂ − mean dx̂ − x̂·mean(dx̂ ⊙ x̂)), dx̂ = w ⊙ dy."""
    for j in range(len(dy)):
        dx[j] = dy[j] * weight[j]
    d = np.float32(len(dy))
    mean = sum_of(dx) / d  # term 1: through the mean
    slope = inner_product(dx, xhat) / d  # term 2: through the variance
    for j in range(len(dy)):
        dx[j] = rstd * (dx[j] - mean - xhat[j] * slope)


@compiled(fastmath={"contract"})
def _add_parameters(dy: Any, xhat: Any, dweight: Any, dbias: Any) -> None:
    """One row's share of dweight and dbias."""
    for j in range(len(dy)):
        dweight[j] += dy[j] * xhat[j]
        dbias[j] += dy[j]
