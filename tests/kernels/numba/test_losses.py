"""The compiled losses beside the specification's, within bounds derived to all orders; u is float32's roundoff.

An exponential of x − m, at a distance d = m − x below the largest, is off by the factor exp(u·d), for x − m rounds, and
by 1 + 2u of its own.  Sums of n float32 meet n roundings in any order.  Losses are added in float64, and rounded once.
"""

from __future__ import annotations

import math
import tracemalloc
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS, SIZES, normal, unit, wide
from same_bits import same_bits

from sora_ref.bounds import gamma
from sora_ref.kernels.numba import losses as compiled
from sora_ref.kernels.numba.losses import cross_entropy, linear_cross_entropy
from sora_ref.models import losses
from sora_ref.models.losses import IGNORED

U, U64 = unit("float32"), unit("float64")
LOST = 2.0**-126  # where an exponential underflows


def exact(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distances d below the largest, softmax, totals Σe, and losses, of every row; in extended precision."""
    d = np.max(logits, axis=1, keepdims=True) - logits
    e = np.exp(-d)
    total = np.sum(e, axis=1, keepdims=True)
    return d, e / total, total, np.log(total[:, 0]) + d[np.arange(len(labels)), labels]


def off(d: np.ndarray, p: np.ndarray, roundings: int, moved: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of every exponential, which meets so many roundings more, and of their sum.

    moved: how far a logit lies from the exact one, at most.
    """
    each = np.exp(U * d + 2 * moved * (1 + U)) * (1 + 2 * U) * (1 + gamma(roundings, U)) - 1
    n = d.shape[1]
    return each, np.sum(p * (1 + each), axis=1, keepdims=True) * (1 + gamma(n + roundings, U)) - 1 + n * LOST


def loss_bound(d: np.ndarray, total: np.ndarray, loss: np.ndarray, of_total: np.ndarray) -> Any:
    """What the total's error does to its logarithm; the roundings in float64; the last one."""
    wide_ones = (len(loss) + 4) * U64 * np.sum(np.log(total[:, 0]) + np.max(d, axis=1, initial=0))
    return np.sum(-np.log1p(-of_total)) + wide_ones + U * (np.sum(loss) + 1e-30)


@pytest.mark.bounded
@given(seed=SEEDS, rows=st.integers(0, 5), classes=st.integers(1, 70), size=SIZES)
def test_cross_entropy_is_the_specifications(seed: int, rows: int, classes: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = normal(rng, "float32", rows, classes, size=size), rng.integers(0, classes, rows)
    loss, grad = cross_entropy(logits, labels)
    assert loss.dtype == grad.dtype == np.float32
    assert loss.shape == ()
    d, p, total, right = exact(wide(logits), labels)
    each, of_total = off(d, p, 0)
    assert abs(loss - np.sum(right)) <= loss_bound(d, total, right, of_total)
    own = np.arange(classes) == labels[:, None]
    assert np.all(np.abs(grad - (p - own)) <= p * ((1 + each) * (1 + U) / (1 - of_total) - 1) + LOST + U * own)


@pytest.mark.bounded
@given(
    seed=SEEDS,
    n=st.integers(0, 5),
    V=st.integers(1, 40),
    d=st.integers(1, 9),
    chunk=st.sampled_from([1, 3, 16, 64]),
    size=SIZES,
    biased=st.booleans(),
)
def test_linear_cross_entropy_is_the_specifications(
    seed: int, n: int, V: int, d: int, chunk: int, size: float, biased: bool
) -> None:
    """A logit meets d + 1 roundings; a chunk multiplies what stands by an exponential: 3 roundings, and one to add."""
    rng = np.random.default_rng(seed)
    hidden, W = normal(rng, "float32", n, d, size=size), normal(rng, "float32", V, d)
    bias, labels = normal(rng, "float32", V), rng.choice([IGNORED, *range(V)], n)
    loss, grad, count = linear_cross_entropy(hidden, W, bias if biased else None, labels, chunk)
    known = labels != IGNORED
    assert (loss.dtype, grad.dtype, int(count)) == (np.float32, np.float32, np.sum(known))
    assert not np.any(grad[~known])

    x, w, b = wide(hidden[known]), wide(W), wide(bias) * biased
    logits, own = x @ w.T + b, labels[known]
    moved = gamma(d + 1, U) * np.max(np.abs(x) @ np.abs(w).T + np.abs(b), axis=1, keepdims=True, initial=0)
    away, p, total, right = exact(logits, own)
    roundings = 4 * -(-V // chunk)
    each, of_total = off(away, p, roundings, moved)
    assert abs(loss - np.sum(right)) <= loss_bound(away, total, right, of_total) + np.sum(2 * moved)
    relative = p * ((1 + each) * (1 + gamma(V + 2, U)) / (1 - of_total) - 1) + LOST
    bound = relative @ np.abs(w) + U * ((p + relative) @ np.abs(w) + np.abs(w[own]))
    assert np.all(np.abs(grad[known] - (p @ w - w[own])) <= bound)


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 100.0, 3e38, -3e38]


@pytest.mark.bounded
def test_logits_that_are_no_numbers_have_the_specifications_losses() -> None:
    for row in product(SPECIAL, repeat=3):
        logits, labels = np.array([row], np.float32), np.array([1])
        with np.errstate(all="ignore"):
            expected, found = losses.cross_entropy(logits, labels), cross_entropy(logits, labels)
        for a, b in zip(expected, found, strict=True):
            # exp is of 0, of what underflows, or of no number; then come a sum of three and a quotient or log
            assert np.allclose(a, b, rtol=8 * U, atol=LOST, equal_nan=True), row


@pytest.mark.exact
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_vocabularies_with_what_is_no_number_have_the_specifications_losses(chunk: int) -> None:
    one = np.eye(3, dtype=np.float32)
    hidden = np.zeros((4, 3), np.float32)
    for special in SPECIAL:
        for where in range(3):
            bias = np.zeros(3, np.float32)
            bias[where] = special
            labels = np.array([0, 1, IGNORED, 2])
            with np.errstate(all="ignore"):
                expected = losses.linear_cross_entropy(hidden, one, bias, labels)
                found = linear_cross_entropy(hidden, one, bias, labels, chunk)
            for a, b in zip(expected, found, strict=True):
                assert np.allclose(a, b, rtol=8 * U, atol=8 * U, equal_nan=True), (special, where)
    ruled_out = np.full(3, -math.inf, np.float32)
    with np.errstate(all="ignore"):
        expected = losses.linear_cross_entropy(hidden, one, ruled_out, np.arange(4) % 3)
        found = linear_cross_entropy(hidden, one, ruled_out, np.arange(4) % 3, chunk)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected, found, strict=True))


