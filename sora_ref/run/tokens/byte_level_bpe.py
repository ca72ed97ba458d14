"""Byte-level BPE: the tokeniser of RoBERTa as transformers (5.23) builds it."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sora_ref.errors import printable, shown
from sora_ref.preconditions import require
from sora_ref.run.tokens.agreement import (
    add_tokens,
    id_of,
    named_tokens,
    pair_around,
    require_agreement,
    vocabulary,
    written_parts,
)
from sora_ref.run.tokens.documents import FILE, TokenizerFiles
from sora_ref.run.tokens.family import Family
from sora_ref.storage.documents import decode_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_USUAL = {  # the names that a RobertaTokenizer has without being told
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_NEEDED = ("cls_token", "sep_token")
_SETTINGS = {
    "pre_tokenizer.add_prefix_space": "add_prefix_space",
    "post_processor.single": "cls_token and sep_token",
    "post_processor.pair": "cls_token and sep_token",
}
_FOR_STRANGE_BYTES = ("model.unk_token", "model.fuse_unk", "model.byte_fallback")
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"


def _build(files: TokenizerFiles, types: bool) -> Tokenizer:
    """transformers' RobertaTokenizer of these files.

    It takes from tokenizer.json the vocabulary and the merges, and the added tokens where the files beside it list
    none; pre-tokeniser and special tokens are made from the settings, and there is no normaliser.  A byte that the
    vocabulary lacks is left out of the text, whatever unk_token is.  Every token has type 0.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    named, words = named_tokens(files, _USUAL, _NEEDED), vocabulary(files)
    cls, sep = (named[part].content for part in _NEEDED)
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in files.written.model.merges]
    pairs = [merge for merge in merges if len(merge) == 2]
    require(len(pairs) == len(merges), f"{files.path}: model.merges has one that is no pair: expected two tokens each")
    tokenizer = Tokenizer(models.BPE(words, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=files.settings.add_prefix_space)
    add_tokens(tokenizer, files, named)
    cls_id, sep_id = (id_of(tokenizer, token, files) for token in (cls, sep))
    tokenizer.post_processor = processors.RobertaProcessing((sep, sep_id), (cls, cls_id))
    around = pair_around(cls_id, sep_id, doubled=True, second=0)
    built = {
        "model.type": "BPE",
        "model.dropout": None,
        "model.unk_token": None,
        "model.continuing_subword_prefix": "",
        "model.end_of_word_suffix": "",
        "model.fuse_unk": False,
        "model.byte_fallback": False,
        "model.ignore_merges": False,
        "normalizer.type": None,
        "pre_tokenizer.type": "ByteLevel",
        "pre_tokenizer.add_prefix_space": files.settings.add_prefix_space,
        "pre_tokenizer.use_regex": True,
        "post_processor.single": around[:3],
        "post_processor.pair": around,
    }
    require_agreement(files, tokenizer, _written(files, types, built), built, _SETTINGS)
    return tokenizer


def _written(files: TokenizerFiles, types: bool, built: dict[str, Any]) -> dict[str, Any]:
    """The parts of tokenizer.json; those that change no id here are as they were built."""
    from tokenizers import pre_tokenizers

    parts = written_parts(files, "BPE", types)
    for part in ("model.dropout", "model.continuing_subword_prefix", "model.end_of_word_suffix"):
        parts[part] = parts.get(part) or built[part]
    if set(pre_tokenizers.ByteLevel.alphabet()) <= files.written.model.vocab.keys():  # no byte is unknown
        parts |= {part: built[part] for part in _FOR_STRANGE_BYTES}
    return parts


def _require_vocabulary(path: Path, text: str, tokenizer: Tokenizer) -> None:
    """vocab.json: the tokeniser's own ids; merges.txt: two tokens on each line, which are one together."""
    where = printable(str(path))
    if path.name == _VOCABULARY:
        words = decode_json(text.encode(), dict[str, int], where, "tokens and their ids")
        for token, id_ in words.items():
            known = tokenizer.token_to_id(token)
            require(known == id_, f"{where}: {shown(token)} is {id_}: expected {known}, as in {FILE} beside it")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.removesuffix("\r").split(" ")
        header = number == 1 and line.startswith("#version")
        known = len(parts) == 2 and all(tokenizer.token_to_id(part) is not None for part in (*parts, "".join(parts)))
        require(header or known or parts == [""], f"{where}, line {number}: no merge of {FILE} beside it")


BYTE_LEVEL_BPE = Family(
    classes=MappingProxyType({"RobertaTokenizer": False}),
    around="<s> and </s>",
    vocabulary=(_VOCABULARY, _MERGES),
    build=_build,
    require_vocabulary=_require_vocabulary,
)
"""RobertaTokenizer, which gives no types."""
