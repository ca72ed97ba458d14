"""A norm of a residual sum is the norm of that sum, bit for bit, in the specification and in every set of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated import make_device
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, normal
from numba_here import MISSING

from sora_ref import kernels
from sora_ref.kernels.cuda.layers import layer_operations
from sora_ref.kernels.cuda.matmul import Matmul
from sora_ref.models import MODEL_SPEC

DEVICE = make_device()
FORMS: dict[str, Any] = {
    "specification": MODEL_SPEC.layer_norm_forward,
    **{
        name: kernels.get("numpy", name).training["layer_norm_forward"]
        for name in ("numpy", "numba")[: 1 if MISSING else 2]
    },
    "cuda": layer_operations(DEVICE, Matmul(DEVICE, "fp32", ()))["layer_norm_forward"],
}


@pytest.mark.exact
@pytest.mark.parametrize("form", FORMS)
@given(seed=SEEDS, leading=st.sampled_from([(1,), (3,), (2, 3)]), d=st.integers(1, 9))
def test_the_norm_of_a_residual_sum_is_the_norm_of_the_sum(
    form: str, seed: int, leading: tuple[int, ...], d: int
) -> None:
    rng = np.random.default_rng(seed)
    x, residual = normal(rng, "float32", *leading, d), normal(rng, "float32", *leading, d)
    weight, bias = normal(rng, "float32", d), normal(rng, "float32", d)
    y, cache = FORMS[form](x, weight, bias, 1e-5, residual)
    expected, kept = FORMS[form](x + residual, weight, bias, 1e-5)
    for found, right in zip((y, *cache), (expected, *kept), strict=True):
        assert np.asarray(found).tobytes() == np.asarray(right).tobytes()