@pytest.mark.exact
def test_what_stands_at_a_place_without_a_label_is_not_looked_at() -> None:
    hidden = np.full((3, 2), math.nan, np.float32)
    loss, grad, count = linear_cross_entropy(hidden, np.ones((5, 2), np.float32), None, np.full(3, IGNORED))
    assert (float(loss), int(count)) == (0.0, 0)
    assert not np.any(grad)


@pytest.mark.exact
def test_logits_of_a_whole_vocabulary_are_never_held() -> None:
    rng = np.random.default_rng(0)
    hidden, W = normal(rng, "float32", 64, 4), normal(rng, "float32", 20_000, 4)
    labels = rng.integers(0, 20_000, 64)
    linear_cross_entropy(hidden, W, None, labels, 100)
    tracemalloc.start()
    linear_cross_entropy(hidden, W, None, labels, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 64 * 100 * 4 <= peak < 64 * 20_000 * 4 / 20


@pytest.mark.exact
def test_other_dtypes_and_labels_out_of_range_are_the_specifications() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    W = rng.standard_normal((5, 3))
    narrow = logits.astype(np.float32), W.astype(np.float32)
    for given_hidden, given_W, given_labels in (
        (logits, W, labels),
        (logits, narrow[1], labels),
        (*narrow, np.array([0, 5, -1, 1])),
    ):
        expected = losses.linear_cross_entropy(given_hidden, given_W, None, given_labels)
        found = linear_cross_entropy(given_hidden, given_W, None, given_labels)
        assert all(same_bits(a, b) for a, b in zip(expected, found, strict=True))
    assert all(
        same_bits(a, b)
        for a, b in zip(losses.cross_entropy(logits, labels), cross_entropy(logits, labels), strict=True)
    )


@pytest.mark.bounded
def test_a_label_that_is_no_class_costs_what_it_costs_in_the_specification() -> None:
    logits = np.array([[1, 2, 3, 4], [-4, -3, -2, -1], [0, 0, 0, 0]], np.float32)
    expected, found = (f(logits, np.array([-1, 4, 0])) for f in (losses.cross_entropy, cross_entropy))
    assert abs(float(found[0]) - float(expected[0])) <= 8 * U * float(expected[0])
    assert np.allclose(found[1], expected[1], rtol=8 * U, atol=0)


@pytest.mark.exact
def test_losses_are_added_in_float64_and_rounded_once() -> None:
    """Of rows of zeros every exponential and Σe are exact.  Were log 7 rounded to float32, 4097·log 7 were another."""
    labels, one = np.zeros(4097, np.int64), np.eye(7, dtype=np.float32)
    rows = np.zeros((4097, 7), np.float32)
    for loss in (cross_entropy(rows, labels)[0], linear_cross_entropy(rows, one, None, labels, 2)[0]):
        assert loss == np.float32(4097 * math.log(7))


@pytest.mark.exact
def test_labels_that_are_no_integers_are_no_class() -> None:
    rng = np.random.default_rng(0)
    hidden, W = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    labels: Any = np.array([0.5, 1.0, 3.9])
    for found, expected in (
        (cross_entropy(hidden, labels), losses.cross_entropy(hidden, labels)),
        (linear_cross_entropy(hidden, W, None, labels), losses.linear_cross_entropy(hidden, W, None, labels)),
    ):
        assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.exact
@pytest.mark.parametrize("shape", [(5,), (2, 4), (1,), (), (4, 1)])
def test_a_bias_that_is_not_one_number_for_each_word_is_added_or_refused_as_in_the_specification(
    shape: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    hidden, W = rng.standard_normal((4, 5)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    bias, labels = rng.standard_normal(shape).astype(np.float32), np.array([0, IGNORED, 3, IGNORED])

    def outcome(form: Any, **options: int) -> Any:
        try:
            return [part.tobytes() for part in form(hidden, W, bias, labels, **options)]
        except ValueError as error:
            return str(error)

    for chunk in (1, 2, 4):
        assert outcome(linear_cross_entropy, chunk=chunk) == outcome(losses.linear_cross_entropy)


@pytest.mark.exact
def test_logits_and_labels_that_lie_otherwise_in_memory_are_compiled_for_once() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 4)).astype(np.float32), np.array([0, 2, 1, 1])
    plain = [part.tobytes() for part in cross_entropy(logits, labels)]
    kernel: Any = compiled._cross_entropy
    known = len(kernel.signatures)
    others = [np.asfortranarray(logits), np.repeat(logits, 2, axis=1)[:, ::2], logits[::-1][::-1]]
    for other in others:
        for kind in ("int64", "int32", "uint8"):
            before = other.copy()
            assert [part.tobytes() for part in cross_entropy(other, labels.astype(kind))] == plain
            assert same_bits(other, before)
    assert len(kernel.signatures) == known
