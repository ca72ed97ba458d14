"""NumPy's attention beside the specification's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_cases import attentions, check_attention, check_unseeing
from hypothesis import given
from kernel_inputs import DTYPES, normal

from sora_ref import SoRAError
from sora_ref.kernels.numpy import attention


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=attentions())
def test_attention_is_the_specifications(dtype: str, case: dict[str, Any]) -> None:
    check_attention(attention, dtype, case, float(np.finfo(dtype).smallest_subnormal))


def test_attention_of_a_query_that_sees_nothing_is_zero_and_so_are_its_gradients() -> None:
    check_unseeing(attention)


def test_arrays_of_other_shapes_than_the_queries_are_refused() -> None:
    """A loop over the blocks of q would not notice more sequences, nor write gradients of theirs."""
    x, longer = (normal(np.random.default_rng(0), "float32", b, 3, 4) for b in (2, 3))
    bias = np.zeros((1, 1, 1, 3), np.float32)
    for form in (attention.attention_forward, attention.attention_value):
        for q, k, v in ((x, longer, x), (x, x, longer), (longer, x, x), (x, x[:, :2], x[:, :2])):
            with pytest.raises(SoRAError, match="has shape"):
                form(q, k, v, 2, bias)
    kept = attention.attention_forward(x, x, x, 2, bias)[1]
    for dy in (longer, x[:1], x[:, :2], x.reshape(2, 4, 3)):
        with pytest.raises(SoRAError, match="dy has shape"):
            attention.attention_backward(dy, kept)


@pytest.mark.parametrize("most", [attention.BLOCK, 100])
@pytest.mark.parametrize(("b", "heads", "t"), [(3, 2, 4), (1, 5, 300), (0, 2, 3), (7, 12, 64), (2, 3, 1)])
def test_blocks_of_attention_cover_every_head_once_and_are_no_larger_than_they_must_be(
    b: int, heads: int, t: int, most: int
) -> None:
    seen = np.zeros((b, heads), int)
    for sequences, some in attention.blocks(b, heads, t, most):
        seen[sequences, some] += 1
        part = seen[sequences, some].size
        assert part * t * t <= max(most, t * t)
    assert np.all(seen == 1)
