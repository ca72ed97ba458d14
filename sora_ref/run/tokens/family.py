"""The record of a family of tokenisers: what reading, checking and copying one need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sora_ref.run.tokens.documents import TokenizerFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Family:
    """Tokenisers that transformers builds in one way.

    classes:    names of transformers' classes without "Fast", the usual one first -> whether it gives token types.
    around:     the tokens before and behind a text, for a sentence.
    vocabulary: the files beside tokenizer.json that hold the vocabulary once more, for older readers.
    build:      (files, whether token types are given) -> the tokeniser; SoRAError where tokenizer.json says another.
    require_vocabulary: (one of the vocabulary's files, its text, the tokeniser) -> nothing; SoRAError for an entry that
                the tokeniser does not know.
    """

    classes: Mapping[str, bool]
    around: str
    vocabulary: tuple[str, ...]
    build: Callable[[TokenizerFiles, bool], Tokenizer]
    require_vocabulary: Callable[[Path, str, Tokenizer], None]

    @property
    def usual(self) -> str:
        """The class of a folder that names none."""
        return next(iter(self.classes))
