"""Transformers written by hand, forward beside backward: worked examples of the specification on real weights."""

from sora_ref.models.architecture import Architecture, Batch, ModelConfig
from sora_ref.models.architectures import ARCHITECTURES, KINDS, OUTPUT_LAYERS, listed_titles
from sora_ref.models.classifier import (
    Classifier,
    classifier_backward,
    classifier_forward,
    classifier_logits,
)
from sora_ref.models.dropout import Dropout
from sora_ref.models.heads import Head, HeadName
from sora_ref.models.losses import cross_entropy, linear_cross_entropy, squared_error
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.models.pretrained import Pretrained, load_model, read_config

__all__ = [
    "ARCHITECTURES",
    "KINDS",
    "MODEL_SPEC",
    "OUTPUT_LAYERS",
    "Architecture",
    "Batch",
    "Classifier",
    "Dropout",
    "Head",
    "HeadName",
    "ModelConfig",
    "ModelOps",
    "Pretrained",
    "classifier_backward",
    "classifier_forward",
    "classifier_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "listed_titles",
    "load_model",
    "read_config",
    "squared_error",
]
