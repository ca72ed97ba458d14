"""What LayerNorm and RMSNorm kernels are given, and how far their results may lie from the exact ones.

The bounds are to first order, in the manner of `ulp_operations`: sums of n numbers in any order meet n roundings, and
every rounding is at most u of what cancels there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from kernel_inputs import normal, unit, wide
from ulp_operations import EPS

from sora_ref.models import layers

Floats = npt.NDArray[Any]
LEADING = st.sampled_from([(), (1,), (0,), (3, 5)])


class NormCase(NamedTuple):
    """Arrays of one dtype: x, dy (..., d), weight, bias (d,)."""

    x: Floats
    dy: Floats
    weight: Floats
    bias: Floats


def draw(seed: int, dtype: str, leading: tuple[int, ...], d: int, size: float) -> NormCase:
    """Normal numbers, those of x of this size."""
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, dtype, *leading, d, size=size), normal(rng, dtype, *leading, d)
    return NormCase(x, dy, normal(rng, dtype, d), normal(rng, dtype, d))


def check_layer_norm(case: NormCase, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Both functions within their bounds, and of the dtype they are given."""
    x, dy, weight, bias = case
    dtype, leading, d = str(x.dtype), x.shape[:-1], x.shape[-1]
    y, kept = forward(x, weight, bias, EPS)
    dx, dweight, dbias = backward(dy, kept)
    without = backward(dy, kept, parameters=False)
    assert without[1:] == (None, None)
    assert without[0].tobytes() == dx.tobytes()
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


def check_rms_norm(case: NormCase, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Both functions within their bounds, and of the dtype they are given.

    The mean of squares, none of which cancels: d + 1 roundings, ε two, which the root halves; root and quotient; x̂ one.
    """
    x, dy, weight, _ = case
    dtype, leading, d = str(x.dtype), x.shape[:-1], x.shape[-1]
    y, kept = forward(x, weight, EPS)
    dx, dweight = backward(dy, kept)
    without = backward(dy, kept, parameters=False)
    assert without[1] is None
    assert without[0].tobytes() == dx.tobytes()
    assert {part.dtype for part in (y, dx, dweight)} == {np.dtype(dtype)}

    y_, (xhat, rrms, _) = layers.rms_norm_forward(wide(x), wide(weight), EPS)
    exact: tuple[Any, ...] = layers.rms_norm_backward(wide(dy), layers.RMSNormCache(xhat, rrms, weight))
    dx_, dweight_ = exact
    n, axes = max(math.prod(leading), 1), tuple(range(len(leading)))
    u = unit(dtype) * (1 + 2.0**-10)  # terms of second order
    of_rrms = (d + 3) / 2 + 2
    of_xhat = of_rrms + 1
    dxhat, size = np.abs(weight * wide(dy)), np.abs(xhat)
    slope = size * np.mean(dxhat * size, axis=-1, keepdims=True)  # dx̂ rounds; d + 1 of the mean; x̂ twice
    assert np.all(np.abs(y - y_) <= u * (of_xhat + 1) * np.abs(y_))
    largest = rrms * (dxhat * (of_rrms + 3) + slope * (of_rrms + 2 * of_xhat + d + 5))
    assert np.all(np.abs(dx - dx_) <= u * largest)
    assert np.all(np.abs(dweight - dweight_) <= u * (of_xhat + n + 1) * np.sum(np.abs(dy) * size, axis=axes))
