"""How an implementation stores a layer, and the conversion of B between a fused layer's form and the kit's.

The kit computes with B (out, groups·r): the block of each group stands on the diagonal, and zeros stand elsewhere.  A
fused layer stores the blocks alone, one below the other, as (out, r).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sora_ref.conformance.protocol.layer import Floats


@dataclass(frozen=True)
class StorageLayout:
    """How the implementation stores a layer, where it is not (out, in); the kit converts on the way in and out.

    transposed: W0 is (in, out), A (in, r) and B (r, out), as in Hugging Face's Conv1D.
    groups:     the layer is several projections in one, as a fused QKV is: the outputs fall into this many equal
                slices, each with a triple of its own.  A is (groups·r, in) and g (groups·r,), group after group, and
                B (out, r): the rows of a slice belong to its group.
    sites:      the triple is tied: it serves this many frozen layers.  x, W0, b, y, dx and dy then have a leading axis
                of sites, and dA, dg, dB are sums over them.
    """

    transposed: bool = False
    groups: int = 1
    sites: int = 1


def in_blocks(B: Any, groups: int) -> Any:
    """B, or something of its shape, with zeros where no parameter is: outside the blocks of its groups."""
    return B if groups == 1 else grouped(ungrouped(B, groups), groups)


def ungrouped(B: Floats, groups: int) -> Floats:
    """(out, groups·r) with blocks on the diagonal -> (out, r), the blocks one below the other."""
    rows, columns = B.shape[0] // groups, B.shape[1] // groups
    parts = [B[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns] for k in range(groups)]
    return np.concatenate(parts)


def grouped(B: Floats, groups: int) -> Floats:
    """The inverse: every slice of rows moved to the columns of its group, zeros elsewhere."""
    rows, columns = B.shape[0] // groups, B.shape[1]
    out = np.zeros((B.shape[0], groups * columns), B.dtype)
    for k in range(groups):
        out[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns] = B[k * rows : (k + 1) * rows]
    return out
