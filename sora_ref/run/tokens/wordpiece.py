"""WordPiece: the tokenisers of BERT and DistilBERT as transformers (5.23) builds them."""

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

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_USUAL = {  # the names that a BertTokenizer has without being told
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_NEEDED = ("cls_token", "sep_token", "unk_token")
_SETTINGS = {
    "model.unk_token": "unk_token",
    "normalizer.lowercase": "do_lower_case",
    "normalizer.strip_accents": "strip_accents",
    "normalizer.handle_chinese_chars": "tokenize_chinese_chars",
    "post_processor.single": "cls_token and sep_token",
    "post_processor.pair": "cls_token and sep_token",
}


def _build(files: TokenizerFiles, types: bool) -> Tokenizer:
    """transformers' BertTokenizer of these files.

    It takes from tokenizer.json the vocabulary, and the added tokens where the files beside it list none; normaliser,
    pre-tokeniser and special tokens are made from the settings.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings, named = files.settings, named_tokens(files, _USUAL, _NEEDED)
    cls, sep, unk = (named[part].content for part in _NEEDED)
    words = vocabulary(files)
    require(unk in words, f"{files.path}: no {shown(unk)} in its vocabulary: expected the token of unknown words")
    tokenizer = Tokenizer(models.WordPiece(words, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.tokenize_chinese_chars,
        strip_accents=settings.strip_accents,
        lowercase=settings.do_lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    add_tokens(tokenizer, files, named)
    ids = {token: id_of(tokenizer, token, files) for token in (cls, sep)}
    single, second = f"{cls}:0 $A:0 {sep}:0", int(types)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:{second} {sep}:{second}", special_tokens=list(ids.items())
    )
    accents = settings.do_lower_case if settings.strip_accents is None else settings.strip_accents
    around = pair_around(ids[cls], ids[sep], doubled=False, second=second)
    built = {
        "model.type": "WordPiece",
        "model.unk_token": unk,
        "model.continuing_subword_prefix": "##",
        "model.max_input_chars_per_word": 100,
        "normalizer.type": "BertNormalizer",
        "normalizer.clean_text": True,
        "normalizer.lowercase": settings.do_lower_case,
        "normalizer.strip_accents": accents,
        "normalizer.handle_chinese_chars": settings.tokenize_chinese_chars,
        "pre_tokenizer.type": "BertPreTokenizer",
        "post_processor.single": around[:3],
        "post_processor.pair": around,
    }
    require_agreement(files, tokenizer, _written(files, types), built, _SETTINGS)
    return tokenizer


def _written(files: TokenizerFiles, types: bool) -> dict[str, Any]:
    parts = written_parts(files, "WordPiece", types)
    if parts.get("normalizer.strip_accents") is None:
        parts["normalizer.strip_accents"] = parts.get("normalizer.lowercase")
    return parts


def _require_vocabulary(path: Path, text: str, tokenizer: Tokenizer) -> None:
    """vocab.txt: a token of the tokeniser on each line."""
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        token = line.removesuffix("\r")
        known = tokenizer.token_to_id(token) is not None or (number == len(lines) and not token)
        require(known, f"{printable(str(path))}, line {number}: no token of {FILE} beside it: expected one a line")


WORDPIECE = Family(
    classes=MappingProxyType({"BertTokenizer": True, "ElectraTokenizer": True, "DistilBertTokenizer": False}),
    around="[CLS] and [SEP]",
    vocabulary=("vocab.txt",),
    build=_build,
    require_vocabulary=_require_vocabulary,
)
"""BertTokenizer, which transformers also calls ElectraTokenizer, and DistilBertTokenizer, which gives no types."""
