"""Sums over a row of float32, in loops of their own: there alone is the compiler free to choose the order.

It adds up several partial sums, as many as suit the processor, then those and what is left of the row.  The order is
fixed once the loop is compiled, and depends on the length of the row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sora_ref.kernels.numba.compiled import compiled

_ZERO = np.float32(0)


@compiled(fastmath={"reassoc"})
def sum_of(x: Any) -> Any:
    """Σ_i x_i; "reassoc": of as many partial sums as the compiler finds fit."""
    total = _ZERO
    for i in range(len(x)):
        total += x[i]
    return total


@compiled(fastmath={"reassoc", "contract"})
def inner_product(x: Any, y: Any) -> Any:
    """Σ_i x_i y_i; "reassoc": of as many partial sums as the compiler finds fit."""
    total = _ZERO
    for i in range(len(x)):
        total += x[i] * y[i]
    return total
