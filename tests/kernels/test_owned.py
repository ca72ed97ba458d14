"""The encoder's backward adds to the gradients that it gets: each must be an array of its own, in every set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_inputs import normal
from numba_here import MISSING

from sora_ref import SoRA, kernels
from sora_ref.models import MODEL_SPEC

SETS = ("reference", "numpy") if MISSING else ("reference", "numpy", "numba")


def check_own(dx: Any, *others: Any) -> None:
    """That dx may be written into, and that none of the others changes then."""
    assert dx.flags.writeable
    assert not any(np.shares_memory(dx, other) for other in others if isinstance(other, np.ndarray))


@pytest.mark.parametrize("parameters", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_the_gradient_of_a_norm_is_an_array_of_its_own(name: str, parameters: bool) -> None:
    rng = np.random.default_rng(0)
    x, dy, weight, bias = (normal(rng, "float32", *shape) for shape in ((2, 3, 4), (2, 3, 4), (4,), (4,)))
    ops = MODEL_SPEC.replace(**kernels.get("numpy", name).training)
    _, cache = ops.layer_norm_forward(x, weight, bias, 1e-5, x)
    check_own(ops.layer_norm_backward(dy, cache, parameters=parameters)[0], dy, *cache)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", SETS)
def test_the_gradient_of_a_linear_map_is_an_array_of_its_own(name: str, rank: int) -> None:
    rng = np.random.default_rng(0)
    x, dy, W0 = (normal(rng, "float32", *shape) for shape in ((2, 3, 4), (2, 3, 5), (5, 4)))
    adapter = SoRA(normal(rng, "float32", rank, 4), normal(rng, "float32", rank), normal(rng, "float32", 5, rank), 2.0)
    found = kernels.get("numpy", name)
    ops = MODEL_SPEC.replace(**found.training)
    if found.fold is not None:
        ops = ops.replace(**found.fold({"m": (W0, adapter)}, ops.sora_linear_forward, ops.sora_linear_backward))
    for own in (adapter, None):
        cache: Any = ops.sora_linear_forward(x, W0, None, own)[1]
        dx, *others = ops.sora_linear_backward(dy, cache)
        check_own(dx, dy, W0, *others, *cache, *adapter)
