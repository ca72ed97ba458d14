"""BERT (Devlin et al., 2019), as transformers' BertModel and BertForSequenceClassification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sora_ref.models.architecture import Architecture
from sora_ref.models.config_json import epsilon, require_encoder, require_padding, require_values, sizes
from sora_ref.models.encoder import Encoder, EncoderConfig
from sora_ref.models.heads import Head

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
ENCODER = Encoder(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    intermediate="intermediate.dense",
    output="output.dense",
    attention_norm="attention.output.LayerNorm",
    output_norm="output.LayerNorm",
)


def _read_config(raw: Mapping[str, Any], where: str) -> EncoderConfig:
    require_values(raw, where, {"hidden_act": "gelu", "position_embedding_type": "absolute"})
    require_encoder(raw, where)
    found = sizes(raw, where, SIZES)
    require_padding(raw, where, found["vocab_size"])
    return EncoderConfig(**found, layer_norm_eps=epsilon(raw, where, "layer_norm_eps", 1e-12))


BERT = Architecture(
    model_type="bert",
    title="BERT",
    model_class="BertModel",
    classifier_class="BertForSequenceClassification",
    prefix="bert.",
    layers=ENCODER.layers,
    kinds=ENCODER.kinds,
    norm=ENCODER.norm,
    heads={
        "cls": Head(pooling="first", dense="pooler.dense", activation="tanh", dense_is_models=True, out="classifier"),
        "mean": Head(pooling="mean", out="classifier", in_transformers=False),
    },
    tokenizer="wordpiece",
    old_names={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},  # TensorFlow's names
    read_config=_read_config,
    shapes=ENCODER.shapes,
    forward=ENCODER.forward,
    states=ENCODER.states,
    backward=ENCODER.backward,
)
