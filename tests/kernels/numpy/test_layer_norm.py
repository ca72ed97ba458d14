"""NumPy's LayerNorm beside the specification's, over shapes.

What has no derived bound in the specification gets one here, to first order, in the manner of `ulp_operations`: sums of
n numbers in any order meet n roundings, exp is right to K ulps, and every rounding is at most u of what cancels there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS, SIZES, normal, unit, wide
from ulp_operations import EPS

from sora_ref.kernels.numpy.layer_norm import layer_norm_backward, layer_norm_forward
from sora_ref.models import layers


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, leading=st.sampled_from([(), (1,), (0,), (3, 5)]), d=st.integers(1, 70), size=SIZES)
def test_layer_norm_is_the_specifications(dtype: str, seed: int, leading: tuple[int, ...], d: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, dtype, *leading, d, size=size), normal(rng, dtype, *leading, d)
    weight, bias = normal(rng, dtype, d), normal(rng, dtype, d)
    y, kept = layer_norm_forward(x, weight, bias, EPS)
    grads: tuple[Any, ...] = layer_norm_backward(dy, kept)
    dx, dweight, dbias = grads
    assert layer_norm_backward(dy, kept, parameters=False)[1:] == (None, None)
    assert {part.dtype for part in (y, dx, dweight, dbias)} == {np.dtype(dtype)}

    y_, (xhat, rstd, _) = layers.layer_norm_forward(wide(x), wide(weight), wide(bias), EPS)
    exact: tuple[Any, ...] = layers.layer_norm_backward(wide(dy), layers.LayerNormCache(xhat, rstd, weight))
    dx_, dweight_, dbias_ = exact
    u, mean = unit(dtype), d + 2  # a mean: d roundings of its sum, one of 1/d, one of the product
    kappa = (1 + rstd * np.max(np.abs(x), axis=-1, keepdims=True, initial=0)) * (1 + np.abs(xhat))
    D = np.max(np.abs(weight * dy), axis=-1, keepdims=True, initial=0)
    n = max(math.prod(leading), 1)
    assert np.all(np.abs(y - y_) <= u * (mean + 4) * (np.abs(weight) * kappa + np.abs(bias)))
    assert np.all(np.abs(dx - dx_) <= u * (5 * mean + 12) * rstd * D * kappa)
    axes = tuple(range(len(leading)))
    assert np.all(np.abs(dweight - dweight_) <= u * (mean + n + 3) * np.sum(np.abs(dy) * kappa, axis=axes))
    assert np.all(np.abs(dbias - dbias_) <= u * n * np.sum(np.abs(dy), axis=axes))
