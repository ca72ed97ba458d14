"""The mean gradients of a batch, summed in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sora_ref import gradients
from sora_ref.backends import Array
from sora_ref.gradients import Params


def combine_microbatches(summed: Sequence[Params], examples: int) -> dict[str, Array]:
    """As `gradients.combine_microbatches`: (Σ over microbatches, in the order given)/examples, bit for bit.

    The sum of the first two is a new array, which takes the others and the quotient in.  The specification does what
    cannot go so (one microbatch, a shape or dtype that the sum has not got), and refuses what it refuses.
    """
    if examples < 1 or len(summed) < 2 or any(part.keys() != summed[0].keys() for part in summed[1:]):
        return gradients.combine_microbatches(summed, examples)
    first, second, *rest = summed
    try:
        total = {name: np.asarray(grad + second[name]) for name, grad in first.items()}
        for part in rest:
            for name, grad in total.items():
                np.add(grad, part[name], out=grad, casting="no")
        return {name: np.divide(grad, examples, out=grad, casting="no") for name, grad in total.items()}
    except (TypeError, ValueError):  # NumPy's, for another dtype or a larger shape than the sum's
        return gradients.combine_microbatches(summed, examples)
