"""NumPy's LayerNorm beside the specification's, over shapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS, SIZES
from norm_cases import LEADING, check_layer_norm, draw

from sora_ref.kernels.numpy.layer_norm import layer_norm_backward, layer_norm_forward


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, leading=LEADING, d=st.integers(1, 70), size=SIZES)
def test_layer_norm_is_the_specifications(dtype: str, seed: int, leading: tuple[int, ...], d: int, size: float) -> None:
    check_layer_norm(draw(seed, dtype, leading, d, size), layer_norm_forward, layer_norm_backward)
