"""What the families share: the tokens that are added, and whether tokenizer.json says what transformers makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sora_ref.errors import SoRAError, shown
from sora_ref.preconditions import require
from sora_ref.run.tokens.documents import PARTS, REWRITE, Token, TokenizerFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Around = list[tuple[int | str, int]]
"""What stands around texts: ids, and texts by their letters A and B, each with its type id."""


def named_tokens(files: TokenizerFiles, usual: Mapping[str, str], needed: tuple[str, ...]) -> dict[str, Token]:
    """The tokens with a part to play: those of the files, else the class's usual ones; SoRAError for a lack of one."""
    named = {key: Token(content, special=True) for key, content in usual.items()} | files.named
    for part in needed:
        require(named[part] is not None, f"{files.path.parent}: {part} is null: expected a token, as every text has it")
    return {key: token for key, token in named.items() if token is not None}


def add_tokens(tokenizer: Tokenizer, files: TokenizerFiles, named: Mapping[str, Token | None]) -> None:
    """Add the tokens that the files list, by id, then those with a part to play, then other special ones."""
    there = tokenizer.get_added_tokens_decoder().values()
    same = {repr(token) for token in there}
    listed = [token.added() for _, token in sorted(files.tokens.items())]
    new = [token for token in listed if repr(token) not in same]
    contents = {token.content for token in (*there, *new)}
    for token in (*(named.get(part) for part in PARTS), *files.extra):
        if token is not None and token.content not in contents:
            contents.add(token.content)
            new.append(token.added())
    tokenizer.add_tokens(new)


def id_of(tokenizer: Tokenizer, token: str, files: TokenizerFiles) -> int:
    """The id of a token that was added; SoRAError for one that cannot be, the empty one."""
    id_ = tokenizer.token_to_id(token)
    if id_ is None:
        raise SoRAError(f"{files.path.parent}: {shown(token)} is one of its special tokens: expected a text")
    return id_


def vocabulary(files: TokenizerFiles) -> dict[str, int]:
    """The words of tokenizer.json and their ids; SoRAError for anything else."""
    found = files.written.model.vocab
    sound = isinstance(found, dict) and all(type(id_) is int and 0 <= id_ < 2**31 for id_ in found.values())
    require(sound, f"{files.path}: model.vocab is {shown(found)}: expected words and their ids")
    words: dict[str, int] = found
    return words


def require_agreement(
    files: TokenizerFiles,
    tokenizer: Tokenizer,
    written: Mapping[str, Any],
    built: Mapping[str, Any],
    settings: Mapping[str, str],
) -> None:
    """SoRAError, naming the part, where tokenizer.json has another than was built.

    written, built: the parts that change ids, by their place in tokenizer.json.
    settings:       what sets a part, where it is not the same for every tokeniser of the class.
    """
    _require_same(files, written, built, settings)
    _require_same(files, _written_tokens(files), _built_tokens(files, tokenizer), {})


def _require_same(
    files: TokenizerFiles, written: Mapping[str, Any], built: Mapping[str, Any], settings: Mapping[str, str]
) -> None:
    for part, expected in built.items():
        found = written.get(part)
        require(
            found == expected,
            f"{files.path}: {part} is {shown(found)}: expected {shown(expected)}, which transformers makes of it by "
            f"{settings.get(part, 'its class')} of tokenizer_config.json; to let that hold, in that folder: {REWRITE}",
        )


def written_parts(files: TokenizerFiles, kind: str, types: bool) -> dict[str, Any]:
    """The parts of a tokenizer.json whose model is of this kind; what it leaves to the library's defaults is filled in.

    types: whether token types count; without them they are 0.  Of a model of another kind only the kind is told.
    """
    from tokenizers import Tokenizer

    raw = json.loads(files.text)
    found = raw["model"].get("type", kind)  # files of 2020 do not say
    if found != kind:
        return {"model.type": found}
    model = {**raw["model"], "type": kind, "vocab": {}}
    if "merges" in model:
        model["merges"] = []
    bare = {**raw, "model": model, "added_tokens": []}
    whole = json.loads(Tokenizer.from_str(json.dumps(bare)).to_str())
    parts = {
        f"{place}.{key}": value
        for place in ("model", "normalizer", "pre_tokenizer")
        for key, value in (whole[place] or {}).items()
    }
    post = whole["post_processor"]
    return parts | {f"post_processor.{form}": _around(post, form, types) for form in ("single", "pair")}


def _around(post: Mapping[str, Any] | None, form: str, types: bool) -> Around | None:
    """What a post-processor puts around a text or a pair of them; None for one that does something else."""
    kind = None if post is None else post["type"]
    if post is None or kind not in ("TemplateProcessing", "BertProcessing", "RobertaProcessing"):
        return None
    if kind != "TemplateProcessing":
        (_, sep), (_, cls) = post["sep"], post["cls"]
        doubled, second = (True, 0) if kind == "RobertaProcessing" else (False, 1)
        return pair_around(cls, sep, doubled=doubled, second=second * types)[: None if form == "pair" else 3]
    around: Around = []
    for piece in post[form]:
        (piece_kind, value), *_ = piece.items()
        ids = [value["id"]] if piece_kind == "Sequence" else post["special_tokens"][value["id"]]["ids"]
        around += [(id_, value["type_id"] * types) for id_ in ids]
    return around


def pair_around(cls: int, sep: int, *, doubled: bool, second: int) -> Around:
    """[CLS] A [SEP] B [SEP], the first [SEP] doubled or not, the tokens from B on of the second type.

    Its first three are what stands around a single text.
    """
    between: Around = [(sep, 0)] if doubled else []
    return [(cls, 0), ("A", 0), (sep, 0), *between, ("B", second), (sep, second)]


def _built_tokens(files: TokenizerFiles, tokenizer: Tokenizer) -> dict[str, Any]:
    """The added tokens of tokenizer.json and the other special ones as they were made: id and flags by their text."""
    made = {token.content: (id_, repr(token)) for id_, token in tokenizer.get_added_tokens_decoder().items()}
    wanted = (token.content for token in (*files.written.added_tokens, *files.extra))
    return {f"added token {shown(content)}": made.get(content) for content in wanted}


def _written_tokens(files: TokenizerFiles) -> dict[str, Any]:
    tokens = files.written.added_tokens
    return {f"added token {shown(token.content)}": (token.id, repr(token.added())) for token in tokens}
