"""Attention with its compiled passes beside the specification's: bounds, NaN and infinities, bits."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
from attention_cases import attentions, check_attention, check_unseeing
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, normal

from sora_ref.kernels.numpy import attention as plain
from sora_ref.models import layers

attention = importlib.import_module("sora_ref.kernels.numba.attention")
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)  # its exp gives 0 where it would be less


@pytest.mark.bounded
@given(case=attentions())
def test_attention_is_the_specifications(case: dict[str, Any]) -> None:
    check_attention(attention, "float32", case, SMALLEST_NORMAL)


def test_attention_of_a_query_that_sees_nothing_is_zero_and_so_are_its_gradients() -> None:
    check_unseeing(attention)


@pytest.mark.exact
@given(case=attentions())
def test_another_dtype_is_numpys_bit_for_bit(case: dict[str, Any]) -> None:
    rng, heads, shape = case["rng"], case["heads"], case["shape"]
    q, k, v, dy = (normal(rng, "float64", *shape) for _ in range(4))
    bias = layers.attention_bias(case["mask"], np.float64)
    (y, kept), (y_, kept_) = (m.attention_forward(q, k, v, heads, bias) for m in (attention, plain))
    assert y.tobytes() == y_.tobytes() == attention.attention_value(q, k, v, heads, bias)[0].tobytes()
    for found, right in zip(attention.attention_backward(dy, kept), plain.attention_backward(dy, kept_), strict=True):
        assert found.tobytes() == right.tobytes()


def softmax_of(scores: Any, masked: bool) -> Any:
    """The compiled softmax of one row alone, to which zeros are added where it is masked."""
    x = np.array(scores, np.float32)[None, None, None, :].repeat(len(scores), axis=2)
    attention.softmax(x, np.float32(1), np.zeros((1, 1, 1, len(scores)), np.float32), masked, 0, 0)
    return x[0, 0, 0]


@pytest.mark.exact
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "scores",
    [
        [0.0, np.nan, 1.0],
        [-np.nan, 0.0, 1.0],
        [np.inf, 0.0, 1.0],
        [np.inf, 0.0, 100.0],  # exp overflows beside the infinity
        [np.inf, -np.inf, np.nan],
        [-np.inf, -np.inf, -np.inf],
        [-np.inf, 0.0, -np.inf],
        [3e38, -3e38, 0.0],
        [300.0, 0.0, -300.0],
    ],
)
def test_softmax_of_nan_infinities_and_far_scores_is_the_specifications(scores: list[float], masked: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        right = layers.softmax(np.array(scores, np.float32))
    np.testing.assert_array_equal(softmax_of(scores, masked), right)


@pytest.mark.exact
def test_what_is_dropped_is_zero_whatever_stood_there() -> None:
    x = np.array([np.nan, np.inf, -np.inf, -1, 3], np.float32)
    out = np.full_like(x, 7)
    attention.drop(x, np.array([False] * 4 + [True]), np.float32(0.5), out)
    assert out.tobytes() == np.array([0, 0, 0, 0, 6], np.float32).tobytes()


@pytest.mark.exact
@given(seed=SEEDS, n=st.integers(1, 70))
def test_the_largest_of_a_row_is_its_maximum(seed: int, n: int) -> None:
    x = normal(np.random.default_rng(seed), "float32", n, size=1e3)
    for row in (x, -np.abs(x), np.append(x, np.inf).astype(np.float32), np.full(n, -np.inf, np.float32), 0 * x):
        assert attention.largest(row) == row.max()
    assert np.isnan(attention.largest(np.append(x, np.nan).astype(np.float32)))


@pytest.mark.exact
@given(case=attentions())
def test_the_bits_of_a_sequence_do_not_depend_on_those_beside_it_nor_on_the_blocks(case: dict[str, Any]) -> None:
    rng, heads, (_, t, d) = case["rng"], case["heads"], case["shape"]
    q, k, v = (normal(rng, "float32", 3, t, d, size=case["size"]) for _ in range(3))
    seen = layers.attention_bias(np.arange(t) < np.array([t, 0, 1])[:, None], np.float32)
    bias = seen + normal(rng, "float32", 3, heads, t, t)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", case["block"])
        whole = attention.attention_forward(q, k, v, heads, bias)[0]
    alone = [attention.attention_forward(q[[i]], k[[i]], v[[i]], heads, bias[[i]])[0] for i in range(3)]
    assert whole.tobytes() == np.concatenate(alone).tobytes()


@pytest.mark.parametrize("name", ["bias", "keep"])
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (3, 1, 1, 4), (1, 3, 1, 4), (1, 1, 2, 4)])
def test_masks_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """Compiled code would read beyond their end."""
    x = normal(np.random.default_rng(0), "float32", 2, 4, 6)
    masks: dict[str, Any] = {"bias": np.zeros((1, 1, 1, 4), np.float32), "keep": None}
    masks[name] = np.ones(shape, masks["bias"].dtype if name == "bias" else bool)
    for form in (attention.attention_forward, attention.attention_value):
        with pytest.raises(ValueError, match="broadcast"):
            form(x, x, x, 2, masks["bias"], masks["keep"], 0.5)


def test_sequences_that_do_not_fit_are_refused() -> None:
    """Of those that are too many, what is no gradient would be given."""
    rng = np.random.default_rng(0)
    x, bias = normal(rng, "float32", 2, 4, 6), np.zeros((1, 1, 1, 4), np.float32)
    for shape in ((3, 4, 6), (1, 4, 6), (2, 5, 6), (2, 4, 8)):
        other = normal(rng, "float32", *shape)
        for form in (attention.attention_forward, attention.attention_value):
            for q, k, v in ((other, x, x), (x, other, x), (x, x, other)):
                with pytest.raises(ValueError, match="expected one shape"):
                    form(q, k, v, 2, bias)
    cache = attention.attention_forward(x, x, x, 2, bias)[1]
    for shape in ((3, 4, 6), (2, 5, 6)):
        with pytest.raises(ValueError, match=r"broadcast|mismatch"):
            attention.attention_backward(normal(rng, "float32", *shape), cache)


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16"])
def test_a_gradient_of_another_dtype_goes_to_the_specification(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, bias, keep = normal(rng, "float32", 2, 4, 6), np.zeros((1, 1, 1, 4), np.float32), rng.random((2, 2, 4, 4)) < 0.5
    for mask in (None, keep, keep.astype(object)):
        cache = attention.attention_forward(x, x, x, 2, bias, mask, 0.5)[1]
        q, k, v, probabilities, _, p = cache
        kept = None if mask is None else keep
        dropped = layers.dropout_forward(probabilities, kept, p)
        of_the_specification = layers.AttentionCache(q, k, v, probabilities, dropped, kept, p)
        right = layers.attention_backward(x.astype(dtype), of_the_specification)
        for part, other in zip(attention.attention_backward(x.astype(dtype), cache), right, strict=True):
            assert part.dtype == np.result_type(dtype, np.float32)
            assert part.tobytes() == np.asarray(other).tobytes()


def test_a_bias_may_lack_leading_axes_and_be_one_for_all_keys() -> None:
    x = normal(np.random.default_rng(0), "float32", 2, 4, 6)
    of_keys = np.array([0, 0, -np.inf, 0], np.float32)
    for short, long in (
        (of_keys, of_keys[None, None, None]),
        (np.full((4, 1), 2, np.float32), np.full((1, 1, 4, 4), 2, np.float32)),
    ):
        found, right = (attention.attention_forward(x, x, x, 2, bias)[0] for bias in (short, long))
        assert found.tobytes() == right.tobytes()


@pytest.mark.exact
@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_numbers_that_are_not_finite_change_nothing_in_the_sequences_beside_theirs(odd: float) -> None:
    """Of two scores 88 apart, one has a probability below the normal numbers, and here 0, whatever is beside it."""
    q = np.zeros((2, 2, 1), np.float32)
    k = np.array([[[0], [0]], [[0], [1]]], np.float32)
    q[1] = 88
    strange = q.copy()
    strange[0, 0] = odd
    with np.errstate(invalid="ignore"):
        plain_, beside = (
            attention.attention_forward(x, k, k, 1, np.zeros((1, 1, 1, 2), np.float32))[1] for x in (q, strange)
        )
    assert plain_.probabilities[1].tobytes() == beside.probabilities[1].tobytes()
    assert plain_.probabilities[1, 0, 0, 0] == 0


@pytest.mark.exact
def test_masks_of_another_dtype_or_place_compile_nothing_anew() -> None:
    x = normal(np.random.default_rng(0), "float32", 2, 4, 6)
    for bias in (np.zeros((1, 1, 1, 4), np.float32), np.zeros((2, 1, 1, 4)), np.zeros((4, 8))[:, ::2]):
        for keep in (np.ones((2, 2, 4, 4), bool), np.ones((1, 1, 1, 4), bool), np.ones((2, 2, 4, 8), bool)[..., ::2]):
            attention.attention_forward(x, x, x, 2, bias, keep, 0.5)
    assert len(attention.softmax.signatures) == 1
    assert len(attention.drop.signatures) == 1
