"""A model of the table with a head, for classification or regression."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sora_ref.backends import Array
from sora_ref.models.architecture import Architecture, Batch, ModelConfig, Params, Shapes
from sora_ref.models.dropout import Dropout
from sora_ref.models.heads import Head, HeadCache, HeadName, head_backward, head_forward
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Classifier:
    """A model with a head of so many outputs (classes, or 1 for regression)."""

    architecture: Architecture
    config: ModelConfig
    head: HeadName
    outputs: int

    def __post_init__(self) -> None:
        offered = self.architecture.heads
        expected = " or ".join(map(repr, offered))
        require(self.head in offered, f"head is {self.head!r}: expected {expected}")
        require(self.outputs >= 1, f"{self.outputs} outputs: expected at least 1")

    @property
    def head_record(self) -> Head:
        """What the head is."""
        return self.architecture.heads[self.head]

    @property
    def head_shapes(self) -> Shapes:
        """The shape of every parameter of the head, by name."""
        return self.head_record.shapes(self.config.hidden_size, self.outputs)

    @property
    def shapes(self) -> Shapes:
        """The shape of every parameter but the adapters', by name."""
        return self.architecture.shapes(self.config) | self.head_shapes


class ClassifierCache(NamedTuple):
    """What classifier_backward needs of the forward; model is the architecture's own."""

    architecture: Architecture
    model: Any
    head: HeadCache


def classifier_forward(
    model: Classifier,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
    dropout: Dropout | None = None,
) -> tuple[Array, ClassifierCache]:
    """Logits (b, outputs) and the backward's cache.  A sequence without a token has mean 0."""
    forward = model.architecture.forward
    hidden, cache = forward(model.config, params, batch, scales=scales, ops=ops, dropout=dropout)
    logits, head = head_forward(model.head_record, params, hidden, batch.mask, ops, dropout)
    return logits, ClassifierCache(model.architecture, cache, head)


def classifier_logits(
    model: Classifier,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
) -> Array:
    """The logits alone, of an evaluation; see `architecture.States`."""
    hidden = model.architecture.states(model.config, params, batch, scales=scales, ops=ops)
    return head_forward(model.head_record, params, hidden, batch.mask, ops, None)[0]


def classifier_backward(dlogits: Array, cache: ClassifierCache, wanted: Collection[str]) -> dict[str, Array]:
    """Gradients of ⟨dlogits, logits⟩ for the parameters named in `wanted`; dlogits (b, outputs)."""
    below = [name for name in wanted if name not in cache.head.head.names]
    grads, dhidden = head_backward(dlogits, cache.head, wanted, below=len(below) > 0)
    return grads if dhidden is None else grads | cache.architecture.backward(dhidden, cache.model, below)
