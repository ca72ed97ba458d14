"""GELU, LayerNorm and softmax: the kernels' text on the CPU, beside the specification.

Sums have another order than NumPy's, so two kinds of test: on numbers whose sums are exact in any order, every bit is
the specification's; on others, the distance from the specification in float64 is within a bound derived here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulated import MISSING, make_device
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import FUNCTION, gelu_bound, layer_norm_bound, unit, wide, within

from sora_ref.bounds import gamma
from sora_ref.kernels.cuda.operations import all_operations
from sora_ref.models import layers
from sora_ref.models.layers import LayerNormCache
from sora_ref.models.ops import ModelOperations

Floats = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
FORWARDS, BACKWARDS = make_device(), make_device(backwards=True)
KERNELS = all_operations(FORWARDS)
AS_SHIPPED = all_operations(make_device(block=128, chunk=1024))

dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from([1, 2, 7, 8, 9, 16, 23, 40])  # around a block of 8, and several rounds of it
rows = st.integers(0, 5)


def draw(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Floats:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def whole(seed: int, shape: tuple[int, ...], dtype: str) -> Floats:
    """Small integers: their products and sums are exact in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def same_bits(found: Any, expected: Any) -> bool:
    a, b = np.asarray(found), np.asarray(expected)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.bounded
@given(seeds, dtypes, st.integers(0, 40), st.sampled_from([0.01, 1.0, 3.0, 30.0]))
def test_gelu_is_within_its_roundings(seed: int, dtype: str, n: int, scale: float) -> None:
    x = draw(seed, (2, n), dtype, scale)
    expected = layers.gelu_forward(x.astype(np.float64))
    for found, right, bound in zip(KERNELS["gelu_forward"](x), expected, gelu_bound(x, unit(x)), strict=True):
        assert found.dtype == dtype
        assert within(found, np.asarray(right), bound)


@pytest.mark.exact
def test_gelu_of_extremes() -> None:
    x = np.array([0.0, 40.0, -40.0, np.nan, np.inf], np.float32)
    y, derivative = KERNELS["gelu_forward"](x)
    assert y.tolist()[:3] == [0.0, 40.0, 0.0]
    assert derivative.tolist()[:3] == [0.5, 1.0, 0.0]
    assert np.isnan(y[3])
    assert y[4] == np.inf


@pytest.mark.bounded
@given(seeds, dtypes, rows, widths, st.sampled_from([1e-12, 1e-5, 1.0]), st.sampled_from([0.0, 3.0]))
def test_layer_norm_is_within_its_roundings(seed: int, dtype: str, n: int, d: int, eps: float, shift: float) -> None:
    x = draw(seed, (n, 1, d), dtype) + np.asarray(shift, dtype)
    weight, bias = draw(seed + 1, (2, d), dtype)
    exact = x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64)
    y, cache = KERNELS["layer_norm_forward"](x, weight, bias, eps)
    expected, _ = layers.layer_norm_forward(exact[0], exact[1], exact[2], eps)
    assert within(y, np.asarray(expected), layer_norm_bound(x, weight, bias, eps, unit(x)))
    assert cache.xhat.dtype == cache.rstd.dtype == y.dtype == dtype


@pytest.mark.exact
@given(seeds, dtypes, st.integers(1, 5), st.sampled_from([1, 2, 8, 32]))
def test_layer_norm_of_exact_sums_is_the_specifications_bit_for_bit(seed: int, dtype: str, n: int, d: int) -> None:
    x, dy = whole(seed, (n, d), dtype), whole(seed + 3, (n, d), dtype)
    weight, bias = draw(seed + 1, (2, d), dtype)
    y, cache = KERNELS["layer_norm_forward"](x, weight, bias, 0.5)
    expected, spec = layers.layer_norm_forward(x, weight, bias, 0.5)
    assert same_bits(y, expected)
    assert same_bits(cache.xhat, spec.xhat)
    assert same_bits(cache.rstd, spec.rstd)

    integers = whole(seed + 4, (n, d), dtype)
    weight, rstd = whole(seed + 5, (d,), dtype), draw(seed + 6, (n,), dtype)
    dx, dw, db = KERNELS["layer_norm_backward"](dy, LayerNormCache(integers, rstd[:, None], weight))
    right = layers.layer_norm_backward(dy, layers.LayerNormCache(integers, rstd[:, None], weight))
    for found, one in zip((dx, dw, db), right, strict=True):
        assert same_bits(found, one)
    alone = KERNELS["layer_norm_backward"](dy, LayerNormCache(integers, rstd[:, None], weight), parameters=False)
    assert alone[1:] == (None, None)


