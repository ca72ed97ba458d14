"""DistilBERT (Sanh et al., 2019), as transformers' DistilBertModel and DistilBertForSequenceClassification.

BERT's encoder under other names, without token types, and without dropout behind attention's output layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sora_ref.models.architecture import Architecture
from sora_ref.models.config_json import require_encoder, require_padding, require_values, sizes
from sora_ref.models.encoder import Encoder, EncoderConfig
from sora_ref.models.heads import Head

_SIZES = {  # keys of config.json -> what the encoder calls them
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
}
_ENCODER = Encoder(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    attention_norm="sa_layer_norm",
    output_norm="output_layer_norm",
    drop_attention_output=False,
)


def _read_config(raw: Mapping[str, Any], where: str) -> EncoderConfig:
    """The sizes; the norms' ε is 1e-12, which no key says.

    `sinusoidal_pos_embds` says how positions were drawn at first, and changes nothing in a checkpoint that has them.
    """
    require_values(raw, where, {"activation": "gelu"})
    require_encoder(raw, where)
    found = sizes(raw, where, _SIZES)
    require_padding(raw, where, found["vocab_size"])
    return EncoderConfig(**{own: found[key] for key, own in _SIZES.items()}, type_vocab_size=0, layer_norm_eps=1e-12)


DISTILBERT = Architecture(
    model_type="distilbert",
    title="DistilBERT",
    model_class="DistilBertModel",
    classifier_class="DistilBertForSequenceClassification",
    prefix="distilbert.",
    layers=_ENCODER.layers,
    kinds=_ENCODER.kinds,
    norm=_ENCODER.norm,
    heads={
        "cls": Head(pooling="first", dense="pre_classifier", activation="relu", out="classifier"),
        "mean": Head(pooling="mean", out="classifier", in_transformers=False),
    },
    tokenizer="wordpiece",
    old_names={},
    read_config=_read_config,
    shapes=_ENCODER.shapes,
    forward=_ENCODER.forward,
    states=_ENCODER.states,
    backward=_ENCODER.backward,
)
