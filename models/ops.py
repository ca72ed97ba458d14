"""The specification's operations together with the models'; what a backend's kernels may replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sora_ref.models import layers
from sora_ref.ops import Ops


@dataclass(frozen=True)
class ModelOps(Ops):
    """`Ops` with the layers of `models.layers`."""

    layer_norm_forward: Callable[..., Any] = layers.layer_norm_forward
    layer_norm_backward: Callable[..., Any] = layers.layer_norm_backward
    gelu_forward: Callable[..., Any] = layers.gelu_forward
    gelu_backward: Callable[..., Any] = layers.gelu_backward
    attention_forward: Callable[..., Any] = layers.attention_forward
    attention_backward: Callable[..., Any] = layers.attention_backward


MODEL_SPEC = ModelOps()
