"""The SoRA linear map with its branch folded into the weight, W = W0 + s·(B ⊙ g) A: made once, used for many batches.

    y = x Wᵀ + b        dx = dy W        dg = Σ_n v ⊙ z    dA = (v ⊙ g)ᵀ x    dB = s·dyᵀ(z ⊙ g)

with v = s·dy B and z = x Aᵀ.  Under dropout, which reaches the branch alone, the map is not folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sora_ref.backends import Array
from sora_ref.linear import LinearGrads, SoRA, require_adapter_shapes
from sora_ref.ops import Cache, LinearBackward, LinearForward, LinearKept, Operations
from sora_ref.preconditions import require_one_dtype, require_shape


class FoldedCache(NamedTuple):
    """What the backward needs: x (n, in), the folded W (out, in), the adapter, x's leading shape."""

    x: Array
    W: Array
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
    """The linear maps of these modules; see `kernels.Fold`."""
    folded = Folded(modules.values(), parallel_map(_folded_weight, modules.values()))

    def folded_forward(
        x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
    ) -> tuple[Array, LinearKept]:
        """y = x Wᵀ + b; see `sora_linear_forward`."""
        W = folded.find(W0, adapter)
        if W is None or adapter is None or keep is not None or not _fit(x, W0, b, adapter):
            return forward(x, W0, b, adapter, keep=keep, p=p)
        leading = x.shape[:-1]
        x = x.reshape(math.prod(leading), W.shape[1])
        y = x @ W.T
        if b is not None:
            y += b
        return y.reshape(*leading, W.shape[0]), FoldedCache(x, W, adapter, leading)

    def folded_backward(
        dy: Array, cache: Cache, *, dx: bool = True, dW0: bool = False, db: bool = False
    ) -> LinearGrads:
        """Gradients of ⟨dy, y⟩; see `sora_linear_backward`."""
        if not isinstance(cache, FoldedCache):
            return backward(dy, cache, dx=dx, dW0=dW0, db=db)
        x, W, (A, g, B, s), leading = cache
        require_shape("dy", dy, (*leading, W.shape[0]))
        require_one_dtype({"dy": dy, "x": x})
        dy = dy.reshape(len(x), W.shape[0])
        z, v = x @ A.T, s * (dy @ B)
        return LinearGrads(
            dx=(dy @ W).reshape(*leading, W.shape[1]) if dx else None,
            dA=(v * g).T @ x,
            dg=(v * z).sum(axis=0),
            dB=s * (dy.T @ (z * g)),
            dW0=dy.T @ x if dW0 else None,
            db=dy.sum(axis=0) if db else None,
        )

    return {"sora_linear_forward": folded_forward, "sora_linear_backward": folded_backward}


class Folded:
    """What was made of some modules, (W0, adapter), by the `id` of W0.

    W0 is held too: while it lives, no other array can have its id.
    """

    def __init__(self, modules: Iterable[tuple[Array, SoRA]], made: Iterable[Array]) -> None:
        self._known = {id(W0): (W0, adapter, array) for (W0, adapter), array in zip(modules, made, strict=True)}

    def find(self, W0: Array, adapter: SoRA | None) -> Array | None:
        """What was made of these very arrays; None of any others."""
        _, known, array = self._known.get(id(W0), (None, None, None))
        if known is None or adapter is None or adapter.s != known.s:
            return None
        return array if all(part is other for part, other in zip(adapter[:3], known[:3], strict=True)) else None


def _fit(x: Array, W0: Array, b: Array | None, adapter: SoRA) -> bool:
    """Whether x is (..., in) and b (out,), all of one dtype; the specification refuses what is not."""
    arrays = (W0, *adapter[:3]) if b is None else (W0, b, *adapter[:3])
    shapes = x.shape[-1:] == W0.shape[1:] and (b is None or b.shape == W0.shape[:1])
    return shapes and all(array.dtype == x.dtype for array in arrays)


def _folded_weight(module: tuple[Array, SoRA]) -> Array:
    """W of one module, (W0, adapter)."""
    W0, (A, g, B, s) = module
    require_adapter_shapes(module[1], *W0.shape)
    W = np.matmul(s * (B * g), A)
    W += W0
    return W
