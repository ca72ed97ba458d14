"""BERT's tokeniser as transformers (5.23) builds it, and whether tokenizer.json says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sora_ref.errors import shown
from sora_ref.preconditions import require
from sora_ref.run.token_settings import REWRITE, Token, TokenizerFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BERTS = {  # the names that a BertTokenizer has without being told
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_PARTS = ("cls_token", "sep_token", "unk_token")  # without these there is no BERT
_Around = list[tuple[int | str | None, int]]  # ids, or texts by their letters, each with its type id
_SETTINGS = {  # what makes a part, where it is not the same for every BERT
    "model.unk_token": "unk_token",
    "normalizer.lowercase": "do_lower_case",
    "normalizer.strip_accents": "strip_accents",
    "normalizer.handle_chinese_chars": "tokenize_chinese_chars",
    "post_processor.single": "cls_token and sep_token",
    "post_processor.pair": "cls_token and sep_token",
}


def build(files: TokenizerFiles) -> Tokenizer:
    """transformers' BertTokenizer of these files.

    It takes from tokenizer.json the vocabulary, and the added tokens where the files beside it list none; normaliser,
    pre-tokeniser and special tokens are made from the settings.  Raises SoRAError, naming the part, where that of
    tokenizer.json is another one, so that who reads it alone would get other tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings, named = files.settings, _named(files)
    cls, sep, unk = (named[part].content for part in _PARTS)
    tokenizer = Tokenizer(models.WordPiece(_vocabulary(files, unk), unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.tokenize_chinese_chars,
        strip_accents=settings.strip_accents,
        lowercase=settings.do_lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    add_tokens(tokenizer, files, named)
    ids = {token: tokenizer.token_to_id(token) for token in (cls, sep)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0", pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1", special_tokens=list(ids.items())
    )
    _require_agreement(files, _written_parts(files), _built_parts(files, unk, ids[cls], ids[sep]))
    _require_agreement(files, _written_tokens(files), _built_tokens(files, tokenizer))
    return tokenizer


def add_tokens(tokenizer: Tokenizer, files: TokenizerFiles, named: Mapping[str, Token]) -> None:
    """Add the tokens that the files list, by id, then those with a part to play, then other special ones."""
    there = tokenizer.get_added_tokens_decoder().values()
    same = {repr(token) for token in there}
    listed = [token.added() for _, token in sorted(files.tokens.items())]
    new = [token for token in listed if repr(token) not in same]
    contents = {token.content for token in (*there, *new)}
    for token in (*named.values(), *files.extra):
        if token.content not in contents:
            contents.add(token.content)
            new.append(token.added())
    tokenizer.add_tokens(new)


def _named(files: TokenizerFiles) -> dict[str, Token]:
    named = {key: Token(content, special=True) for key, content in _BERTS.items()} | files.named
    for part in _PARTS:
        require(named[part] is not None, f"{files.path.parent}: {part} is null: expected a token, as BERT has it")
    return {key: token for key, token in named.items() if token is not None}


def _vocabulary(files: TokenizerFiles, unk: str) -> dict[str, int]:
    found = files.written.model.vocab
    sound = isinstance(found, dict) and all(type(id_) is int and 0 <= id_ < 2**31 for id_ in found.values())
    require(sound, f"{files.path}: model.vocab is {shown(found)}: expected words and their ids")
    vocabulary: dict[str, int] = found
    require(unk in vocabulary, f"{files.path}: no {shown(unk)} in its vocabulary: expected the token of unknown words")
    return vocabulary


def _require_agreement(files: TokenizerFiles, written: Mapping[str, Any], built: Mapping[str, Any]) -> None:
    for part, expected in built.items():
        found = written.get(part)
        require(
            found == expected,
            f"{files.path}: {part} is {shown(found)}: expected {shown(expected)}, which transformers makes of it by "
            f"{_SETTINGS.get(part, 'its class')} of tokenizer_config.json; to let that hold, in that folder: {REWRITE}",
        )


def _built_parts(files: TokenizerFiles, unk: str, cls: int | None, sep: int | None) -> dict[str, Any]:
    """The parts that change ids, by their place in tokenizer.json."""
    settings = files.settings
    accents = settings.do_lower_case if settings.strip_accents is None else settings.strip_accents
    single: _Around = [(cls, 0), ("A", 0), (sep, 0)]
    return {
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
        "post_processor.single": single,
        "post_processor.pair": [*single, ("B", 1), (sep, 1)],
    }


def _written_parts(files: TokenizerFiles) -> dict[str, Any]:
    """The same of tokenizer.json; what it leaves to the library's defaults is filled in."""
    from tokenizers import Tokenizer

    raw = json.loads(files.text)
    kind = raw["model"].get("type", "WordPiece")  # files of 2020 do not say
    if kind != "WordPiece":
        return {"model.type": kind}
    bare = {**raw, "model": {**raw["model"], "type": kind, "vocab": {}}, "added_tokens": []}
    whole = json.loads(Tokenizer.from_str(json.dumps(bare)).to_str())
    parts = {
        f"{place}.{key}": value
        for place in ("model", "normalizer", "pre_tokenizer")
        for key, value in (whole[place] or {}).items()
    }
    if parts.get("normalizer.strip_accents") is None:
        parts["normalizer.strip_accents"] = parts.get("normalizer.lowercase")
    return parts | {f"post_processor.{form}": _template(whole["post_processor"], form) for form in ("single", "pair")}


def _template(post: Mapping[str, Any] | None, form: str) -> _Around | None:
    """What a post-processor puts around texts A and B: ids and texts in their order, each with its type id."""
    if post is None or post["type"] not in ("TemplateProcessing", "BertProcessing"):
        return None
    if post["type"] == "BertProcessing":
        (_, sep), (_, cls) = post["sep"], post["cls"]
        single: _Around = [(cls, 0), ("A", 0), (sep, 0)]
        return single if form == "single" else [*single, ("B", 1), (sep, 1)]
    around: _Around = []
    for piece in post[form]:
        (kind, value), *_ = piece.items()
        ids = [value["id"]] if kind == "Sequence" else post["special_tokens"][value["id"]]["ids"]
        around += [(id_, value["type_id"]) for id_ in ids]
    return around


def _built_tokens(files: TokenizerFiles, tokenizer: Tokenizer) -> dict[str, Any]:
    """The added tokens of tokenizer.json and the other special ones as they were made: id and flags by their text."""
    made = {token.content: (id_, repr(token)) for id_, token in tokenizer.get_added_tokens_decoder().items()}
    wanted = (token.content for token in (*files.written.added_tokens, *files.extra))
    return {f"added token {shown(content)}": made.get(content) for content in wanted}


def _written_tokens(files: TokenizerFiles) -> dict[str, Any]:
    tokens = files.written.added_tokens
    return {f"added token {shown(token.content)}": (token.id, repr(token.added())) for token in tokens}
