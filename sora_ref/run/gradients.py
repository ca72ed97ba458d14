"""The loss of an optimiser batch and its gradients, by microbatches that may be shared out among threads."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.models import Dropout, classifier_backward, classifier_forward, squared_error
from sora_ref.preconditions import require
from sora_ref.run.setup import Params, Setup
from sora_ref.run.text import Encoded, microbatches, pad
from sora_ref.run.workers import ParallelMap

FP16_SCALE = 1024


def loss_and_gradients(
    setup: Setup, data: Encoded, trained: Params, rows: np.ndarray, step: int, parallel_map: ParallelMap
) -> tuple[Array, dict[str, Any]]:
    """Mean loss and mean gradients over the optimiser batch `rows` of `data` (SORA-STEP-1, 2).

    trained: the parameters that gradients are wanted of.  step: counted from 1, for the masks of dropout.
    The loss is a 0-d float64 array on the device, and may be no finite number.  Gradients are scaled by a power of two
    on their way where the precision is fp16, whose smallest normal number is 6e-5.
    """
    config, backend = setup.config, setup.backend
    params, labels = setup.all_params(trained), expected_labels(data, setup)
    ops = setup.ops if config.adapter.dropout else setup.folded(trained, parallel_map, training=True)
    loss_of = ops.cross_entropy if setup.labels.kind == "classification" else squared_error
    scale = FP16_SCALE if config.precision == "fp16" else 1

    @np.errstate(over="ignore", invalid="ignore")  # a loss that is no number is said where it is read
    def one(part: np.ndarray) -> tuple[Array, dict[str, Any]]:
        dropout = Dropout(
            seed=config.seed,
            step=step,
            hidden=config.train.hidden_dropout,
            attention=config.train.attention_dropout,
            adapter=config.adapter.dropout,
            examples=part.tolist(),
            lengths=data.lengths[part].tolist(),
            from_host=backend.from_host,
        )
        batch = pad(data, part, backend)
        logits, cache = classifier_forward(setup.model, params, batch, scales=setup.scales, ops=ops, dropout=dropout)
        loss, dlogits = loss_of(logits, backend.from_host(labels[part]))
        dlogits = dlogits if scale == 1 else dlogits * scale
        xp = array_namespace(loss)
        return xp.astype(loss, xp.float64), classifier_backward(dlogits, cache, trained.keys())

    parts = microbatches(data.lengths, rows, setup.work.training_tokens, shared=setup.work.shared)
    losses, grads = zip(*parallel_map(one, parts), strict=True)
    return reduce(add, losses) / len(rows), setup.ops.combine_microbatches(list(grads), len(rows) * scale)


def expected_labels(data: Encoded, setup: Setup | None = None) -> np.ndarray:
    """The labels; for regression in the dtype of the setup, where one is given."""
    require(data.labels is not None, "an example has no label: expected labels on every example of the split")
    labels = np.asarray(data.labels)
    return labels.astype(setup.config.dtype) if setup is not None and labels.dtype.kind == "f" else labels
