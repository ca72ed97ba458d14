"""The losses: their values and gradients, extreme logits, and places without a label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from strategies import Space
from tiny_bert import check_vjp

from sora_ref.bounds import gamma
from sora_ref.models import cross_entropy, linear_cross_entropy, squared_error
from sora_ref.models.losses import IGNORED

F64 = 2.0**-53
LOGITS = np.random.default_rng(5).integers(-512, 512, (6, 4)) / 64
LABELS = np.array([0, 3, 1, 1, 2, 0])


@pytest.mark.measured
def test_cross_entropy_is_minus_the_log_likelihood(floats: Space) -> None:
    """In units of u, with exp and log within an ulp, 2u: measured, and promised by none.

    Ours, of a row: 5 enter the logarithm of a number from 1 to 4, which adds 2·log 4; then the difference.  By hand: 3
    enter, and of |log| ≤ 8 + log 4 come 2 each; then the difference.  In all 5 + 3 + 3 + 19 = 30 a row.  The two
    differences and the sums of six rows round 2 + 5 + 1 times.
    """
    loss, grad = cross_entropy(floats.asarray(LOGITS), floats.asarray(LABELS, "int64"))
    rows = [math.log(math.fsum(map(math.exp, row))) - row[label] for row, label in zip(LOGITS, LABELS, strict=True)]
    assert np.max(np.abs(LOGITS)) <= 8
    assert abs(float(floats.to_numpy(loss)) - math.fsum(rows)) <= 6 * gamma(31, F64) + gamma(9, F64) * math.fsum(rows)
    assert np.all((floats.to_numpy(grad) < 0) == (np.arange(4) == LABELS[:, None]))


@pytest.mark.bounded
def test_cross_entropy_gradient_sums_to_zero_in_every_row(floats: Space) -> None:
    """Whatever exp gave: its sum rounds 3 times, the quotients once, the label's 1 off once; here 3 sums of size 2."""
    grad = floats.to_numpy(cross_entropy(floats.asarray(LOGITS), floats.asarray(LABELS, "int64"))[1])
    assert np.max(np.abs(grad.sum(axis=1))) <= gamma(3 + 1 + 1 + 3 * 2, F64)


@pytest.mark.measured
def test_cross_entropy_gradient_is_the_derivative() -> None:
    check_vjp(
        lambda p: cross_entropy(p["logits"], LABELS)[0],
        lambda p: {"logits": cross_entropy(p["logits"], LABELS)[1]},
        {"logits": np.random.default_rng(6).standard_normal((6, 4))},
        np.random.default_rng(7),
    )


@pytest.mark.exact
def test_cross_entropy_is_shift_invariant_bitwise_on_dyadic_logits(floats: Space) -> None:
    results = [cross_entropy(floats.asarray(L), floats.asarray(LABELS, "int64")) for L in (LOGITS, LOGITS + 1024.25)]
    for a, b in zip(*results, strict=True):
        assert floats.to_numpy(a).tobytes() == floats.to_numpy(b).tobytes()


@pytest.mark.exact
def test_cross_entropy_of_extreme_logits_is_finite_and_exact(floats: Space) -> None:
    loss, grad = cross_entropy(floats.asarray([[1e4, -1e4], [-1e4, 1e4]]), floats.asarray([0, 0], "int64"))
    assert float(floats.to_numpy(loss)) == 2e4
    assert floats.to_numpy(grad).tolist() == [[0, 0], [-1, 1]]


@pytest.mark.exact
def test_cross_entropy_shifts_every_row_by_its_own_maximum(floats: Space) -> None:
    """One shift for all rows would leave the lower one exp(−10⁴) = 0, and log 0."""
    rows, labels = floats.asarray([[1e4, 1e4 - 1.0], [0.0, 1.0]], "float32"), floats.asarray([0, 1], "int64")
    loss, grad = (floats.to_numpy(part) for part in cross_entropy(rows, labels))
    low, low_grad = (floats.to_numpy(part) for part in cross_entropy(rows[1:, :], labels[1:]))
    assert 0 < low < 1
    assert loss == 2 * low
    assert np.array_equal(grad[1], low_grad[0])
    assert np.array_equal(grad[0], grad[1][::-1])


@pytest.mark.exact
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
def test_labels_may_have_any_integer_dtype(floats: Space, dtype: str) -> None:
    results = [cross_entropy(floats.asarray(LOGITS), floats.asarray(LABELS, kind)) for kind in (dtype, "int64")]
    for a, b in zip(*results, strict=True):
        assert floats.to_numpy(a).tobytes() == floats.to_numpy(b).tobytes()


@pytest.mark.exact
def test_squared_error_and_its_gradient_are_exact(xp: Space) -> None:
    loss, grad = squared_error(xp.asarray([[1.5], [-2.0], [0.0]]), xp.asarray([0.5, 1.0, 0.25]))
    assert xp.to_numpy(loss).ravel()[0] == Fraction(1) + 9 + Fraction(1, 16)
    assert xp.to_numpy(grad).tolist() == [[2], [-6], [-0.5]]


