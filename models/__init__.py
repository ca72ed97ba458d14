"""Transformers written by hand, forward beside backward: worked examples of the specification on real weights."""

from sora_ref.models.bert import Batch, BertConfig, bert_backward, bert_forward, bert_states, linear_modules
from sora_ref.models.classifier import (
    Classifier,
    classifier_backward,
    classifier_forward,
    classifier_logits,
    classifier_shapes,
    cross_entropy,
    squared_error,
)
from sora_ref.models.dropout import Dropout
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.models.pretrained import load_bert, read_config

__all__ = [
    "MODEL_SPEC",
    "Batch",
    "BertConfig",
    "Classifier",
    "Dropout",
    "ModelOps",
    "bert_backward",
    "bert_forward",
    "bert_states",
    "classifier_backward",
    "classifier_forward",
    "classifier_logits",
    "classifier_shapes",
    "cross_entropy",
    "linear_modules",
    "load_bert",
    "read_config",
    "squared_error",
]
