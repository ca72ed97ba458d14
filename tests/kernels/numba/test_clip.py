"""The compiled clipping beside the specification's: the norm within the roundings of a sum, the rest bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, unit
from same_bits import same_bits
from update_inputs import SHAPES

from sora_ref import SoRAError, clip_by_global_norm
from sora_ref.bounds import gamma
from sora_ref.kernels.numba import clip as compiled
from sora_ref.kernels.numba.clip import clip_by_global_norm as clip


@pytest.mark.bounded("SORA-STEP-4")
@given(
    seed=SEEDS,
    shapes=st.lists(st.one_of(SHAPES, st.just((300, 7))), min_size=1, max_size=5),
    size=st.sampled_from([1e-30, 1.0, 1e30]),
    limit=st.sampled_from([0.1, 1, 1e6]),
    eps=st.sampled_from([0.0, 1e-6]),
)
def test_norm_is_that_of_a_sum_in_float64_and_the_gradients_are_scaled_by_it_bit_for_bit(
    seed: int, shapes: list[tuple[int, ...]], size: float, limit: float, eps: float
) -> None:
    rng = np.random.default_rng(seed)
    grads = {f"p{k}": np.asarray(size * rng.standard_normal(s), np.float32) for k, s in enumerate(shapes)}
    found, norm = clip(grads, limit, eps)
    squares = [float(x) ** 2 for grad in grads.values() for x in grad.ravel()]  # exact: 2·24 bits
    exact = math.sqrt(math.fsum(squares))
    # n terms meet n − 1 roundings, in any order; the root halves what they are of it, and rounds; so do the two here
    assert abs(norm - exact) <= gamma(len(squares) + 4, unit("float64")) * exact
    assert (norm.shape, norm.dtype) == ((), np.dtype(np.float64))
    factor = np.float32(limit / max(float(norm) + eps, limit))
    for name, grad in grads.items():
        assert same_bits(found[name], grad * factor)


@pytest.mark.exact("SORA-STEP-4")
def test_eps_is_added_to_the_norm() -> None:
    clipped, norm = clip({"a": np.array([3, 4], np.float32)}, 2.5, 5.0)
    assert (clipped["a"].tolist(), float(norm)) == ([0.75, 1.0], 5.0)


@pytest.mark.exact("SORA-STEP-4")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clipping_never_hides_what_is_no_number(bad: float) -> None:
    grads = {"a": np.array([bad, 1.0, -0.0], np.float32), "b": np.ones(20, np.float32)}
    with np.errstate(invalid="ignore"):
        (expected, right), (found, norm) = clip_by_global_norm(grads, 0.5), clip(grads, 0.5)
    assert same_bits(norm, right)
    assert all(same_bits(found[name], clipped) for name, clipped in expected.items())


@pytest.mark.exact
def test_what_is_not_float32_is_the_specifications() -> None:
    rng = np.random.default_rng(0)
    grads = {"a": rng.standard_normal(500), "b": rng.standard_normal(3).astype(np.float32)}
    expected, found = clip_by_global_norm(grads, 0.5, 1e-6), clip(grads, 0.5, 1e-6)
    assert same_bits(found[1], expected[1])
    assert all(same_bits(found[0][name], clipped) for name, clipped in expected[0].items())


@pytest.mark.exact
def test_gradients_that_lie_otherwise_in_memory_are_compiled_for_once() -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    clip({"a": x}, 1.0)
    kernel: Any = compiled._squares
    known = len(kernel.signatures)
    for view in (x.T, x[::2], x[:, ::-1], np.asfortranarray(x), np.broadcast_to(x, (2, 6, 4))):
        expected, found = clip_by_global_norm({"a": view}, 1.0), clip({"a": view}, 1.0)
        assert abs(found[1] - expected[1]) <= 2 * gamma(view.size + 4, unit("float64")) * expected[1]
    assert len(kernel.signatures) == known


@pytest.mark.exact
@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan, np.float32(1)])
def test_clipping_at_no_positive_number_is_refused(limit: float) -> None:
    with pytest.raises(SoRAError, match="clip is"):
        clip({"a": np.ones(2, np.float32)}, limit)
