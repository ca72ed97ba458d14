"""Rows added up by their ids on a GPU, in one order: CuPy's own `scatter_add` is atomic, so its sums do not repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sora_ref.backends import Array

# Element i of the output is Σ over the places with its row's id, in their order: `order` lists the places sorted by id,
# and those of row k stand from starts[k] to starts[k + 1].
SUM_OF_PLACES = """
    const long long row = i / width, column = i % width;
    T sum = 0;
    for (long long k = starts[row]; k < starts[row + 1]; ++k) sum += updates[order[k] * width + column];
    out = sum;
"""


def make_scatter_add(cp: Any) -> Callable[[int, Array, Array], Array]:
    """`Backend.scatter_add` for the arrays of CuPy, whose namespace is `cp`.

    Duplicates are summed in the order of their places: one kernel after a stable sort; the host waits for neither.
    """
    sum_of_places = cp.ElementwiseKernel(
        "raw T updates, raw int64 order, raw int64 starts, int64 width", "T out", SUM_OF_PLACES, "sum_of_places"
    )

    def scatter_add(rows: int, ids: Array, updates: Array) -> Array:
        width = updates.shape[1]
        order = cp.argsort(ids, kind="stable").astype(cp.int64)
        starts = cp.searchsorted(ids[order], cp.arange(rows + 1)).astype(cp.int64)
        out = cp.empty((rows, width), updates.dtype)
        sum_of_places(cp.ascontiguousarray(updates), order, starts, width, out)
        return out

    return scatter_add
