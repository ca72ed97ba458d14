"""NumPy's attention beside the specification's, over shapes.

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
from kernel_inputs import DTYPES, SEEDS, SIZES, Floats, normal, unit, wide
from ulp_operations import K

from sora_ref.kernels.numpy import attention
from sora_ref.kernels.numpy.attention import attention_backward, attention_forward, attention_value
from sora_ref.models import layers


@st.composite
def attentions(draw: Any) -> dict[str, Any]:
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    b, t = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, t), min_size=b, max_size=b))
    return {
        "rng": np.random.default_rng(draw(SEEDS)),
        "heads": heads,
        "shape": (b, t, heads * width),
        "mask": np.arange(t) < np.array(lengths, int)[:, None] if draw(st.booleans()) else np.ones((b, t), bool),
        "p": draw(st.sampled_from([0.0, 0.3])),
        "size": draw(SIZES),
        "block": draw(st.sampled_from([1, 20, 10**6])),
    }


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=attentions())
def test_attention_is_the_specifications(dtype: str, case: dict[str, Any]) -> None:
    rng, heads, (b, t, d), p = case["rng"], case["heads"], case["shape"], case["p"]
    q, k, v, dy = (normal(rng, dtype, b, t, d, size=case["size"]) for _ in range(4))
    keep = rng.random((b, heads, t, t)) >= p if p else None
    bias = layers.attention_bias(case["mask"], np.dtype(dtype))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", case["block"])
        y, kept = attention_forward(q, k, v, heads, bias, keep, p)
        dq, dk, dv = attention_backward(dy, kept)
        value, nothing = attention_value(q, k, v, heads, bias, keep, p)
    assert nothing is None
    assert value.tobytes() == y.tobytes()
    assert {part.dtype for part in (y, dq, dk, dv)} == {np.dtype(dtype)}

    y_, cache = layers.attention_forward(wide(q), wide(k), wide(v), heads, wide(bias), keep, p)
    expected = layers.attention_backward(wide(dy), cache)
    u, c = unit(dtype), d // heads
    qh, kh, vh, dyh = (np.abs(x).reshape(b, t, heads, c).swapaxes(1, 2) for x in (q, k, v, dy))
    seen = np.isfinite(bias)
    scores = np.where(seen, qh @ kh.mT, 0) / math.sqrt(c)
    A = 1 + np.max(scores, axis=-1, keepdims=True, initial=0)  # of a query
    most = np.max(A, axis=-2, keepdims=True, initial=1)
    P, drop = cache.probabilities, 1 / (1 - p)
    # P/(1 − p): the scores c + 3 roundings, twice; exp, also in the sum, 4K; the sum t; the quotient, and dropout's 3.
    share = u * (2 * (c + 3) + 4 * K + t + 4)
    grown = drop * (dyh @ vh.mT)
    inner = np.sum(P * grown, axis=-1, keepdims=True)
    ds = P * (grown + inner) / math.sqrt(c)  # its error: that of P three times, and the sums over c and t
    slope = 3 * share + u * (2 * c + 2 * t + 8)

    def heads_first(x: Floats) -> Floats:
        return x.reshape(b, t, heads, c).swapaxes(1, 2)

    # An underflow loses at most one spacing η of subnormals.  On its way out it meets at most three entries of q, k, v
    # and dy, a sum over d/h, and dropout; at most 8 such losses meet in one of the t terms.
    largest = 1 + max(float(np.max(np.abs(x), initial=0)) for x in (q, k, v, dy))
    lost = float(np.finfo(dtype).smallest_subnormal) * 8 * (t + 2) * (c + 1) * drop * largest**3

    def close(found: Floats, right: Floats, size: Floats, factor: float) -> None:
        assert np.all(np.abs(heads_first(found) - heads_first(right)) <= factor * size + lost)

    close(y, y_, A * (drop * P @ vh), share + u * (t + 2))
    close(dv, expected[2], most * (drop * P.mT @ dyh), share + u * (t + 2))
    close(dq, expected[0], A * (ds @ kh), slope + u * (t + 2))
    close(dk, expected[1], most * (ds.mT @ qh), slope + u * (t + 2))


def test_attention_of_a_query_that_sees_nothing_is_zero_and_so_are_its_gradients() -> None:
    q, k, v, dy = (normal(np.random.default_rng(0), "float32", 2, 3, 4) for _ in range(4))
    mask = np.array([[True, True, False], [False, False, False]])
    y, kept = attention_forward(q, k, v, 2, layers.attention_bias(mask, np.float32))
    assert np.all(y[1] == 0)
    for grad in attention_backward(dy, kept):
        assert np.all(grad[1] == 0)
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(("b", "heads", "t"), [(3, 2, 4), (1, 5, 300), (0, 2, 3), (7, 12, 64), (2, 3, 1)])
def test_blocks_of_attention_cover_every_head_once_and_are_no_larger_than_they_must_be(
    b: int, heads: int, t: int
) -> None:
    seen = np.zeros((b, heads), int)
    for sequences, some in attention.blocks(b, heads, t):
        seen[sequences, some] += 1
        part = seen[sequences, some].size
        assert part * t * t <= max(attention.BLOCK, t * t)
    assert np.all(seen == 1)
