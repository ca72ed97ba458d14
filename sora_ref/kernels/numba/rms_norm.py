"""RMSNorm in one pass over the rows, each of which stays in the processor's first cache meanwhile.

    y = w ⊙ x̂    x̂ = x/√(mean x² + ε)

float32 alone is compiled; any other dtype goes to the specification's functions, for NumPy has no form of its own.
Sums are `inner_product`; elsewhere a product and the sum it goes into may be contracted.  A row's bits do not depend on
the rows beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numba.rows import compilable, gapless, rows_of
from sora_ref.kernels.numba.sums import inner_product
from sora_ref.models import layers
from sora_ref.models.layers import RMSNormCache

_ONE = np.float32(1)


def rms_norm_forward(x: Array, weight: Array, eps: float) -> tuple[Array, RMSNormCache]:
    """y and what is kept; see `layers.rms_norm_forward`.  x (..., d), its rows may lie apart, as in a[:, :d]."""
    if not compilable(x, (weight,)):
        return layers.rms_norm_forward(x, weight, eps)
    y, xhat, rrms = np.empty(x.shape, FLOAT32), np.empty(x.shape, FLOAT32), np.empty((*x.shape[:-1], 1), FLOAT32)
    rows = rows_of(x)
    _forward(rows, flat(weight), np.float32(eps), y.reshape(rows.shape), xhat.reshape(rows.shape), rrms.reshape(-1))
    return y, RMSNormCache(xhat, rrms, weight)


def rms_norm_value(x: Array, weight: Array, eps: float) -> tuple[Array, None]:
    """`rms_norm_forward` for an evaluation: no backward follows, so nothing is kept."""
    if not compilable(x, (weight,)):
        return layers.rms_norm_forward(x, weight, eps)[0], None
    y, rows = np.empty(x.shape, FLOAT32), rows_of(x)
    _forward(rows, flat(weight), np.float32(eps), y.reshape(rows.shape), None, None)
    return y, None


def rms_norm_backward(dy: Array, cache: RMSNormCache, *, parameters: bool = True) -> tuple[Array, Array | None]:
    """(dx, dweight); see `layers.rms_norm_backward`.  The last is added up row after row."""
    xhat, rrms, weight = cache
    if not compilable(dy, (weight,), (xhat,), (rrms,)):
        return layers.rms_norm_backward(dy, cache, parameters=parameters)
    dx, rows = np.empty(dy.shape, FLOAT32), rows_of(dy)
    dweight = np.zeros(dy.shape[-1], FLOAT32) if parameters else None
    _backward(rows, xhat.reshape(rows.shape), rrms.reshape(-1), flat(weight), dx.reshape(rows.shape), dweight)
    return dx, dweight


@compiled
def _forward(x: Any, weight: Any, eps: Any, y: Any, xhat: Any, rrms: Any) -> None:
    """Row by row: x, y, xhat (n, d), rrms (n,); nothing is kept where these are None."""
    for i in range(len(x)):
        scale = _scale_of(gapless(x[i]), eps)
        if xhat is None:
            _finish_row(gapless(x[i]), scale, weight, y[i], None)
        else:
            rrms[i] = scale
            _finish_row(gapless(x[i]), scale, weight, y[i], xhat[i])


@compiled
def _scale_of(x: Any, eps: Any) -> Any:
    """1/√(mean x² + ε)."""
    return _ONE / np.sqrt(inner_product(x, x) / np.float32(len(x)) + eps)


@compiled
def _finish_row(x: Any, scale: Any, weight: Any, y: Any, kept: Any) -> None:
    """x̂ into `kept`, unless that is None, and y = w ⊙ x̂."""
    for j in range(len(x)):
        xhat = x[j] * scale
        if kept is not None:
            kept[j] = xhat
        y[j] = xhat * weight[j]


@compiled
def _backward(dy: Any, xhat: Any, rrms: Any, weight: Any, dx: Any, dweight: Any) -> None:
    """Row by row: dy, xhat, dx (n, d), rrms (n,); dweight (d,) is added to, or None."""
    for i in range(len(dy)):
        _backward_row(gapless(dy[i]), xhat[i], rrms[i], weight, dx[i])
        if dweight is not None:
            _add_parameters(gapless(dy[i]), xhat[i], dweight)


@compiled(fastmath={"contract"})
def _backward_row(dy: Any, xhat: Any, rrms: Any, weight: Any, dx: Any) -> None:
    """dx = rrms·(dx̂ − x̂·mean(dx̂ ⊙ x̂)), dx̂ = w ⊙ dy."""
    for j in range(len(dy)):
        dx[j] = dy[j] * weight[j]
    slope = inner_product(dx, xhat) / np.float32(len(dy))  # through the mean square
    for j in range(len(dy)):
        dx[j] = rrms * (dx[j] - xhat[j] * slope)


@compiled(fastmath={"contract"})
def _add_parameters(dy: Any, xhat: Any, dweight: Any) -> None:
    """One row's share of dweight."""
    for j in range(len(dy)):
        dweight[j] += dy[j] * xhat[j]