def test_a_class_that_is_ruled_out_costs_nothing(floats: Space) -> None:
    """A logit of −∞ is a class with probability 0: finite loss, gradient 0; and infinite where it was the label."""
    logits = floats.asarray([[0.0, -np.inf], [0.0, -np.inf]])
    loss, grad = cross_entropy(logits[:1, :], floats.asarray([0], "int64"))
    assert floats.to_numpy(loss).item() == 0
    assert floats.to_numpy(grad).tolist() == [[0, 0]]
    assert floats.to_numpy(cross_entropy(logits, floats.asarray([0, 1], "int64"))[0]).item() == np.inf


@pytest.mark.bounded("SORA-STEP-2")
def test_losses_are_sums_over_examples(floats: Space) -> None:
    twice = [floats.asarray(np.concatenate([LOGITS, LOGITS])), floats.asarray(np.tile(LABELS, 2), "int64")]
    once, one = cross_entropy(floats.asarray(LOGITS), floats.asarray(LABELS, "int64"))
    loss, grad = cross_entropy(*twice)
    total, half = float(floats.to_numpy(loss)), float(floats.to_numpy(once))
    assert abs(total - 2 * half) <= gamma(11 + 5 + 1, F64) * total  # sums of 12 and of 6 equal numbers; total's own
    assert floats.to_numpy(grad)[6:].tobytes() == floats.to_numpy(one).tobytes()


@pytest.mark.measured
@pytest.mark.parametrize("biased", [False, True])
def test_linear_cross_entropy_gradient_is_the_derivative(biased: bool) -> None:
    rng = np.random.default_rng(8)
    W, bias, labels = rng.standard_normal((5, 3)), rng.standard_normal(5), np.array([0, IGNORED, 4, 2, IGNORED, 2])

    def of(p: Mapping[str, Any]) -> tuple[Any, Any]:
        dtype = p["hidden"].dtype
        given = bias.astype(dtype) if biased else None
        return linear_cross_entropy(p["hidden"], W.astype(dtype), given, labels)[:2]

    hidden = {"hidden": rng.standard_normal((6, 3))}
    check_vjp(lambda p: of(p)[0], lambda p: {"hidden": of(p)[1]}, hidden, rng)


@pytest.mark.exact
def test_linear_cross_entropy_of_the_identity_is_the_cross_entropy(floats: Space) -> None:
    """A product with it, and a bias of zero, is exact."""
    one, zero, labels = floats.asarray(np.eye(4)), floats.asarray(np.zeros(4)), floats.asarray(LABELS, "int64")
    expected = [floats.to_numpy(part).tobytes() for part in cross_entropy(floats.asarray(LOGITS), labels)]
    for bias in (None, zero):
        *found, count = linear_cross_entropy(floats.asarray(LOGITS), one, bias, labels)
        assert [floats.to_numpy(part).tobytes() for part in found] == expected
        assert floats.to_numpy(count).item() == 6


@pytest.mark.exact
def test_bias_is_added_to_the_logits(floats: Space) -> None:
    one, labels, bias = floats.asarray(np.eye(4)), floats.asarray(LABELS, "int64"), np.arange(4) / 8
    expected = cross_entropy(floats.asarray(LOGITS + bias), labels)
    found = linear_cross_entropy(floats.asarray(LOGITS), one, floats.asarray(bias), labels)
    for a, b in zip(expected, found[:2], strict=True):
        assert floats.to_numpy(a).tobytes() == floats.to_numpy(b).tobytes()


@pytest.mark.exact
def test_a_place_without_a_label_costs_nothing_whatever_stands_there(floats: Space) -> None:
    one = floats.asarray(np.eye(4))
    expected = cross_entropy(floats.asarray(LOGITS[:2]), floats.asarray(LABELS[:2], "int64"))
    for other in (0.0, math.inf, math.nan):
        hidden = np.insert(LOGITS[:2], [1, 2, 2], other, axis=0)  # its places 1, 3 and 4
        labels = floats.asarray(np.insert(LABELS[:2], [1, 2, 2], IGNORED), "int64")
        with np.errstate(invalid="ignore"):
            loss, grad, count = map(floats.to_numpy, linear_cross_entropy(floats.asarray(hidden), one, None, labels))
        assert loss.tobytes() == floats.to_numpy(expected[0]).tobytes()
        assert grad[[0, 2]].tobytes() == floats.to_numpy(expected[1]).tobytes()
        assert not np.any(grad[[1, 3, 4]])
        assert count.item() == 2


@pytest.mark.exact
def test_no_label_at_all_is_no_loss(floats: Space) -> None:
    labels = floats.asarray([IGNORED] * 6, "int64")
    found = linear_cross_entropy(floats.asarray(LOGITS), floats.asarray(np.eye(4)), None, labels)
    loss, grad, count = map(floats.to_numpy, found)
    assert (loss.item(), count.item()) == (0.0, 0)
    assert not np.any(grad)
