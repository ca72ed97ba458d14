"""RoBERTa: positions that are counted behind the padding token's id, and a configuration that says which that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from strategies import Space
from tiny_bert import make_case

from sora_ref import SoRAError
from sora_ref.models import ARCHITECTURES, MODEL_SPEC, Batch
from sora_ref.models.roberta import RobertaConfig

ROBERTA, CONFIG = ARCHITECTURES["roberta"], RobertaConfig(13, 8, 2, 2, 12, 11, 1, layer_norm_eps=1e-5)
RAW = {
    "vocab_size": 13,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 11,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
POSITIONS = "embeddings.position_embeddings.weight"


def positions_of(ids: Any, mask: Any, space: Any = np.array, host: Any = np.asarray, config: Any = CONFIG) -> Any:
    """The rows that are added, told by their values: all else that the first norm is given is zero."""
    case, given = make_case(0, architecture=ROBERTA, config=config), []

    def norm(x: Any, weight: Any, bias: Any, eps: float, residual: Any = None) -> Any:
        given.append(x)
        return MODEL_SPEC.layer_norm_forward(x, weight, bias, eps, residual)

    params = {
        name: space(np.zeros_like(p) if "embeddings" in name else p, "float64") for name, p in case.params.items()
    }
    rows = np.arange(config.max_position_embeddings)[:, None] * np.ones((1, config.hidden_size))
    params[POSITIONS] = space(rows, "float64")
    batch = Batch(space(np.array(ids), "int64"), space(np.zeros_like(ids), "int64"), space(np.array(mask), "bool"))
    ROBERTA.states(config, params, batch, scales=case.scales, ops=MODEL_SPEC.replace(layer_norm_forward=norm))
    return host(given[0])[:, :, 0].tolist()


def test_positions_count_tokens_behind_the_padding_tokens_id(floats: Space) -> None:
    """A padding token that a text names is not counted and stands where padding does, as in transformers."""
    ids = [[0, 5, 1, 6, 2], [0, 7, 2, 1, 1], [0, 7, 2, 9, 9]]
    mask = [[True] * 5, [True] * 3 + [False] * 2, [True] * 3 + [False] * 2]
    expected = [[2, 3, 1, 4, 5], [2, 3, 4, 1, 1], [2, 3, 4, 1, 1]]
    assert positions_of(ids, mask, floats.asarray, floats.to_numpy) == expected
    other = replace(CONFIG, pad_token_id=3)
    assert positions_of([[0, 5, 3, 6]], [[True] * 4], config=other) == [[4, 5, 3, 6]]


def test_usable_positions_are_those_behind_the_padding_tokens() -> None:
    assert replace(CONFIG, max_position_embeddings=514).longest == 512
    assert (CONFIG.longest, CONFIG.token_types) == (9, 0)


def test_the_configuration_is_read_with_transformers_defaults() -> None:
    assert ROBERTA.read_config(RAW, "config.json") == CONFIG
    assert ROBERTA.read_config({**RAW, "pad_token_id": 3}, "config.json") == replace(CONFIG, pad_token_id=3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pad_token_id": None}, "config.json: pad_token_id is None: expected an int from 0 to 9"),
        ({"pad_token_id": -1}, "pad_token_id is -1: expected an int from 0 to 9"),
        ({"pad_token_id": 10}, "pad_token_id is 10: expected an int from 0 to 9"),
        ({"pad_token_id": True}, "pad_token_id is True: expected an int"),
        ({"max_position_embeddings": 1}, "pad_token_id is 1: expected an int from 0 to -1"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': expected 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key': expected 'absolute'"),
        ({"is_decoder": True}, "is_decoder is true: expected an encoder"),
        ({"type_vocab_size": 0}, "type_vocab_size is 0: expected a positive int"),
    ],
)
def test_a_configuration_that_is_not_followed_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        ROBERTA.read_config({**RAW, **change}, "config.json")
