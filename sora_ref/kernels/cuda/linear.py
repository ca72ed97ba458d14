"""The SoRA linear map on a GPU, with the signatures of `sora_ref.linear`: no pass over y but the products' own."""

from __future__ import annotations

import math
from typing import Any

from sora_ref.backends import Array
from sora_ref.kernels.cuda.device import Device
from sora_ref.kernels.cuda.matmul import Matmul
from sora_ref.linear import LinearCache, LinearGrads, SoRA
from sora_ref.ops import Operations


def linear_operations(device: Device, matmul: Matmul) -> Operations:
    """The two functions by the field of `Ops` they replace.

    Under bf16 and fp16 the branch's products are in TF32: they are small, and casting their operands would take longer.
    """
    cp = device.cp
    branch = Matmul(device, "tf32") if matmul.precision in ("bf16", "fp16") else matmul

    def forward(
        x: Array, W0: Array, b: Array | None, adapter: SoRA | None, *, keep: Array | None = None, p: Any = 0.0
    ) -> tuple[Array, LinearCache]:
        """y = x W0ᵀ + b + (z ⊙ (s·g)) Bᵀ with z = drop(x) Aᵀ: the bias first, then products that add themselves to it.

        Raises ValueError where shapes or dtypes do not fit.
        """
        leading, (out, in_) = tuple(x.shape[:-1]), W0.shape
        n = math.prod(leading)
        x = device.contiguous(x.reshape(n, in_))
        y = None
        if b is not None:
            y = cp.empty((n, out), x.dtype)
            y[...] = b
        y = matmul(x, matmul.operand(W0).T, out=y)

        h, z = x, None
        if keep is not None:
            h = cp.where(keep.reshape(x.shape), x / (1 - p), cp.zeros_like(x))
        if adapter is not None:
            A, g, B, s = adapter
            z = branch(h, A.T)  # (n, in) -> (n, r)
            u = cp.empty(z.shape, z.dtype)
            device.launch("branch_forward", z.dtype, (device.blocks(z.size),), z, g, float(s), adapter.rank, z.size, u)
            branch(u, B.T, out=y)  # (n, r) -> (n, out)
        return y.reshape(*leading, out), LinearCache(x, h, z, W0, adapter, keep, p, leading)

    def backward(
        dy: Array,
        cache: LinearCache,
        *,
        dx: bool = True,
        dW0: bool = False,
        db: bool = False,
    ) -> LinearGrads:
        """The gradients of ⟨dy, y⟩, numbered as in the specification."""
        x, h, z, W0, adapter, keep, p, leading = cache
        n, (out, in_) = x.shape[0], W0.shape
        dy = device.contiguous(dy.reshape(n, out))
        of_dy = matmul.operand(dy)
        dx_ = matmul(of_dy, W0) if dx else None  # term 1: the frozen path
        dA = dg = dB = None
        if adapter is not None:
            A, g, B, s = adapter
            r = adapter.rank
            q = branch(dy, B)  # (n, out) -> (n, r)
            pieces = max(-(-n // device.chunk), 1)
            u, w, parts = (cp.empty(shape, dy.dtype) for shape in ((n, r), (n, r), (pieces, r)))
            device.launch("branch_backward", dy.dtype, (r, pieces), q, z, g, float(s), n, r, u, w, parts)
            dg = parts.reshape(pieces * r)  # term 2
            if pieces > 1:
                dg = cp.empty((r,), dy.dtype)
                device.launch("sum_rows", dy.dtype, (device.blocks(r),), parts, pieces, r, dg)
            dB = branch(dy.T, u)  # term 3
            dA = branch(w.T, h)  # term 4
            if dx_ is not None:  # term 5: through the branch
                if keep is None:
                    branch(w, A, out=dx_)
                else:
                    dh = branch(w, A)
                    dx_ += cp.where(keep.reshape(dh.shape), dh / (1 - p), cp.zeros_like(dh))
        return LinearGrads(
            dx=None if dx_ is None else dx_.reshape(*leading, in_),
            dA=dA,
            dg=dg,
            dB=dB,
            dW0=matmul(of_dy.T, x) if dW0 else None,
            db=cp.sum(dy, axis=0) if db else None,
        )

    return {"sora_linear_forward": forward, "sora_linear_backward": backward}
