"""Matrix products by cuBLAS: a declared precision, and accumulation onto what is there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.cuda.device import Device

# cuBLAS's own numbers (library_types.h, cublas_api.h).
R_32F, R_64F, R_16F, R_16BF = 0, 1, 2, 14
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
OP_N, OP_T, GEMM_DEFAULT = 0, 1, -1

# What cuBLAS multiplies the product and the output by: 0 and 1 of each dtype, and where they lie.
_SCALARS = {real: np.array([0, 1], real) for real in (np.dtype(np.float32), np.dtype(np.float64))}
_ZERO = {real: int(scalars.ctypes.data) for real, scalars in _SCALARS.items()}
_ONE = {real: _ZERO[real] + real.itemsize for real in _SCALARS}


class Operand(NamedTuple):
    """A matrix, or a stack of them, as cuBLAS is to read it.

    data: C-contiguous, in the type that is multiplied: bfloat16 as its 16 bits.  transposed: whether it holds the
    transposes.  shape: (..., rows, columns) of what is meant.  real: the dtype of the arithmetic around the product.
    """

    data: Array
    transposed: bool
    shape: tuple[int, ...]
    real: np.dtype[Any]

    @property
    def T(self) -> Self:  # noqa: N802
        """The transposes; nothing is copied."""
        *stack, rows, columns = self.shape
        return self._replace(transposed=not self.transposed, shape=(*stack, columns, rows))

    @property
    def leading(self) -> int:
        """The length of a row of `data`."""
        return self.shape[-2] if self.transposed else self.shape[-1]


class Matmul:
    """a @ b for float32 or float64 arrays (..., m, k) and (..., k, n) of one dtype.

    precision: of float32 products; float64 has its own.  "fp32": float32, without TF32.  "tf32": operands rounded to
               TF32 by the tensor cores.  "bf16", "fp16": operands rounded to these first.  Sums are float32 always,
               and so is what comes out.
    frozen:    arrays that never change: they are cast once, at their first use; all others at every use.
    """

    def __init__(self, device: Device, precision: str = "fp32", frozen: Iterable[Array] = ()) -> None:
        self.device, self.precision = device, precision
        of_in = {"bf16": R_16BF, "fp16": R_16F}.get(precision, R_32F)
        single = of_in, R_32F, COMPUTE_32F_FAST_TF32 if precision == "tf32" else COMPUTE_32F
        self._types = {np.dtype(np.float32): single, np.dtype(np.float64): (R_64F, R_64F, COMPUTE_64F)}
        self._frozen = {id(x): x for x in frozen}
        self._known: dict[int, Operand] = {}  # by the same id, those of `frozen` that were used

    def operand(self, x: Array | Operand) -> Operand:
        """x made ready to be multiplied; do it once where x is used more than once."""
        if isinstance(x, Operand):
            return x
        if id(x) in self._known:
            return self._known[id(x)]
        data, transposed = x, False
        if not x.flags.c_contiguous:
            flipped = x.swapaxes(-1, -2)
            transposed = flipped.flags.c_contiguous
            data = flipped if transposed else self.device.contiguous(x)
        made = Operand(self._cast(data), transposed, tuple(x.shape), x.dtype)
        if id(x) in self._frozen:
            self._known[id(x)] = made
        return made

    def __call__(self, a: Array | Operand, b: Array | Operand, out: Array | None = None) -> Array:
        """a @ b in a new array; or `out`, C-contiguous, after a @ b has been added to it in place.

        Raises ValueError where shapes or dtypes do not fit: cuBLAS itself would read past the end.
        """
        a, b = self.operand(a), self.operand(b)
        (*stack, m, k), (*stack_b, k_b, n) = a.shape, b.shape
        if stack != stack_b or k != k_b or a.real != b.real:
            raise ValueError(f"a {a.real} {a.shape} @ b {b.real} {b.shape}: expected shapes that fit, and one dtype")
        shape = (*stack, m, n)
        if out is not None and (tuple(out.shape) != shape or out.dtype != a.real or not out.flags.c_contiguous):
            raise ValueError(f"out is {out.dtype} {tuple(out.shape)}: expected contiguous {a.real} {shape}")
        if math.prod(shape) == 0 or k == 0:
            return self.device.cp.zeros(shape, a.real) if out is None else out
        beta = (_ZERO if out is None else _ONE)[a.real]
        out = self.device.cp.empty(shape, a.real) if out is None else out
        self._gemm(b, a, n, m, k, beta, out, math.prod(stack) if stack else None)
        return out

    def _gemm(self, a: Operand, b: Operand, m: int, n: int, k: int, beta: int, out: Array, stack: int | None) -> None:
        """Column by column, as cuBLAS has it, where a row-major matrix is its transpose: outᵀ = bᵀ aᵀ."""
        pointer, cublas = self.device.pointer, self.device.cublas
        of_in, of_out, compute = self._types[a.real]
        ops, one = (OP_T if a.transposed else OP_N, OP_T if b.transposed else OP_N), _ONE[a.real]
        left, right, to = pointer(a.data), pointer(b.data), pointer(out)
        if stack is None:
            of_a, of_b, of_c = (left, of_in, a.leading), (right, of_in, b.leading), (to, of_out, m)
            cublas.gemmEx(self.device.handle(), *ops, m, n, k, one, *of_a, *of_b, beta, *of_c, compute, GEMM_DEFAULT)
        else:
            a_s, b_s = (left, of_in, a.leading, m * k), (right, of_in, b.leading, k * n)
            c_s = (to, of_out, m, m * n, stack)
            cublas.gemmStridedBatchedEx(
                self.device.handle(), *ops, m, n, k, one, *a_s, *b_s, beta, *c_s, compute, GEMM_DEFAULT
            )

    def _cast(self, x: Array) -> Array:
        """x in the type that is multiplied; float64 stays as it is."""
        cp = self.device.cp
        if x.dtype != np.float32 or self.precision in ("fp32", "tf32"):
            return x
        if self.precision == "fp16":
            return x.astype(cp.float16)
        half = cp.empty(x.shape, cp.uint16)
        self.device.launch("cast_bf16", x.dtype, (self.device.blocks(x.size),), x, x.size, half)
        return half
