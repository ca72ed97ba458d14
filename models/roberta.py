"""RoBERTa (Liu et al., 2019), as transformers' RobertaModel and RobertaForSequenceClassification.

BERT's encoder with positions that are counted behind the padding token's id, and a head of two layers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.errors import shown
from sora_ref.models import bert
from sora_ref.models.architecture import Architecture, Batch
from sora_ref.models.config_json import epsilon, require_encoder, require_values, sizes
from sora_ref.models.encoder import EncoderConfig
from sora_ref.models.heads import Head
from sora_ref.preconditions import require


@dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """The sizes of a RoBERTa; pad_token_id: the padding token's id, behind which positions are counted."""

    pad_token_id: int = 1

    @property
    def longest(self) -> int:
        """Tokens that a sequence may have: its positions begin at pad_token_id + 1."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def token_types(self) -> int:
        """None are read from a tokeniser: every token is of type 0."""
        return 0


def _positions(config: RobertaConfig, batch: Batch) -> Array:
    """(b, t): pad_token_id + (tokens up to here, this one included); padding itself stands at pad_token_id.

    Padding is whatever the mask hides, and a padding token that a text names.
    """
    xp = array_namespace(batch.ids)
    counted = xp.astype(batch.mask & (batch.ids != config.pad_token_id), batch.ids.dtype)
    return xp.cumulative_sum(counted, axis=1) * counted + config.pad_token_id


_ENCODER = replace(bert.ENCODER, positions=_positions)


def _read_config(raw: Mapping[str, Any], where: str) -> RobertaConfig:
    require_values(raw, where, {"hidden_act": "gelu", "position_embedding_type": "absolute"})
    require_encoder(raw, where)
    found, pad = sizes(raw, where, bert.SIZES), raw.get("pad_token_id", 1)
    most = min(found["max_position_embeddings"] - 2, found["vocab_size"] - 1)
    sound = type(pad) is int and 0 <= pad <= most
    require(
        sound, f"{where}: pad_token_id is {shown(pad)}: expected an int from 0 to {most}, behind which positions are"
    )
    return RobertaConfig(**found, layer_norm_eps=epsilon(raw, where, "layer_norm_eps", 1e-12), pad_token_id=pad)


ROBERTA = Architecture(
    model_type="roberta",
    title="RoBERTa",
    model_class="RobertaModel",
    classifier_class="RobertaForSequenceClassification",
    prefix="roberta.",
    layers=_ENCODER.layers,
    kinds=_ENCODER.kinds,
    norm=_ENCODER.norm,
    heads={
        "cls": Head(
            pooling="first", drop_dense=True, dense="classifier.dense", activation="tanh", out="classifier.out_proj"
        ),
        "mean": Head(pooling="mean", out="classifier", in_transformers=False),
    },
    tokenizer="byte-level-bpe",
    old_names=bert.BERT.old_names,
    read_config=_read_config,
    shapes=_ENCODER.shapes,
    forward=_ENCODER.forward,
    states=_ENCODER.states,
    backward=_ENCODER.backward,
)
