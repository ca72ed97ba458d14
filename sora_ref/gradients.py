"""The gradients of one optimiser step: gathered from microbatches, and clipped (clause SORA-STEP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.preconditions import require, require_finite_number

Params = Mapping[str, Array]


def combine_microbatches(summed: Sequence[Params], examples: int) -> dict[str, Array]:
    """(Σ over microbatches) / examples, in the order given (SORA-STEP-2).

    summed: per microbatch, gradients of the loss *summed* over its examples; all with the same names.
    Raises SoRAError for no microbatch, fewer than one example, and names that differ.

    >>> sr.combine_microbatches([{"w": np.array([1.0])}, {"w": np.array([5.0])}], examples=3)
    {'w': array([2.])}
    """
    require(examples >= 1, f"{examples} examples in the optimiser batch: expected at least 1")
    require(len(summed) >= 1, "no microbatches: expected at least one")
    total = dict(summed[0])
    for grads in summed[1:]:
        require(grads.keys() == total.keys(), "microbatches differ in the parameters they have gradients of")
        total = {name: total[name] + grad for name, grad in grads.items()}
    return {name: grad / examples for name, grad in total.items()}


def clip_by_global_norm(grads: Params, limit: float, eps: float = 0.0) -> tuple[dict[str, Array], Array]:
    """Gradients times min(1, limit/(norm + eps)), and the norm: a 0-d float64 array on their device (SORA-STEP-4).

    limit, eps: τ and ε_c.  The norm is of all gradients together, formed in float64; each gradient keeps its dtype.
    Raises SoRAError for a limit that is not finite and above 0.

    >>> clipped, norm = sr.clip_by_global_norm({"w": np.array([3.0, 4.0])}, limit=2.5)
    >>> clipped["w"], float(norm)
    (array([1.5, 2. ]), 5.0)
    """
    require_finite_number("clip", limit)
    require(limit > 0, f"clip is {limit}: expected more than 0")
    xp = array_namespace(*grads.values())
    wide = [xp.astype(grad, xp.float64) for grad in grads.values()]
    norm = xp.sqrt(_sum([xp.sum(grad * grad) for grad in wide]))
    factor = limit / xp.maximum(norm + eps, limit)
    return {name: grad * xp.astype(factor, grad.dtype) for name, grad in grads.items()}, norm


def _sum(terms: Sequence[Any]) -> Any:
    return sum(terms[1:], start=terms[0])
