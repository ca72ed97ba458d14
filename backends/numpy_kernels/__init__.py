"""Faster forms of operations on NumPy arrays, by the field of `ModelOps` they replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sora_ref.backends.numpy_kernels.attention import attention_backward, attention_forward, attention_value
from sora_ref.backends.numpy_kernels.gelu import gelu_forward, gelu_value
from sora_ref.backends.numpy_kernels.layer_norm import layer_norm_backward, layer_norm_forward
from sora_ref.backends.numpy_kernels.linear import fold

__all__ = ["FORWARD_KERNELS", "KERNELS", "fold"]

KERNELS: dict[str, Callable[..., Any]] = {
    "attention_backward": attention_backward,
    "attention_forward": attention_forward,
    "gelu_forward": gelu_forward,
    "layer_norm_backward": layer_norm_backward,
    "layer_norm_forward": layer_norm_forward,
}

# Instead of the above where no backward follows: they keep nothing for it.
FORWARD_KERNELS: dict[str, Callable[..., Any]] = {"attention_forward": attention_value, "gelu_forward": gelu_value}
