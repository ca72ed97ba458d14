"""The metrics against values worked out by hand, chosen so that floating point is exact or its error is bounded."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.run.metrics import METRICS, evaluate

UNIT = Fraction(1, 2**53)

# 3 true and 1 false of each class: tp = tn = 3, fp = fn = 1
LABELS = [1, 1, 1, 1, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", Fraction(6, 8)),
        ("f1", Fraction(2 * 3, 2 * 3 + 1 + 1)),
        ("matthews", Fraction(3 * 3 - 1 * 1, 4 * 4)),
    ],
)
def test_classification_metric_equals_its_formula_on_a_hand_counted_table(metric: str, value: Fraction) -> None:
    assert Fraction(METRICS[metric](np.array(PREDICTIONS), np.array(LABELS))) == value


def test_f1_counts_class_one_only_and_matthews_counts_both() -> None:
    predictions, labels = np.array([1, 1, 1, 0]), np.array([1, 1, 1, 1])
    assert Fraction(METRICS["f1"](predictions, labels)) == Fraction(6 / 7)
    assert METRICS["f1"](1 - predictions, 1 - labels) == 0.0
    assert METRICS["f1"](np.zeros(4, int), np.zeros(4, int)) == 0.0


@pytest.mark.parametrize("prediction", [0, 1])
def test_label_that_is_none_of_the_classes_makes_every_metric_worse_whatever_is_predicted(prediction: int) -> None:
    """It is one error more: 2·3/(2·3 + 2 + 1) of the table above."""
    predictions, labels = np.array([*PREDICTIONS, prediction]), np.array([*LABELS, -1])
    assert Fraction(METRICS["f1"](predictions, labels)) == Fraction(6 / 9)
    for metric in ("accuracy", "f1", "matthews"):
        assert METRICS[metric](predictions, labels) < METRICS[metric](predictions[:-1], labels[:-1])


def test_accuracy_is_defined_for_more_than_two_classes() -> None:
    assert evaluate(["accuracy"], [2, 0, 1, 1], [2, 0, 2, 1]) == {"accuracy": 0.75}


def test_matthews_is_one_for_equality_minus_one_for_inversion_and_zero_for_constants() -> None:
    labels = np.array(LABELS)
    assert METRICS["matthews"](labels, labels) == 1.0
    assert METRICS["matthews"](1 - labels, labels) == -1.0
    assert METRICS["matthews"](np.ones(8, int), labels) == 0.0
    assert METRICS["matthews"](np.ones(8, int), np.ones(8, int)) == 0.0


def test_pearson_of_balanced_signs_is_exactly_their_mean_product() -> None:
    # deviations are ±1 and norms 4, so that every intermediate value is a dyadic rational
    labels = np.array([1.0] * 8 + [-1.0] * 8)
    predictions = np.array([1.0] * 6 + [-1.0] * 2 + [1.0] * 2 + [-1.0] * 6)
    assert Fraction(METRICS["pearson"](predictions, labels)) == Fraction(12 - 4, 16)
    assert Fraction(METRICS["pearson"](-predictions, labels)) == -Fraction(12 - 4, 16)
    assert Fraction(METRICS["pearson"](3 * predictions + 5, labels)) == Fraction(12 - 4, 16)


def test_spearman_is_one_minus_the_rank_difference_formula_within_its_rounding_bound() -> None:
    # ranks (1, 3, 2, 4) against (1, 2, 3, 4): 1 − 6·Σd²/(n(n²−1)) = 1 − 12/60; the values grow faster than linearly.
    # Rank sums are exact; 1/(n−1) and its product round each covariance twice, each standard deviation once more,
    # and two divisions follow: (1+δ)^8 in all.
    value = Fraction(METRICS["spearman"](np.array([1.0, 100.0, 7.0, 1e6]), np.array([-3.0, 0.0, 2.0, 11.0])))
    exact = Fraction(4, 5)
    assert abs(value - exact) <= exact * 8 * UNIT / (1 - 8 * UNIT)


def test_spearman_gives_ties_their_mean_rank() -> None:
    # ranks (1.5, 1.5, 3.5, 3.5) against (1, 2, 3, 4): 4 / √(4·5); squared 4/5 with twice the roundings
    value = Fraction(METRICS["spearman"](np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])))
    exact = Fraction(4, 5)
    assert abs(value**2 - exact) <= exact * 16 * UNIT / (1 - 16 * UNIT)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("odd", [[1.0, 1.0, 1.0], [1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [5.0]])
def test_correlation_is_nan_without_a_warning_where_it_is_undefined(metric: str, odd: list[float]) -> None:
    other = [1.0, 2.0, 3.0][: len(odd)]
    assert np.isnan(evaluate([metric], odd, other)[metric])
    assert np.isnan(evaluate([metric], other, odd)[metric])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_accuracy_of_a_prediction_and_its_inversion_sum_to_one(pairs: list[tuple[int, int]]) -> None:
    predictions, labels = (np.array(column) for column in zip(*pairs, strict=True))
    n = len(pairs)
    right = evaluate(["accuracy"], predictions, labels)["accuracy"]
    wrong = evaluate(["accuracy"], 1 - predictions, labels)["accuracy"]
    assert round(right * n) + round(wrong * n) == n


def test_evaluate_keeps_the_order_of_the_names() -> None:
    assert list(evaluate(["f1", "accuracy"], PREDICTIONS, LABELS)) == ["f1", "accuracy"]


def test_evaluate_refuses_unknown_metrics_unequal_shapes_nothing_and_third_classes() -> None:
    with pytest.raises(SoRAError, match="unknown metric 'bleu': expected one of accuracy, f1"):
        evaluate(["bleu"], [1], [1])
    with pytest.raises(SoRAError, match=r"shape \(2,\) and labels of shape \(3,\)"):
        evaluate(["accuracy"], [1, 1], [1, 1, 1])
    with pytest.raises(SoRAError, match="n at least 1"):
        evaluate(["accuracy"], [], [])
    with pytest.raises(SoRAError, match="f1 met class 2: expected the two classes 0 and 1"):
        evaluate(["f1"], [2], [1])
