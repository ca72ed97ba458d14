"""Predictions for new texts, in chunks, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from sora_ref.models.layers import softmax
from sora_ref.run.data import Example
from sora_ref.run.evaluate import predict_logits, predictions
from sora_ref.run.text import encode
from sora_ref.run.trained import Loaded

_ROWS, _LOGITS = 4096, 2**21  # of a chunk, at most


def predict_stream(loaded: Loaded, examples: Iterable[Example]) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Yield every example with its record: its id and prediction; for classes the probability and every class's.

    Raises SoRAError where logits are not finite, see `predict_logits`, once the records before that chunk are out.
    """
    rows = max(1, min(_ROWS, _LOGITS // loaded.setup.model.outputs))
    left = iter(examples)
    while chunk := tuple(islice(left, rows)):
        yield from zip(chunk, _records(loaded, chunk), strict=True)


def predict_records(loaded: Loaded, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The records of `predict_stream`."""
    return [record for _, record in predict_stream(loaded, examples)]


def _records(loaded: Loaded, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    setup = loaded.setup
    logits = predict_logits(setup, loaded.params, encode(examples, setup.tokenizer, setup.model.config))
    chosen = predictions(setup.labels, logits).tolist()
    if setup.labels.kind == "regression":
        for example, value in zip(examples, chosen, strict=True):
            yield {"id": example.id, "prediction": value}
        return
    names = setup.labels.names
    for example, index, row in zip(examples, chosen, softmax(logits.astype(np.float64)), strict=True):
        yield {
            "id": example.id,
            "prediction": names[index],
            "probability": float(row[index]),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
