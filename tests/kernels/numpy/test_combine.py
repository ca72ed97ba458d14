"""Gradients summed in place beside the specification's sum: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS
from same_bits import same_bits
from update_inputs import SHAPES

from sora_ref import SoRAError
from sora_ref import combine_microbatches as specified
from sora_ref.kernels.numpy.combine import combine_microbatches


def check(summed: list[dict[str, np.ndarray]], examples: Any) -> None:
    before = [{name: grad.copy() for name, grad in part.items()} for part in summed]
    with np.errstate(all="ignore"):
        expected, found = specified(summed, examples), combine_microbatches(summed, examples)
    assert list(found) == list(expected)
    assert all(same_bits(found[name], mean) for name, mean in expected.items())
    for part, old in zip(summed, before, strict=True):
        assert all(same_bits(part[name], grad) for name, grad in old.items())


@pytest.mark.exact("SORA-STEP-2")
@given(
    seed=SEEDS,
    dtype=st.sampled_from(DTYPES),
    shapes=st.lists(SHAPES, min_size=1, max_size=4),
    microbatches=st.integers(1, 5),
    examples=st.sampled_from([1, 3, 32 * 1024]),
)
def test_mean_over_microbatches_is_the_specifications_bit_for_bit(
    seed: int, dtype: str, shapes: list[tuple[int, ...]], microbatches: int, examples: int
) -> None:
    rng = np.random.default_rng(seed)

    def part() -> dict[str, np.ndarray]:
        return {f"p{k}": np.asarray(rng.standard_normal(shape), dtype) for k, shape in enumerate(shapes)}

    check([part() for _ in range(microbatches)], examples)


@pytest.mark.exact
def test_sums_follow_the_order_of_the_microbatches_and_keep_what_is_no_number() -> None:
    rows = np.array([[3e38, 3e38, -3e38], [-0.0, -0.0, -0.0], [np.inf, 1, -np.inf], [np.nan, 1, 2]], np.float32)
    check([{"p": row} for row in rows.T], 1)


@pytest.mark.exact
def test_other_dtypes_shapes_and_places_in_memory_are_the_specifications() -> None:
    wide, narrow = np.ones((2, 3)) / 3, np.ones((2, 3), np.float32) / 3
    for last in (wide, narrow, wide[:1], narrow.T.copy().T, np.broadcast_to(narrow, (4, 2, 3)), narrow.astype("f2")):
        check([{"p": narrow}, {"p": narrow}, {"p": last}], 3)
    whole = np.arange(6).reshape(2, 3)
    check([{"p": whole}] * 3, 4)
    check([{"p": narrow}] * 3, np.float64(3))


@pytest.mark.exact
def test_what_the_specification_refuses_is_refused() -> None:
    one, other = {"p": np.ones(2)}, {"q": np.ones(2)}
    for summed, examples, sentence in (
        ([], 1, "no microbatches"),
        ([one, one], 0, "0 examples"),
        ([one, one, other], 3, "microbatches differ"),
    ):
        with pytest.raises(SoRAError, match=sentence):
            combine_microbatches(summed, examples)
