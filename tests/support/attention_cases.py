"""Attention of a set of kernels beside the specification's, over shapes, within a bound.

What has no derived bound in the specification gets one here, to first order, in the manner of `ulp_operations`: sums of
n numbers in any order meet n roundings, exp is right to K ulps, and every rounding is at most u of what cancels there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_inputs import SEEDS, SIZES, Floats, normal, unit, wide
from ulp_operations import K

from sora_ref.models import layers


@st.composite
def attentions(draw: Any) -> dict[str, Any]:
    """Shapes, a seed, masks: of padding, causal, or what a model adds to the scores of every head; dropout; a block."""
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    b, t = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, t), min_size=b, max_size=b))
    return {
        "rng": np.random.default_rng(draw(SEEDS)),
        "heads": heads,
        "shape": (b, t, heads * width),
        "bias": draw(st.sampled_from(["none", "padding", "causal", "scores"])),
        "mask": np.arange(t) < np.array(lengths, int)[:, None],
        "p": draw(st.sampled_from([0.0, 0.3])),
        "size": draw(SIZES),
        "block": draw(st.sampled_from([1, 20, 10**6])),
    }


def bias_of(case: dict[str, Any], dtype: str) -> Floats:
    """(b or 1, h or 1, t or 1, t)."""
    b, t, _ = case["shape"]
    if case["bias"] == "causal":
        return np.triu(np.full((t, t), -math.inf, dtype), 1)[None, None]
    if case["bias"] == "scores":
        return normal(case["rng"], dtype, b, case["heads"], t, t)
    mask = case["mask"] if case["bias"] == "padding" else np.ones((b, t), bool)
    return np.asarray(layers.attention_bias(mask, np.dtype(dtype)))


def check_attention(module: Any, dtype: str, case: dict[str, Any], smallest: float) -> None:
    """That the forms of this module are within their bound; smallest: the least number that its exp does not lose."""
    rng, heads, (b, t, d), p = case["rng"], case["heads"], case["shape"], case["p"]
    q, k, v, dy = (normal(rng, dtype, b, t, d, size=case["size"]) for _ in range(4))
    keep = rng.random((b, heads, t, t)) >= p if p else None
    bias = bias_of(case, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", case["block"])
        y, kept = module.attention_forward(q, k, v, heads, bias, keep, p)
        dq, dk, dv = module.attention_backward(dy, kept)
        value, nothing = module.attention_value(q, k, v, heads, bias, keep, p)
    assert nothing is None
    assert value.tobytes() == y.tobytes()
    assert {part.dtype for part in (y, dq, dk, dv)} == {np.dtype(dtype)}

    y_, cache = layers.attention_forward(wide(q), wide(k), wide(v), heads, wide(bias), keep, p)
    expected = layers.attention_backward(wide(dy), cache)
    u, c = unit(dtype), d // heads
    qh, kh, vh, dyh = (np.abs(x).reshape(b, t, heads, c).swapaxes(1, 2) for x in (q, k, v, dy))
    seen = np.isfinite(bias)
    scores = np.where(seen, qh @ kh.mT / math.sqrt(c) + np.abs(np.where(seen, bias, 0)), 0)
    A = 1 + np.max(scores, axis=-1, keepdims=True, initial=0)  # of a query
    most = np.max(A, axis=-2, keepdims=True, initial=1)
    P, drop = cache.probabilities, 1 / (1 - p)
    # P/(1 − p): the scores c + 4 roundings, twice; exp, also in the sum, 4K; the sum t; the quotient 2; dropout 3.
    share = u * (2 * (c + 4) + 4 * K + t + 5)
    grown = drop * (dyh @ vh.mT)
    inner = np.sum(P * grown, axis=-1, keepdims=True)
    ds = P * (grown + inner) / math.sqrt(c)  # its error: that of P three times, and the sums over c and t
    slope = 3 * share + u * (2 * c + 2 * t + 8)

    def heads_first(x: Floats) -> Floats:
        return x.reshape(b, t, heads, c).swapaxes(1, 2)

    # What underflows loses at most `smallest`.  On its way out it meets at most three entries of q, k, v and dy, a sum
    # over d/h, and dropout; at most 8 such losses meet in one of the t terms.
    largest = 1 + max(float(np.max(np.abs(x), initial=0)) for x in (q, k, v, dy))
    lost = smallest * 8 * (t + 2) * (c + 1) * drop * largest**3

    def close(found: Floats, right: Floats, size: Floats, factor: float) -> None:
        assert np.all(np.abs(heads_first(found) - heads_first(right)) <= factor * size + lost)

    close(y, y_, A * (drop * P @ vh), share + u * (t + 2))
    close(dv, expected[2], most * (drop * P.mT @ dyh), share + u * (t + 2))
    close(dq, expected[0], A * (ds @ kh), slope + u * (t + 2))
    close(dk, expected[1], most * (ds.mT @ qh), slope + u * (t + 2))


def check_unseeing(module: Any) -> None:
    """That a query which sees no key gets zeros, and so do its gradients."""
    q, k, v, dy = (normal(np.random.default_rng(0), "float32", 2, 3, 4) for _ in range(4))
    mask = np.array([[True, True, False], [False, False, False]])
    y, kept = module.attention_forward(q, k, v, 2, layers.attention_bias(mask, np.float32))
    assert np.all(y[1] == 0)
    for grad in module.attention_backward(dy, kept):
        assert np.all(grad[1] == 0)
        assert np.all(np.isfinite(grad))
