"""The tokeniser of a RoBERTa: tokenizer.json, its settings, and the vocabulary and merges that a merge copies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_tokens import write_byte_level_bpe

from sora_ref.run.tokens import encode_texts, load_tokenizer, read_tokenizer_files
from tests.soak.fuzz import octets
from tests.soak.fuzz.documents import TEXTS, json_document
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.ground import Ground

_SETTINGS = {
    "tokenizer_class": "RobertaTokenizer",
    "add_prefix_space": False,
    "model_max_length": 16,
    "cls_token": "<s>",
    "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False},
}
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def _folder(ground: Ground) -> Path:
    folder = ground.folder / "formats" / "byte-level"
    if not folder.exists():
        folder.mkdir(parents=True)
        write_byte_level_bpe(folder, ("good", "film", "dull"))
        (folder / "config.json").write_text('{"model_type": "roberta"}')
        (folder / "tokenizer_config.json").write_text(json.dumps(_SETTINGS))
    return folder


def _read(folder: Path) -> Any:
    """Everything that uses these files: a text and a pair are encoded, and a merge's copies are made."""
    tokenizer = load_tokenizer(folder, 16, token_types=1)
    encode_texts(tokenizer, [*TEXTS, (TEXTS[0], TEXTS[1])])
    return sorted(read_tokenizer_files(folder))


def _damage(name: str) -> Callable[[random.Random, Files], Files]:
    change = json_document if name.endswith(".json") else octets.damaged

    def damage(rng: random.Random, files: Files) -> Files:
        return {name: some(rng, files[name], change)}

    return damage


FORMATS = tuple(Format(f"{name} of RoBERTa", _folder, _damage(name), _read, slice=80) for name in _FILES)
