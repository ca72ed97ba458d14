"""Dropout masks are functions of (seed, step, example, site), and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from strategies import Space
from tiny_bert import as_host

from sora_ref import SoRAError
from sora_ref.init import generator
from sora_ref.models import Dropout

KINDS = ("rows", "square", "vector")
EXAMPLES, LENGTHS = (7, 1, 12, 3), (4, 6, 2, 0)


def masks(examples: Sequence[int], lengths: Sequence[int], seed: int = 1, step: int = 2) -> Dropout:
    return Dropout(seed, step, 0.3, 0.3, 0.3, examples, lengths, as_host)


def draw(dropout: Dropout, kind: str, site: str = "site", p: float = 0.3) -> npt.NDArray[Any]:
    args: dict[str, tuple[Any, ...]] = {"rows": (site, 5, p), "square": (site, 2, p), "vector": (site, 50, p)}
    mask = getattr(dropout, kind)(*args[kind])
    assert isinstance(mask, np.ndarray)
    return mask


def own(mask: npt.NDArray[Any], kind: str, length: int) -> npt.NDArray[Any]:
    if kind == "square":
        return mask[:, :length, :length]
    return mask[:length] if kind == "rows" else mask


@pytest.mark.exact("SORA-INIT-1")
@pytest.mark.parametrize("kind", KINDS)
def test_masks_do_not_depend_on_batch_splitting_order_or_padding(kind: str) -> None:
    together = draw(masks(EXAMPLES, LENGTHS), kind)
    for order in ([0], [1], [2], [2, 0], [3, 2, 1, 0]):
        apart = draw(masks([EXAMPLES[k] for k in order], [LENGTHS[k] for k in order]), kind)
        for row, k in zip(apart, order, strict=True):
            assert np.array_equal(own(row, kind, LENGTHS[k]), own(together[k], kind, LENGTHS[k]))


@pytest.mark.exact("SORA-INIT-1")
@pytest.mark.parametrize("kind", KINDS)
def test_masks_differ_by_seed_step_example_and_site(kind: str) -> None:
    given = masks(EXAMPLES, (6, 6, 6, 6))
    variants = [
        draw(given, kind),
        draw(given, kind, site="other"),
        draw(replace(given, seed=2), kind),
        draw(replace(given, step=3), kind),
        draw(replace(given, examples=(8, 2, 13, 4)), kind),
    ]
    seen = {mask.tobytes() for variant in variants for mask in variant}
    assert len(seen) == 5 * 4, "some two of twenty masks are equal"
    assert draw(given, kind).tobytes() == variants[0].tobytes()


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_masks_drop_at_the_rate_asked_for(p: float) -> None:
    keep = draw(masks(range(40), [250] * 40), "rows", p=p)
    # Hoeffding: |rate − p| exceeds this for one seed in 10¹²
    assert abs((1 - keep.mean()) - p) <= math.sqrt(math.log(2e12) / (2 * keep.size))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_kept_and_shapes_follow_the_longest_example(kind: str) -> None:
    mask = draw(masks(EXAMPLES, LENGTHS), kind, p=0.999)
    assert mask.shape == {"rows": (4, 6, 5), "square": (4, 2, 6, 6), "vector": (4, 50)}[kind]
    assert mask.dtype == np.bool_
    if kind != "vector":
        assert mask[3].all(), "an example without tokens has nothing to drop"
        outside = np.ones(mask[2].shape, bool)
        own(outside, kind, 2)[...] = False
        assert mask[2][outside].all()


def test_no_probability_means_no_mask() -> None:
    given = masks(EXAMPLES, LENGTHS)
    assert given.rows("site", 3, 0) is given.square("site", 2, 0.0) is given.vector("site", 3, 0) is None


def test_masks_go_through_the_road_from_the_host(floats: Space) -> None:
    def road(mask: Any) -> Any:
        return floats.asarray(mask, "bool")

    mask = Dropout(1, 2, 0.3, 0.3, 0.3, EXAMPLES, LENGTHS, road).rows("site", 5, 0.3)
    assert np.array_equal(floats.to_numpy(mask), draw(masks(EXAMPLES, LENGTHS), "rows"))


def test_an_empty_batch_has_empty_masks() -> None:
    assert draw(masks((), ()), "rows").shape == (0, 1, 5)


@pytest.mark.exact("SORA-INIT-1")
@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_float32_uniforms_keyed_by_seed_site_step_and_example(kind: str) -> None:
    mask = draw(masks(EXAMPLES, LENGTHS, seed=4, step=9), kind, site="a.site")
    for row, example, length in zip(mask, EXAMPLES, LENGTHS, strict=True):
        shape = {"rows": (length, 5), "square": (2, length, length), "vector": (50,)}[kind]
        draws = generator(4, "dropout", "a.site", 9, example).random(shape, dtype=np.float32)
        assert np.array_equal(own(row, kind, length), draws >= 0.3)


@pytest.mark.exact("SORA-INIT-1")
def test_a_draw_equal_to_the_probability_is_kept() -> None:
    draws = generator(4, "dropout", "site", 9, 7).random(50, dtype=np.float32)
    for index in (0, 17, 49):
        keep = draw(masks((7,), (1,), seed=4, step=9), "vector", p=float(draws[index]))
        assert keep[0, index]
        assert np.array_equal(keep[0], draws >= draws[index])


@pytest.mark.parametrize("lengths", [(4, 6, 2), (4, 6, 2, 0, 1)])
def test_every_example_has_a_length(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        masks(EXAMPLES, lengths).vector("site", 5, 0.3)


@pytest.mark.parametrize("site", ["hidden", "attention", "adapter"])
def test_a_probability_lies_from_0_to_below_1(site: str) -> None:
    def with_probability(p: float) -> Dropout:
        change: dict[str, Any] = {site: p}
        return replace(masks(EXAMPLES, LENGTHS), **change)

    for p in (0, 0.0, math.nextafter(1, 0)):
        assert getattr(with_probability(p), site) == p
    for p in (-math.ulp(0.0), 1, 1.5, math.nan):
        with pytest.raises(SoRAError) as refusal:
            with_probability(p)
        assert str(refusal.value) == f"{site} dropout is {p}: expected 0 <= p < 1"
