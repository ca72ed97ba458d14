"""Logits of a whole data set, and their score."""

from __future__ import annotations

import numpy as np

from sora_ref.errors import SoRAError, printable
from sora_ref.models import classifier_logits
from sora_ref.run.data import Labels, Task
from sora_ref.run.metrics import evaluate
from sora_ref.run.setup import Params, Setup
from sora_ref.run.text import Encoded, encode, microbatches, pad
from sora_ref.run.workers import worker_pool


def predict_logits(setup: Setup, trained: Params, encoded: Encoded) -> np.ndarray:
    """Logits (n, outputs) on the host, in the order of the examples; no dropout.

    Raises SoRAError, naming the first such row, where logits are not finite: they name no class, and score nothing.
    """
    params = setup.all_params(trained)
    logits = np.empty((len(encoded.ids), setup.model.outputs), setup.config.dtype)

    @np.errstate(over="ignore", invalid="ignore")  # what is no number is refused below
    def evaluate_rows(rows: np.ndarray) -> None:
        batch = pad(encoded, rows, setup.backend)
        out = classifier_logits(setup.model, params, batch, scales=setup.scales, ops=ops)
        logits[rows] = setup.backend.to_host(out)

    work, rows = setup.work, np.arange(len(encoded.ids))
    parts = microbatches(encoded.lengths, rows, work.evaluation_tokens, shared=work.shared)
    with worker_pool(work.workers) as parallel_map:
        ops = setup.folded(trained, parallel_map, training=False)
        for _ in parallel_map(evaluate_rows, parts):
            pass
    sound = np.isfinite(logits).all(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        name = printable(encoded.names[row]) if encoded.names else str(row)
        raise SoRAError(
            f"row {name}: its logits are not finite: expected numbers, which a model with smaller parameters "
            "(a lower train.lr) gives, or --dtype float64"
        )
    return logits


def predictions(labels: Labels, logits: np.ndarray) -> np.ndarray:
    """Class indices (n,), or values (n,) for regression; ties go to the first class."""
    return logits[:, 0] if labels.kind == "regression" else np.argmax(logits, axis=1)


def score(labels: Labels, logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """The task's metrics of these logits."""
    return evaluate(labels.metrics, predictions(labels, logits), expected)


def score_task(setup: Setup, trained: Params, task: Task) -> dict[str, dict[str, float]]:
    """The metrics of every split of a task whose examples all have labels."""
    found = {}
    for name, examples in task.splits.items():
        part = encode(examples, setup.tokenizer, setup.model.config)
        if part.labels is not None:
            found[name] = score(setup.labels, predict_logits(setup, trained, part), part.labels)
    return found
