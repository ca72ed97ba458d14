"""A byte-level BPE of a few hundred tokens, as RoBERTa's folders have one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_run import BAD, GOOD, PLAIN

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WORDS = (*PLAIN, *GOOD, *BAD)


def byte_level_bpe(words: Sequence[str] = WORDS) -> tuple[dict[str, int], list[str]]:
    """A vocabulary with ids, and merges that make one token of each word, at a text's beginning and within it.

    RoBERTa's special tokens come first and <mask> last, every byte between them.
    """
    from tokenizers import models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in (spelling for plain in words for spelling in (plain, f"Ġ{plain}")):
        known = {token: id_ for id_, token in enumerate(dict.fromkeys((*letters, *map("".join, merges))))}
        whole, *rest = (token.value for token in models.BPE(known, merges).tokenize(word))
        for piece in rest:  # later merges come after these, so that they change nothing of this word
            merges.append((whole, piece))
            whole += piece
    tokens = dict.fromkeys((*SPECIAL, *letters, *map("".join, merges), "<mask>"))
    return {token: id_ for id_, token in enumerate(tokens)}, [" ".join(merge) for merge in merges]


def tokenizer_document(words: Sequence[str] = WORDS) -> dict[str, Any]:
    """tokenizer.json, as that of roberta-base is."""
    vocab, merges = byte_level_bpe(words)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    special = dict.fromkeys(SPECIAL, plain) | {"<mask>": {**plain, "lstrip": True, "normalized": False}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[token], "content": token, **flags} for token, flags in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", vocab["</s>"]],
            "cls": ["<s>", vocab["<s>"]],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def write_byte_level_bpe(folder: Path, words: Sequence[str] = WORDS) -> None:
    """tokenizer.json, and the older readers' vocab.json and merges.txt."""
    document = tokenizer_document(words)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *document["model"]["merges"], ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
