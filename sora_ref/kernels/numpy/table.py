"""The set "numpy"."""

from __future__ import annotations

from sora_ref.kernels import Kernels
from sora_ref.kernels.numpy.attention import attention_backward, attention_forward, attention_value
from sora_ref.kernels.numpy.combine import combine_microbatches
from sora_ref.kernels.numpy.folded import fold
from sora_ref.kernels.numpy.gelu import gelu_forward, gelu_value
from sora_ref.kernels.numpy.layer_norm import layer_norm_backward, layer_norm_forward

KERNELS = Kernels(
    name="numpy",
    training={
        "attention_backward": attention_backward,
        "attention_forward": attention_forward,
        "combine_microbatches": combine_microbatches,
        "gelu_forward": gelu_forward,
        "layer_norm_backward": layer_norm_backward,
        "layer_norm_forward": layer_norm_forward,
    },
    evaluation={"attention_forward": attention_value, "gelu_forward": gelu_value},
    fold=fold,
)
