"""The folded SoRA linear map, with the products of its branch appended to the large ones.

    P = | W  s·B |      x Pᵀ[:in] = (y − b, z)        dy P[:out] = (dx, v)        W = W0 + s·(B ⊙ g) A
        | A   ·  |

P is (out + r, in + r), made once for many batches; nothing reads its corner.  Two products of BLAS, hardly longer than
those with W alone, also give z = x Aᵀ, which is kept, and v = s·dy B.  What is left is thin:

    dg = Σ_n v ⊙ z    dA = (v ⊙ g)ᵀ x    dB = s·dyᵀ(z ⊙ g)

y and dx are views with the rows of a wider array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.numpy import folded as plain
from sora_ref.kernels.numpy.folded import Folded
from sora_ref.linear import LinearGrads, SoRA, require_adapter_shapes
from sora_ref.ops import Cache, LinearBackward, LinearForward, LinearKept, Operations
from sora_ref.preconditions import require_one_dtype, require_shape


class FoldedCache(NamedTuple):
    """What the backward needs."""

    x: Array  # (n, in)
    z: Array  # (n, r)  x Aᵀ
    packed: Array  # (out + r, in + r)  P
    adapter: SoRA
    leading: tuple[int, ...]


def fold(
    modules: Mapping[str, tuple[Array, SoRA]],
    forward: LinearForward,
    backward: LinearBackward,
    parallel_map: Callable[..., Iterable[Any]] = map,
    *,
    training: bool = True,
) -> Operations:
    """The linear maps of these modules; see `kernels.Fold`.  Without a backward P is W alone."""
    arrays = [array for W0, adapter in modules.values() for array in (W0, *adapter[:3])]
    if any(array.dtype != FLOAT32 for array in arrays):
        return plain.fold(modules, forward, backward, parallel_map, training=training)
    folded = Folded(modules.values(), parallel_map(_packed if training else _folded_weight, modules.values()))

    def folded_forward(
        x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
    ) -> tuple[Array, LinearKept]:
        """y = x Wᵀ + b; see `sora_linear_forward`."""
        P, (out, in_) = folded.find(W0, adapter), W0.shape
        fits = x.dtype == FLOAT32 and x.shape[-1:] == (in_,) and (b is None or (b.dtype, b.shape) == (FLOAT32, (out,)))
        if P is None or adapter is None or keep is not None or not fits:
            return forward(x, W0, b, adapter, keep=keep, p=p)
        leading = x.shape[:-1]
        x = x.reshape(math.prod(leading), in_)
        y_and_z = x @ P[:, :in_].T
        z = np.empty((len(x), len(P) - out), x.dtype)
        _split(y_and_z, np.zeros(out, x.dtype) if b is None else flat(b), z)
        return y_and_z[:, :out].reshape(*leading, out), FoldedCache(x, z, P, adapter, leading)

    def folded_backward(
        dy: Array, cache: Cache, *, dx: bool = True, dW0: bool = False, db: bool = False
    ) -> LinearGrads:
        """Gradients of ⟨dy, y⟩; see `sora_linear_backward`."""
        if not isinstance(cache, FoldedCache):
            return backward(dy, cache, dx=dx, dW0=dW0, db=db)
        x, z, P, (_, g, _, s), leading = cache
        r = len(g)
        out, in_ = len(P) - r, P.shape[1] - r
        require_shape("dy", dy, (*leading, out))
        require_one_dtype({"dy": dy, "x": x})
        dy = dy.reshape(len(x), out)
        dx_and_v = dy @ (P[:out] if dx else P[:out, in_:])
        v = dx_and_v[:, -r:] if r else dx_and_v[:, :0]
        return LinearGrads(
            dx=dx_and_v[:, :in_].reshape(*leading, in_) if dx else None,
            dA=(v * g).T @ x,
            dg=(v * z).sum(axis=0),
            dB=s * (dy.T @ (z * g)),
            dW0=dy.T @ x if dW0 else None,
            db=dy.sum(axis=0) if db else None,
        )

    return {"sora_linear_forward": folded_forward, "sora_linear_backward": folded_backward}


def _packed(module: tuple[Array, SoRA]) -> Array:
    """P of one module, (W0, adapter)."""
    W0, (A, g, B, s) = module
    (out, in_), r = W0.shape, len(g)
    require_adapter_shapes(module[1], out, in_)
    P = np.empty((out + r, in_ + r), W0.dtype)
    np.multiply(s, B, out=P[:out, in_:])
    P[out:, :in_] = A
    _fold(flat(W0).reshape(W0.shape), flat(A).reshape(A.shape), P[:out, in_:] * g, P)
    return P


def _folded_weight(module: tuple[Array, SoRA]) -> Array:
    """W of one module, (W0, adapter)."""
    W0, (A, g, B, s) = module
    require_adapter_shapes(module[1], *W0.shape)
    W = np.empty(W0.shape, W0.dtype)
    _fold(flat(W0).reshape(W0.shape), flat(A).reshape(A.shape), s * B * g, W)
    return W


@compiled(fastmath={"contract"})
def _fold(W0: Any, A: Any, C: Any, W: Any) -> None:
    """W0 + C A into the first rows and columns of W; W0 (out, in), A (r, in), C (out, r); components in their order."""
    out, in_ = W0.shape
    for i in range(out):
        row = W[i]
        for j in range(in_):
            row[j] = W0[i, j]
        for k in range(A.shape[0]):
            c, a = C[i, k], A[k]
            for j in range(in_):
                row[j] += c * a[j]


@compiled
def _split(y_and_z: Any, b: Any, z: Any) -> None:
    """Add b to the first columns of y_and_z (n, out + r), and copy the others to z (n, r)."""
    for i in range(len(z)):
        row = y_and_z[i]
        for j in range(len(b)):
            row[j] += b[j]
        for k in range(z.shape[1]):
            z[i, k] = row[len(b) + k]
