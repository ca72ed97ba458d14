"""Matrices whose rows have no gaps within, but may lie apart, as those of a[:, :d] do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32
from sora_ref.kernels.numba.compiled import compiled


def compilable(
    x: Array,
    of_row: Iterable[Array | None] = (),
    beside: Iterable[Array | None] = (),
    of_column: Iterable[Array] = (),
) -> bool:
    """Whether x (..., d) is float32 and so is what goes with it: of_row (d,), beside (..., d), of_column (..., 1).

    Compiled code looks at no shape: what is not so is left to a form that does.
    """
    fitting = ((of_row, x.shape[-1:]), (beside, x.shape), (of_column, (*x.shape[:-1], 1)))
    return x.dtype == FLOAT32 and all(
        a is None or (a.dtype == FLOAT32 and a.shape == shape) for arrays, shape in fitting for a in arrays
    )


def rows_of(x: Array) -> Array:
    """x (..., d) as rows (n, d) without gaps within: a view where there is one that may be written, else a copy."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    ready = rows.flags.writeable and rows.flags.aligned and (rows.flags.c_contiguous or rows.strides[1] == x.itemsize)
    return rows if ready else rows.copy()


def long_rows_of(x: Array) -> Array:
    """The elements of x in C order as such rows, for a loop that does not ask where one ends: one, if x has no gaps."""
    return rows_of(x.reshape(1, x.size) if x.flags.c_contiguous else x)


@intrinsic
def gapless(_context: Any, row: Any) -> Any:
    """The same row, (d,), typed as contiguous, for the row of a matrix that `rows_of` gave.

    Numba takes the row of a matrix that is not contiguous to have a stride of its own, and does not vectorise its loop.
    """

    def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return row.copy(layout="C")(row), same


@compiled
def sum_row(x: Any, residual: Any, h: Any) -> None:
    """h = x + residual, or x where that is None; all (d,)."""
    for j in range(len(x)):
        h[j] = x[j] if residual is None else x[j] + residual[j]
