"""What the launching layer needs of CuPy, and how it compiles and launches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.cuda import BLOCK, CHUNK, options, signatures, source

REALS: dict[np.dtype[Any], str] = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@dataclass(frozen=True)
class Device:
    """An array library with its compiler and its BLAS.

    cp:      CuPy's namespace, or one with the same functions.
    compile: (CUDA C++, options) -> a module whose `get_function(name)` is called with grid, block and arguments.
    pointer: the address of an array's first element.
    cublas:  the module with gemmEx and gemmStridedBatchedEx;  handle: returns its handle.
    block, chunk: see `sora_ref.kernels.cuda`.
    """

    cp: Any
    compile: Callable[[str, tuple[str, ...]], Any]
    pointer: Callable[[Array], int]
    cublas: Any
    handle: Callable[[], int]
    block: int = BLOCK
    chunk: int = CHUNK
    compiled: dict[tuple[str, str], Any] = field(default_factory=dict, compare=False)  # kernels, by real and name

    def launch(self, name: str, dtype: Any, grid: Sequence[int], *args: Any) -> None:
        """Run the kernel of this name for arrays of `dtype`; nothing where the grid is empty.

        args: C-contiguous arrays, ints and floats, passed as pointers, 64-bit integers and doubles.
        """
        if math.prod(grid) == 0:
            return
        real = REALS[np.dtype(dtype)]
        if (real, name) not in self.compiled:
            module = self.compile(source(), options(real, self.block, self.chunk))
            self.compiled.update({(real, kernel): module.get_function(kernel) for kernel in signatures()})
        self.compiled[real, name](tuple(grid), (self.block,), tuple(_argument(value) for value in args))

    def blocks(self, n: int) -> int:
        """How many blocks n elements take, one a thread."""
        return -(-n // self.block)

    def contiguous(self, x: Array) -> Array:
        """x, or a copy of it, with its elements in C order."""
        return self.cp.ascontiguousarray(x)


def _argument(value: Any) -> Any:
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value