@pytest.mark.bounded
@given(seeds, dtypes, rows, widths)
def test_layer_norm_backward_is_within_its_roundings(seed: int, dtype: str, n: int, d: int) -> None:
    dy, xhat = draw(seed, (2, n, d), dtype)
    rstd, weight = np.abs(draw(seed + 1, (n,), dtype)), draw(seed + 2, (d,), dtype)
    dx, _, _ = KERNELS["layer_norm_backward"](dy, LayerNormCache(xhat, rstd[:, None], weight))
    cache = layers.LayerNormCache(*wide(xhat, rstd[:, None], weight))
    expected, _, _ = layers.layer_norm_backward(dy.astype(np.float64), cache)
    u = unit(dy)
    a, x = np.abs(np.multiply(*wide(dy, weight))), np.abs(cache.xhat)
    mean, product = a.mean(-1, keepdims=True), (a * x).mean(-1, keepdims=True)
    lost = gamma(d + 1, u) * mean + x * gamma(d + 2, u) * product
    bound = cache.rstd * (gamma(4, u) * (a + mean + x * product) + (1 + gamma(4, u)) * lost)
    assert within(dx, np.asarray(expected), bound)


def make_mask(seed: int, b: int, t: int) -> npt.NDArray[np.bool_]:
    """Keys that are seen; the last sequence sees none."""
    mask = np.random.default_rng(seed).random((b, t)) < 0.6
    mask[-1:] = False
    return np.asarray(mask)


def softmax(scores: Floats, bias: Floats, scale: float, device: Any = FORWARDS) -> Floats:
    b, h, t, _ = scores.shape
    out = scores.copy()
    device.launch("softmax_forward", out.dtype, (b * h * t,), out, bias, scale, h * t, t)
    return out


@pytest.mark.bounded
@given(seeds, dtypes, st.integers(1, 3), widths, st.sampled_from([0.1, 5.0, 60.0]))
def test_masked_softmax_is_within_its_roundings(seed: int, dtype: str, b: int, t: int, size: float) -> None:
    scores, scale = draw(seed, (b, 2, t, t), dtype, size), 1 / math.sqrt(3)
    bias = np.asarray(layers.attention_bias(make_mask(seed, b, t), dtype))
    (exact,) = wide(scores)
    expected = np.asarray(layers.softmax(exact * scale + wide(bias)[0]))
    u = unit(scores)
    each = gamma(3, u) * np.abs(exact * scale)  # the scale's rounding, the product's, the sum's with 0
    shift = each + each.max(-1, keepdims=True)
    shift += u * (2 * np.abs(exact * scale).max(-1, keepdims=True) + shift)
    relative = np.expm1(shift) * (1 + FUNCTION * u) + FUNCTION * u
    worst = relative.max(-1, keepdims=True)
    lost = (1 + worst) ** 2 * (1 + gamma(t + 1, u)) - 1 + worst * worst + worst  # numerator, total, quotient
    found = softmax(scores, bias, scale)
    assert within(found, expected, 2 * expected * lost + (t + 1) * float(np.finfo(dtype).tiny))
    assert np.all(found[-1] == 0)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_rows_without_a_key_and_of_infinities(dtype: str) -> None:
    hidden = -math.inf
    scores = np.array([[0.0, 0.0, 0.0], [hidden] * 3, [hidden, 3.0, hidden], [math.nan, 0.0, 1.0]], dtype)
    bias = np.zeros((1, 3), dtype)
    out = np.concatenate([scores, scores[:1]])
    FORWARDS.launch("softmax_forward", out.dtype, (5,), out, bias, 1.0, 5, 3)
    assert out[1].tolist() == [0, 0, 0]
    assert out[2].tolist() == [0, 1, 0]
    assert np.all(np.isnan(out[3]))
    assert same_bits(out[0], np.full(3, 1, dtype) / np.asarray(3, dtype))


