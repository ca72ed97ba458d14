"""Matrices whose rows have no gaps within, but may lie apart, as those of a[:, :d] do."""

from __future__ import annotations

from typing import Any

from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from sora_ref.backends import Array


def rows_of(x: Array) -> Array:
    """x (..., d) as rows (n, d) without gaps within: a view where there is one that may be written, else a copy."""
    d = x.shape[-1]
    rows = x.reshape(x.size // d if d else 0, d)
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
