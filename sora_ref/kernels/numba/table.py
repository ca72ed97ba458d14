"""The set "numba": NumPy's forms, some of them replaced by compiled ones."""

from __future__ import annotations

import numba

from sora_ref.kernels import Kernels
from sora_ref.kernels.numba.attention import attention_backward, attention_forward, attention_value
from sora_ref.kernels.numba.clip import clip_by_global_norm
from sora_ref.kernels.numba.compiled import compiling, processor
from sora_ref.kernels.numba.embedding import embedding_backward
from sora_ref.kernels.numba.folded import fold
from sora_ref.kernels.numba.gelu import gelu_forward, gelu_value
from sora_ref.kernels.numba.layer_norm import layer_norm_backward, layer_norm_forward, layer_norm_value
from sora_ref.kernels.numba.losses import cross_entropy, linear_cross_entropy
from sora_ref.kernels.numba.rms_norm import rms_norm_backward, rms_norm_forward, rms_norm_value
from sora_ref.kernels.numba.silu import silu_forward, silu_value
from sora_ref.kernels.numba.update import update_parameters
from sora_ref.kernels.numpy.table import KERNELS as NUMPY

if numba.config.DISABLE_JIT:  # what is inlined into the loops exists as machine code alone
    raise ImportError("NUMBA_DISABLE_JIT is set: expected that Numba may compile")

KERNELS = Kernels(
    name="numba",
    libraries=("numba", "llvmlite"),
    training={
        **NUMPY.training,
        "attention_backward": attention_backward,
        "attention_forward": attention_forward,
        "clip_by_global_norm": clip_by_global_norm,
        "cross_entropy": cross_entropy,
        "embedding_backward": embedding_backward,
        "gelu_forward": gelu_forward,
        "layer_norm_backward": layer_norm_backward,
        "layer_norm_forward": layer_norm_forward,
        "linear_cross_entropy": linear_cross_entropy,
        "rms_norm_backward": rms_norm_backward,
        "rms_norm_forward": rms_norm_forward,
        "silu_forward": silu_forward,
        "update_parameters": update_parameters,
    },
    evaluation={
        **NUMPY.evaluation,
        "attention_forward": attention_value,
        "gelu_forward": gelu_value,
        "layer_norm_forward": layer_norm_value,
        "rms_norm_forward": rms_norm_value,
        "silu_forward": silu_value,
    },
    fold=fold,
    processor=processor,
    compiling=compiling,
)