@pytest.mark.exact
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_subtracts_the_largest_score_wherever_it_stands(dtype: str) -> None:
    scores = 1000 * (np.eye(23, dtype=dtype) - 1) + 900  # exp of 900 overflows, and so does that of 1000
    FORWARDS.launch("softmax_forward", scores.dtype, (23,), scores, np.zeros((1, 23), dtype), 1.0, 23, 23)
    assert same_bits(scores, np.eye(23, dtype=dtype))


@pytest.mark.exact
@given(seeds, dtypes, st.integers(1, 4), widths)
def test_softmax_backward_of_exact_sums_is_the_specifications_bit_for_bit(
    seed: int, dtype: str, n: int, t: int
) -> None:
    dp, p = whole(seed, (n, t), dtype), whole(seed + 1, (n, t), dtype) / 8
    found = dp.copy()
    FORWARDS.launch("softmax_backward", found.dtype, (n,), found, p, 1 / math.sqrt(3), t)
    inner = np.sum(dp * p, axis=-1, keepdims=True)
    assert same_bits(found, p * (dp - inner) * (1 / math.sqrt(3)))


def attention_inputs(dtype: str, b: int = 2, t: int = 5, d: int = 6) -> tuple[list[Floats], Floats, Floats]:
    q, k, v, dy = draw(1, (4, b, t, d), dtype)
    return [q, k, v], dy, np.asarray(layers.attention_bias(make_mask(1, b, t), dtype))


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dropout", [False, True])
def test_attention_and_its_gradients_are_the_specifications(dtype: str, dropout: bool) -> None:
    (q, k, v), dy, bias = attention_inputs(dtype)
    keep = np.random.default_rng(2).random((2, 3, 5, 5)) < 0.7 if dropout else None
    given = (q, k, v, 3, bias, keep, 0.3)
    y, cache = KERNELS["attention_forward"](*given)
    expected, spec = layers.attention_forward(*given)
    near = 50 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y, expected, atol=near)
    found = KERNELS["attention_backward"](dy, cache)
    for one, right in zip(found, layers.attention_backward(dy, spec), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, right, atol=near)


def everything(kernels: ModelOperations, dtype: str) -> list[Floats]:
    """What every kernel with a barrier, or with neighbours in memory, gives for the same numbers."""
    (q, k, v), dy, bias = attention_inputs(dtype, d=27)
    context, cache = kernels["attention_forward"](q, k, v, 3, bias)
    weight, shift = draw(5, (2, 27), dtype)
    normal, norm = kernels["layer_norm_forward"](q, weight, shift, 1e-5)
    return [
        context,
        *kernels["attention_backward"](dy, cache),
        normal,
        *kernels["layer_norm_backward"](dy, norm),
        *kernels["gelu_forward"](q),
    ]


@pytest.mark.exact
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_depends_on_the_order_in_which_threads_run(dtype: str) -> None:
    there = everything(KERNELS, dtype)
    back = everything(all_operations(BACKWARDS), dtype)
    assert all(same_bits(a, b) for a, b in zip(there, back, strict=True))


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_as_shipped_give_the_same_up_to_the_order_of_sums(dtype: str) -> None:
    for a, b in zip(everything(KERNELS, dtype), everything(AS_SHIPPED, dtype), strict=True):
        np.testing.assert_allclose(a, b, atol=50 * float(np.finfo(dtype).eps))


@pytest.mark.exact
def test_arrays_that_lie_otherwise_in_memory_give_the_same(subtests: pytest.Subtests) -> None:
    x = draw(0, (6, 10), "float32")
    weight, bias = draw(1, (2, 10), "float32")
    for name, other in {"column by column": np.asfortranarray(x), "backwards": x[::-1][::-1]}.items():
        with subtests.test(name):
            before = other.copy()
            assert same_bits(KERNELS["gelu_forward"](other)[0], KERNELS["gelu_forward"](x)[0])
            found, right = (KERNELS["layer_norm_forward"](one, weight, bias, 1e-5)[0] for one in (other, x))
            assert same_bits(found, right)
            assert same_bits(other, before)
