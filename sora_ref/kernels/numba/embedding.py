"""The gradient of an embedding's table in one compiled pass, with the specification's bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.models import layers
from sora_ref.models.layers import EmbeddingCache


def embedding_backward(dy: Array, cache: EmbeddingCache) -> Array:
    """As `layers.embedding_backward`: dtable[k] = Σ over places with id k of dy, in the order of the places."""
    ids, rows = cache
    if dy.dtype != FLOAT32 or not _are_rows(ids, rows):
        return layers.embedding_backward(dy, cache)
    dtable = np.zeros((rows, dy.shape[-1]), FLOAT32)
    _add_to_rows(dtable, flat(ids.astype(np.int64, copy=False)), flat(dy).reshape(ids.size, dy.shape[-1]))
    return dtable


def _are_rows(ids: Array, rows: int) -> bool:
    """Whether the ids are integers and there is a row of each: compiled code looks at no bound."""
    return ids.dtype.kind in "iu" and (ids.size == 0 or bool(ids.min() >= 0 and ids.max() < rows))


@compiled
def _add_to_rows(table: Any, ids: Any, dy: Any) -> None:
    """table[ids_i] += dy_i, for i = 0, 1, …; table (rows, d), ids (n,), dy (n, d)."""
    for i in range(ids.size):
        row, added = table[ids[i]], dy[i]
        for j in range(row.size):
            row[j] += added[j]
