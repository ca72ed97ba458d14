"""What the readers of `config.json` share: sizes, numbers, and keys that would make another model of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sora_ref.errors import shown
from sora_ref.preconditions import require

# Keys that must be absent, false or empty in an encoder: a decoder's masks and layers, and heads cut out of it.
_NO_ENCODER = ("is_decoder", "is_encoder_decoder", "add_cross_attention", "pruned_heads")


def require_values(raw: Mapping[str, Any], where: str, expected: Mapping[str, Any]) -> None:
    """SoRAError, naming the key, where one is there and has another value than is implemented."""
    for key, value in expected.items():
        require(raw.get(key, value) == value, f"{where}: {key} is {shown(raw.get(key))}: expected {value!r}")


def require_encoder(raw: Mapping[str, Any], where: str) -> None:
    """SoRAError where a key says that this is more or less than an encoder."""
    for key in _NO_ENCODER:
        said = "true" if raw.get(key) is True else shown(raw.get(key))
        require(not raw.get(key), f"{where}: {key} is {said}: expected an encoder")


def sizes(raw: Mapping[str, Any], where: str, keys: Collection[str]) -> dict[str, int]:
    """The positive ints under these keys; SoRAError for one that is missing or something else."""
    for key in keys:
        size = raw.get(key)
        require(type(size) is int and size > 0, f"{where}: {key} is {shown(size)}: expected a positive int")
    return {key: raw[key] for key in keys}


def require_padding(raw: Mapping[str, Any], where: str, vocab_size: int) -> None:
    """SoRAError for a padding token behind the vocabulary: no number depends on it, but transformers refuses it."""
    pad = raw.get("pad_token_id")
    sound = pad is None or (type(pad) is int and -vocab_size <= pad < vocab_size)
    require(sound, f"{where}: pad_token_id is {shown(pad)}: expected an int below the vocab_size of {vocab_size}")


def epsilon(raw: Mapping[str, Any], where: str, key: str, default: float) -> float:
    """A number between 0 and 1; SoRAError for anything else."""
    eps = raw.get(key, default)
    sound = type(eps) in (int, float) and 0 < eps < 1
    require(sound, f"{where}: {key} is {shown(eps)}: expected a number between 0 and 1")
    return float(eps)
