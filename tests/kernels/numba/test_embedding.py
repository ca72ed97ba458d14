"""The compiled gradient of an embedding's table beside the specification's: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, normal
from same_bits import same_bits

from sora_ref.kernels.numba import embedding as compiled
from sora_ref.kernels.numba.embedding import embedding_backward
from sora_ref.models import layers
from sora_ref.models.layers import EmbeddingCache


def check(dy: np.ndarray, ids: np.ndarray, rows: int) -> None:
    before = ids.copy()
    with np.errstate(all="ignore"):
        expected = layers.embedding_backward(dy, EmbeddingCache(ids, rows))
        found = embedding_backward(dy, EmbeddingCache(ids, rows))
    assert same_bits(found, expected)
    assert same_bits(ids, before)


@pytest.mark.exact
@given(
    seed=SEEDS,
    shape=st.sampled_from([(), (0,), (1,), (3, 5), (40,), (2, 0)]),
    rows=st.integers(1, 9),
    d=st.sampled_from([1, 7, 8, 33]),
    dtype=st.sampled_from(["float32", "float64"]),
    kind=st.sampled_from(["int64", "int32", "uint8"]),
)
def test_gradient_of_a_table_is_the_specifications_bit_for_bit(
    seed: int, shape: tuple[int, ...], rows: int, d: int, dtype: str, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    check(normal(rng, dtype, *shape, d), np.asarray(rng.integers(0, rows, shape), kind).reshape(-1), rows)


@pytest.mark.exact
def test_places_are_added_in_their_order_and_what_is_no_number_stays_in_its_rows() -> None:
    ids = np.array([1, 0, 1, 1, 2, 3, 3, 0])
    given = [3e38, -0.0, 3e38, -3e38, np.nan, np.inf, -np.inf, 1e-45]
    check(np.array(given, np.float32)[:, None] * np.ones(3, np.float32), ids, 5)


@pytest.mark.exact
def test_gradients_that_lie_otherwise_in_memory_are_compiled_for_once() -> None:
    dy, ids = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32), np.array([1, 0, 1, 2, 1, 2])
    check(dy, ids, 3)
    kernel: Any = compiled._add_to_rows
    known = len(kernel.signatures)
    for other in (dy.T, dy[::-1], dy[:, ::2], np.asfortranarray(dy), np.broadcast_to(dy[0], (6, 6))):
        check(other, ids[::-1], 3)
    assert len(kernel.signatures) == known


@pytest.mark.exact
@pytest.mark.parametrize("wrong", [3, -4])
def test_an_id_without_a_row_ends_as_in_numpy(wrong: int) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        embedding_backward(np.ones((2, 4), np.float32), EmbeddingCache(np.array([0, wrong]), 3))
    check(np.ones((2, 4), np.float32), np.array([0, -1]), 3)


@pytest.mark.exact
@pytest.mark.parametrize("ids", [np.array([0.5, 1.0]), np.array([True, False])])
def test_ids_that_are_no_integers_end_as_in_numpy(ids: Any) -> None:
    with pytest.raises(IndexError):
        embedding_backward(np.ones((2, 4), np.float32), EmbeddingCache(ids, 3))
