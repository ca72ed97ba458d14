"""Clipping by the global norm, whose sum of squares is one compiled pass over each gradient."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from sora_ref import gradients
from sora_ref.backends import Array
from sora_ref.gradients import Params
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled


def clip_by_global_norm(grads: Params, limit: float, eps: float = 0.0) -> tuple[dict[str, Array], Array]:
    """As `gradients.clip_by_global_norm`: gradients times min(1, limit/(norm + eps)), and the norm, in float64.

    The sums of the gradients are added in their order.
    The specification does what is not float32, and refuses what it refuses.
    """
    known = type(limit) in (int, float) and 0 < limit < math.inf and len(grads) > 0
    if not known or any(grad.dtype != FLOAT32 for grad in grads.values()):
        return gradients.clip_by_global_norm(grads, limit, eps)
    norm = np.sqrt(np.float64(reduce(add, (_squares(flat(grad)) for grad in grads.values()))))
    factor = np.float32(limit / np.maximum(norm + eps, limit))
    return {name: grad * factor for name, grad in grads.items()}, norm


@compiled(fastmath={"reassoc"})
def _squares(x: Any) -> float:
    """Σ x_i² over (n,), in float64, where the square of a float32 is exact.

    "reassoc": the sum is of as many partial sums as the compiler finds fit.
    """
    total = 0.0
    for i in range(x.size):
        wide = np.float64(x[i])
        total += wide * wide
    return total
