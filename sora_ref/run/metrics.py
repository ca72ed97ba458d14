"""GLUE's metrics, and one function that evaluates several of them.

Classification metrics take class indices (n,), regression metrics real numbers (n,). A label of -1 is none of the
classes, so every prediction for it is wrong. The computation is scikit-learn's
and SciPy's, imported when first used; what this file decides is only what those leave open:

* Matthews is 0 where predictions or labels are constant (an empty margin of the confusion matrix), as in
  scikit-learn, without its warning;
* F1 is that of class 1, and 0 where class 1 is neither predicted nor present;
* a correlation with a constant, or with a value that is not finite, is undefined and is `nan`, without a warning.
  Who selects a model by it must treat `nan` as worse than any number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sora_ref.errors import SoRAError, shown
from sora_ref.run.data.labels import UNKNOWN

Values = NDArray[np.int64] | NDArray[np.float64]


def accuracy(predictions: Values, labels: Values) -> float:
    """Share of predictions that equal the label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(predictions: Values, labels: Values) -> float:
    """Harmonic mean of precision and recall of class 1 of two: 2·tp / (2·tp + fp + fn).

    Where the label is none of the classes, a prediction of class 1 is one fp, and another one fn.  Raises `SoRAError`
    for another class than 0 and 1.
    """
    from sklearn.metrics import f1_score

    others = np.setdiff1d(np.concatenate([predictions, labels[labels != UNKNOWN]]), [0, 1])
    if others.size:
        raise SoRAError(f"f1 met class {others[0]}: expected the two classes 0 and 1")
    predicted = predictions == 1
    return float(f1_score(np.where(labels == UNKNOWN, ~predicted, labels == 1), predicted, zero_division=0))


def matthews(predictions: Values, labels: Values) -> float:
    """Matthews correlation, (tp·tn − fp·fn) / √((tp+fp)(tp+fn)(tn+fp)(tn+fn)), and its form for several classes."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions)) if _varies(predictions) and _varies(labels) else 0.0


def pearson(predictions: Values, labels: Values) -> float:
    """Linear correlation, cov(x, y) / (σ_x σ_y); `nan` where undefined."""
    from scipy.stats import pearsonr

    return float(pearsonr(predictions, labels).statistic) if _correlates(predictions, labels) else float("nan")


def spearman(predictions: Values, labels: Values) -> float:
    """Pearson's correlation of the ranks, ties given their mean rank; `nan` where undefined."""
    from scipy.stats import spearmanr

    return float(spearmanr(predictions, labels).statistic) if _correlates(predictions, labels) else float("nan")


def _correlates(predictions: Values, labels: Values) -> bool:
    return all(bool(np.isfinite(values).all()) and _varies(values) for values in (predictions, labels))


def _varies(values: Values) -> bool:
    return bool(np.ptp(values) > 0)


METRICS: Mapping[str, Callable[[Values, Values], float]] = MappingProxyType(
    {"accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson, "spearman": spearman}
)


def evaluate(metrics: Sequence[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Value of each named metric, in the order of `metrics`; predictions and labels have shape (n,), n ≥ 1.

    Raises `SoRAError` for an unknown metric, shapes other than two equal (n,), and n = 0.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise SoRAError(f"unknown metric {shown(unknown[0])}: expected one of {', '.join(METRICS)}")
    predicted, expected = np.asarray(predictions), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != expected.shape or predicted.size == 0:
        raise SoRAError(
            f"metrics got predictions of shape {predicted.shape} and labels of shape {expected.shape}: "
            f"expected two of one shape (n,) with n at least 1"
        )
    return {name: METRICS[name](predicted, expected) for name in metrics}
