"""The SoRA linear map: a frozen linear layer plus a gated low-rank branch (clause SORA-LINEAR).

    y = x W0ᵀ + b + s·((drop(x) Aᵀ) ⊙ g) Bᵀ                                             SoRA eq. 6-9

with W0 (out, in), b (out,), A (r, in) the down-projection, B (out, r) the up-projection and g (r,) the gate.
The branch is affine in each of x, A, g and B when the other three are held fixed, which is what the exact tests use.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.preconditions import require, require_finite_number, require_one_dtype, require_shape


class SoRA(NamedTuple):
    """One module's adapter.

    A: (r, in)   down-projection, W_d in the paper.
    g: (r,)      gate.
    B: (out, r)  up-projection, W_u in the paper.
    s: number    scale of the branch, α/r_max at creation; never recomputed from a pruned rank (SORA-LINEAR-2).

    These four are what has to be stored of a module, and come back bit for bit (SORA-STORE-1).

    >>> sr.SoRA(A=np.ones((2, 4)), g=np.ones(2), B=np.zeros((3, 2)), s=8.0).rank
    2
    """

    A: Array
    g: Array
    B: Array
    s: Any

    @property
    def rank(self) -> int:
        """r: the number of components."""
        return int(self.g.shape[0])


class LinearCache(NamedTuple):
    """What the backward keeps of the forward; n is the number of rows, the leading shape flattened."""

    x: Array  # (n, in)
    h: Array  # (n, in)  drop(x)
    z: Array | None  # (n, r)  h Aᵀ
    W0: Array
    adapter: SoRA | None
    keep: Array | None  # (n, in) boolean
    p: Any
    leading: tuple[int, ...]


class LinearGrads(NamedTuple):
    """Gradients of a scalar through y; None where one was not asked for or does not exist.

    >>> y, cache = sr.sora_linear_forward(np.ones((1, 4)), np.eye(3, 4), None, None)
    >>> grads = sr.sora_linear_backward(y, cache, dW0=True)
    >>> grads.dx.shape, grads.dW0.shape, grads.dA
    ((1, 4), (3, 4), None)
    """

    dx: Array | None  # (..., in)
    dA: Array | None  # (r, in)
    dg: Array | None  # (r,)
    dB: Array | None  # (out, r)
    dW0: Array | None  # (out, in)
    db: Array | None  # (out,)


def sora_linear_forward(
    x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
) -> tuple[Array, LinearCache]:
    """y = x W0ᵀ + b + s·((drop(x) Aᵀ) ⊙ g) Bᵀ (SORA-LINEAR-1).

    x:       (..., in), any leading shape, empty ones included.
    W0, b:   (out, in) and (out,) or None; frozen.
    adapter: the branch, any rank from 0 up; None for a plain linear layer.
    keep, p: inverted dropout on the branch's input only: drop(x) = keep ⊙ x / (1 − p), keep boolean of x's shape,
             0 ≤ p < 1; None in evaluation.  Both are given, so that the function is pure.
    Returns y (..., out) and the cache of the backward.  All arrays share one dtype; none is changed (SORA-LINEAR-5).
    Raises SoRAError on shapes, dtypes or p that do not fit.

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((3, 1)), s=2.0)
    >>> y, cache = sr.sora_linear_forward(np.array([[1.0, 2.0]]), np.zeros((3, 2)), None, adapter)
    >>> y
    array([[3., 3., 3.]])
    """
    _check(x, W0, b, adapter, keep, p)
    xp = array_namespace(x)
    leading = tuple(x.shape[:-1])
    n = math.prod(leading)
    x = xp.reshape(x, (n, W0.shape[1]))

    y = x @ W0.T  # (n, in) -> (n, out)
    if b is not None:
        y += b

    h, z = x, None
    if keep is not None:
        keep = xp.reshape(keep, x.shape)
        h = xp.where(keep, x / (1 - p), xp.zeros_like(x))
    if adapter is not None:
        z = h @ adapter.A.T  # (n, in) -> (n, r)
        y += (adapter.s * (z * adapter.g)) @ adapter.B.T  # (n, r) -> (n, out)

    return xp.reshape(y, (*leading, W0.shape[0])), LinearCache(x, h, z, W0, adapter, keep, p, leading)


def sora_linear_backward(
    dy: Array, cache: LinearCache, *, dx: bool = True, dW0: bool = False, db: bool = False
) -> LinearGrads:
    """Gradients of ⟨dy, y⟩ (SORA-LINEAR-3), for dy of y's shape.

        dB = s·dyᵀ(z ⊙ g)    dg = Σ_n v ⊙ z    dA = (v ⊙ g)ᵀ h    dx = dy W0 + drop((v ⊙ g) A)    with v = s·dy B

    dx, dW0, db: which of the gradients that do not belong to the branch to compute; W0 and b are frozen by default.
    A component with g_i = 0 has exactly zero in its row of dA and column of dB, never in its own dg (SORA-LINEAR-4);
    its dg is zero too where B_i = 0 or z_i = 0, and then the three do not move (SORA-REVIVAL-2).
    Raises SoRAError where dy has another shape than y, or another dtype than x.

    >>> closed = sr.SoRA(A=np.ones((1, 2)), g=np.zeros(1), B=np.ones((3, 1)), s=2.0)
    >>> _, cache = sr.sora_linear_forward(np.array([[1.0, 2.0]]), np.zeros((3, 2)), None, closed)
    >>> grads = sr.sora_linear_backward(np.ones((1, 3)), cache)
    >>> grads.dg, grads.dA
    (array([18.]), array([[0., 0.]]))
    """
    x, h, z, W0, adapter, keep, p, leading = cache
    xp = array_namespace(dy)
    require_shape("dy", dy, (*leading, W0.shape[0]))
    require_one_dtype({"dy": dy, "x": x})
    dy = xp.reshape(dy, (x.shape[0], W0.shape[0]))

    dx_ = dy @ W0 if dx else None  # term 1: the frozen path, (n, out) -> (n, in)
    dA = dg = dB = None
    if adapter is not None:
        A, g, B, s = adapter
        v = s * (dy @ B)  # gradient at u = z ⊙ g, (n, out) -> (n, r)
        dg = xp.sum(v * z, axis=0)  # term 2: every gate, closed ones too
        u, w = z * g, v * g  # (n, r); w is the gradient at z
        dB = s * (dy.T @ u)  # term 3
        dA = w.T @ h  # term 4
        if dx_ is not None:
            dh = w @ A  # term 5: through the branch, (n, r) -> (n, in)
            dx_ += dh if keep is None else xp.where(keep, dh / (1 - p), xp.zeros_like(dh))

    return LinearGrads(
        dx=None if dx_ is None else xp.reshape(dx_, (*leading, W0.shape[1])),
        dA=dA,
        dg=dg,
        dB=dB,
        dW0=dy.T @ x if dW0 else None,
        db=xp.sum(dy, axis=0) if db else None,
    )


def _check(x: Array, W0: Array, b: Array | None, adapter: SoRA | None, keep: Array | None, p: Any) -> None:
    xp = array_namespace(x)
    require(W0.ndim == 2, f"W0 has {W0.ndim} dimensions: expected 2, (out, in)")
    out, in_ = W0.shape
    require(x.ndim >= 1 and x.shape[-1] == in_, f"x has shape {tuple(x.shape)}: expected (..., {in_})")
    if b is not None:
        require_shape("b", b, (out,))
    if adapter is None:
        require_one_dtype({"x": x, "W0": W0, "b": b})
    else:
        require_adapter_shapes(adapter, out, in_)
        require_one_dtype({"x": x, "W0": W0, "b": b, "A": adapter.A, "g": adapter.g, "B": adapter.B})
    if keep is not None:
        require(0 <= p < 1, f"dropout probability p is {p}: expected 0 <= p < 1")
        require_shape("keep", keep, x.shape)
        require(keep.dtype == xp.bool, f"keep has dtype {keep.dtype}: expected a boolean mask")


def require_adapter_shapes(adapter: SoRA, out: int, in_: int) -> None:
    """SoRAError unless A is (r, in), g (r,), B (out, r) and s a finite number."""
    require(adapter.g.ndim == 1, f"g has shape {tuple(adapter.g.shape)}: expected one dimension, (r,)")
    require_shape("A", adapter.A, (adapter.rank, in_))
    require_shape("B", adapter.B, (out, adapter.rank))
    require_finite_number("scale s", adapter.s)
