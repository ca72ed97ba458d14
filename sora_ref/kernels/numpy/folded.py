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
from sora_ref.linear import LinearGrads, SoRA
from sora_ref.ops import Cache, LinearBackward, LinearForward, LinearKept, Operations


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
) -> Operations:
    """The linear maps of these modules, (W0, adapter) by name, valid while their arrays keep these values.

    forward, backward: what is called for any other weights or adapter, and under dropout.
    parallel_map: the `map` that shares out the folding.
    """
    folded = _Folded(modules.values(), forward, backward, parallel_map)
    return {"sora_linear_forward": folded.forward, "sora_linear_backward": folded.backward}


class _Folded:
    """Folded weights by the `id` of W0.  W0 is held too: while it lives, no other array can have its id."""

    def __init__(
        self,
        modules: Iterable[tuple[Array, SoRA]],
        forward: LinearForward,
        backward: LinearBackward,
        parallel_map: Callable[..., Iterable[Any]],
    ) -> None:
        modules = list(modules)
        weights = parallel_map(_folded_weight, modules)
        self.known = {id(W0): (W0, adapter, W) for (W0, adapter), W in zip(modules, weights, strict=True)}
        self.other_forward, self.other_backward = forward, backward

    def forward(
        self, x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
    ) -> tuple[Array, LinearKept]:
        """y = x Wᵀ + b; see `sora_linear_forward`."""
        found = self.known.get(id(W0))
        if found is None or keep is not None or adapter is None or not _same(adapter, found[1]):
            return self.other_forward(x, W0, b, adapter, keep=keep, p=p)
        W = found[2]
        leading = x.shape[:-1]
        x = x.reshape(math.prod(leading), W.shape[1])
        y = x @ W.T
        if b is not None:
            y += b
        return y.reshape(*leading, W.shape[0]), FoldedCache(x, W, adapter, leading)

    def backward(self, dy: Array, cache: Cache, *, dx: bool = True, dW0: bool = False, db: bool = False) -> LinearGrads:
        """Gradients of ⟨dy, y⟩; see `sora_linear_backward`."""
        if not isinstance(cache, FoldedCache):
            return self.other_backward(dy, cache, dx=dx, dW0=dW0, db=db)
        x, W, (A, g, B, s), leading = cache
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


def _folded_weight(module: tuple[Array, SoRA]) -> Array:
    """W of one module, (W0, adapter)."""
    W0, (A, g, B, s) = module
    W = np.matmul(s * (B * g), A)
    W += W0
    return W


def _same(adapter: SoRA, known: SoRA) -> bool:
    """Whether these are the very arrays that were folded."""
    return adapter.s == known.s and all(part is other for part, other in zip(adapter[:3], known[:3], strict=True))
