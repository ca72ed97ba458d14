"""NumPy's attention beside the specification's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_cases import attentions, check_attention, check_unseeing
from hypothesis import given
from kernel_inputs import DTYPES

from sora_ref.kernels.numpy import attention


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=attentions())
def test_attention_is_the_specifications(dtype: str, case: dict[str, Any]) -> None:
    check_attention(attention, dtype, case, float(np.finfo(dtype).smallest_subnormal))


def test_attention_of_a_query_that_sees_nothing_is_zero_and_so_are_its_gradients() -> None:
    check_unseeing(attention)


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
