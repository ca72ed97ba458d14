"""The tokeniser of a model folder: the one that transformers builds from its files; a file for each family of them."""

from __future__ import annotations

from sora_ref.run.tokens.copied import read_tokenizer_files, tokenizer_files
from sora_ref.run.tokens.families import NAMES
from sora_ref.run.tokens.load import encode_texts, load_tokenizer

__all__ = ["NAMES", "encode_texts", "load_tokenizer", "read_tokenizer_files", "tokenizer_files"]
