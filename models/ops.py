"""The specification's operations together with the layers and losses of the models, each with its signature."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, Self, Unpack

from sora_ref.backends import Array
from sora_ref.models import layers, losses
from sora_ref.ops import Cache, Operations, Ops


class EmbeddingBackward(Protocol):
    """As `layers.embedding_backward`: the gradient of one table."""

    def __call__(self, dy: Array, cache: Cache) -> Array:
        """See the class."""


class LayerNormForward(Protocol):
    """As `layers.layer_norm_forward`: y and the cache."""

    def __call__(
        self, x: Array, weight: Array, bias: Array, eps: float, residual: Array | None = None
    ) -> tuple[Array, Cache]:
        """See the class."""


class LayerNormBackward(Protocol):
    """As `layers.layer_norm_backward`: (dx, dweight, dbias), the last two None unless `parameters`.

    dx is a new array, which the caller may write into.
    """

    def __call__(self, dy: Array, cache: Cache, *, parameters: bool = True) -> tuple[Array, Array | None, Array | None]:
        """See the class."""


class RMSNormForward(Protocol):
    """As `layers.rms_norm_forward`: y and the cache."""

    def __call__(self, x: Array, weight: Array, eps: float) -> tuple[Array, Cache]:
        """See the class."""


class RMSNormBackward(Protocol):
    """As `layers.rms_norm_backward`: (dx, dweight), the last None unless `parameters`."""

    def __call__(self, dy: Array, cache: Cache, *, parameters: bool = True) -> tuple[Array, Array | None]:
        """See the class."""


class ActivationForward(Protocol):
    """As `layers.gelu_forward` or `layers.silu_forward`: y, element by element, and the cache."""

    def __call__(self, x: Array) -> tuple[Array, Cache]:
        """See the class."""


class ActivationBackward(Protocol):
    """As `layers.gelu_backward` or `layers.silu_backward`: dx, from the derivative that the forward kept."""

    def __call__(self, dy: Array, derivative: Cache) -> Array:
        """See the class."""


class AttentionForward(Protocol):
    """As `layers.attention_forward`: the context and the cache."""

    def __call__(
        self, q: Array, k: Array, v: Array, heads: int, bias: Array, keep: Array | None = None, p: float = 0.0
    ) -> tuple[Array, Cache]:
        """See the class."""


class AttentionBackward(Protocol):
    """As `layers.attention_backward`: (dq, dk, dv)."""

    def __call__(self, dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
        """See the class."""


class CrossEntropy(Protocol):
    """As `losses.cross_entropy`: the loss and its gradient."""

    def __call__(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """See the class."""


class LinearCrossEntropy(Protocol):
    """As `losses.linear_cross_entropy`: the loss, its gradient by hidden, and how many places have a label."""

    def __call__(self, hidden: Array, W: Array, bias: Array | None, labels: Array) -> tuple[Array, Array, Array]:
        """See the class."""


class ModelOperations(Operations, total=False):
    """Some of the operations of `ModelOps`, by name."""

    embedding_backward: EmbeddingBackward
    layer_norm_forward: LayerNormForward
    layer_norm_backward: LayerNormBackward
    rms_norm_forward: RMSNormForward
    rms_norm_backward: RMSNormBackward
    gelu_forward: ActivationForward
    gelu_backward: ActivationBackward
    silu_forward: ActivationForward
    silu_backward: ActivationBackward
    attention_forward: AttentionForward
    attention_backward: AttentionBackward
    cross_entropy: CrossEntropy
    linear_cross_entropy: LinearCrossEntropy


@dataclass(frozen=True)
class ModelOps(Ops):
    """`Ops` with the layers of `models.layers` and the losses of `models.losses`."""

    embedding_backward: EmbeddingBackward = layers.embedding_backward
    layer_norm_forward: LayerNormForward = layers.layer_norm_forward
    layer_norm_backward: LayerNormBackward = layers.layer_norm_backward
    rms_norm_forward: RMSNormForward = layers.rms_norm_forward
    rms_norm_backward: RMSNormBackward = layers.rms_norm_backward
    gelu_forward: ActivationForward = layers.gelu_forward
    gelu_backward: ActivationBackward = layers.gelu_backward
    silu_forward: ActivationForward = layers.silu_forward
    silu_backward: ActivationBackward = layers.silu_backward
    attention_forward: AttentionForward = layers.attention_forward
    attention_backward: AttentionBackward = layers.attention_backward
    cross_entropy: CrossEntropy = losses.cross_entropy
    linear_cross_entropy: LinearCrossEntropy = losses.linear_cross_entropy

    def replace(self, **operations: Unpack[ModelOperations]) -> Self:
        """These operations with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **operations)


MODEL_SPEC = ModelOps()
