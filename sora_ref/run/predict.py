"""Predictions for new texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sora_ref.models.layers import softmax
from sora_ref.run.data import Example
from sora_ref.run.evaluate import predict_logits, predictions
from sora_ref.run.text import encode
from sora_ref.run.trained import Loaded


def predict_records(loaded: Loaded, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """One record an example: its id and prediction; for classes also the probability and every class's."""
    setup = loaded.setup
    logits = predict_logits(setup, loaded.params, encode(examples, setup.tokenizer, setup.model.bert))
    chosen = predictions(setup.labels, logits)
    if setup.labels.kind == "regression":
        return [{"id": e.id, "prediction": float(value)} for e, value in zip(examples, chosen, strict=True)]
    probabilities = softmax(logits.astype(np.float64))
    return [
        {
            "id": example.id,
            "prediction": setup.labels.names[index],
            "probability": float(row[index]),
            "probabilities": dict(zip(setup.labels.names, row.tolist(), strict=True)),
        }
        for example, index, row in zip(examples, chosen.tolist(), probabilities, strict=True)
    ]
