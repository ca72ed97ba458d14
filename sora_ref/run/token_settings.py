"""What the files of a tokeniser say, collected as transformers (5.23) collects it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.storage.documents import convert, decode_json
from sora_ref.storage.pointers import require_no_pointer
from sora_ref.storage.regular import read_regular

if TYPE_CHECKING:
    from tokenizers import AddedToken

FILE = "tokenizer.json"
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MOST = 2**27  # bytes of a tokenizer.json: four times those of the largest in use

REWRITE = "python -c \"from transformers import AutoTokenizer as A; A.from_pretrained('.').save_pretrained('.')\""

_EXPECTED = "a Hugging Face tokeniser"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_CLASS = "BertTokenizer"
_TYPES = "token_type_ids"

Side = Literal["left", "right"]


class Token(Struct):
    """An added token: its text, and how it is looked for; normalized by default where it is not special."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False
    id: int | None = None

    def added(self) -> AddedToken:
        """The token as the library knows it."""
        from tokenizers import AddedToken

        return AddedToken(
            self.content,
            single_word=self.single_word,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            normalized=not self.special if self.normalized is None else self.normalized,
            special=self.special,
        )


class _Stored(Struct):
    """How tokenizer.json cuts or fills texts; of this transformers takes the side."""

    direction: Literal["Left", "Right"] = "Right"


class _Model(Struct):
    vocab: Any = None
    unk_token: str | None = None


class Written(Struct):
    """What is read of tokenizer.json here; the library reads the rest."""

    model: _Model
    added_tokens: list[Token] = field(default_factory=list)
    truncation: _Stored | None = None
    padding: _Stored | None = None


class Settings(Struct):
    """What the files beside tokenizer.json set; other keys change no token."""

    do_lower_case: bool = True
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None
    truncation_side: Side | None = None
    padding_side: Side | None = None
    model_max_length: float | None = None
    model_input_names: list[str] | None = None
    split_special_tokens: bool = False
    added_tokens_decoder: dict[str, Token] | None = None
    auto_map: Any = None
    init_inputs: Any = None
    fast_tokenizer_files: Any = None


class TokenizerFiles(Struct):
    """Everything that makes a folder's tokeniser.

    tokenizer_class: transformers' name without "Fast".  text, written: tokenizer.json.  tokens: the added ones by id.
    named: those with a part to play, by cls_token and the like, None for one that is switched off.  extra: others that
    are special.
    """

    path: Path
    tokenizer_class: str
    text: str
    written: Written
    settings: Settings
    tokens: dict[int, Token]
    named: dict[str, Token | None]
    extra: list[Token]

    @property
    def truncation_side(self) -> Side:
        """Where texts are cut: as set by name, else as tokenizer.json does it, else on the right."""
        return self.settings.truncation_side or _side(self.written.truncation)

    @property
    def padding_side(self) -> Side:
        """Where texts are filled up, likewise."""
        return self.settings.padding_side or _side(self.written.padding)


def _side(stored: _Stored | None) -> Side:
    return "left" if stored is not None and stored.direction == "Left" else "right"


def read_files(folder: Path) -> TokenizerFiles:
    """The documents of a folder's tokeniser; SoRAError, naming file and key, where one is missing or damaged."""
    path = folder / FILE
    if not path.exists() and (folder / "vocab.txt").exists():
        raise SoRAError(
            f"{path}: no such file, only vocab.txt: expected both; transformers makes one of the other, in that "
            f"folder: {REWRITE}"
        )
    data = read_regular(path, "the model's tokeniser")
    require_no_pointer(path, data)
    require(len(data) <= MOST, f"{path}: {len(data)} bytes: expected a tokenizer.json of at most {MOST}")
    where = f"{printable(str(path))}: not a tokeniser"
    written = decode_json(data, Written, where, "a tokenizer.json")
    try:
        text = data.decode()  # `decode_json` passes over what no field asks for
    except UnicodeDecodeError as error:
        raise SoRAError(f"{where}: not UTF-8 ({brief(str(error))}): expected a tokenizer.json") from error
    config, special, older = (_optional(folder / name) for name in BESIDE)
    if "added_tokens_decoder" in config:
        special = older = {}
    place = str(folder / BESIDE[0])
    settings = convert({**config, **special}, Settings, place, _EXPECTED)
    extra = [*_extra(config, folder / BESIDE[0]), *_extra(special, folder / BESIDE[1])]
    named = {**_named(config, folder / BESIDE[0]), **_named(special, folder / BESIDE[1])}
    tokens = {}
    if settings.added_tokens_decoder is not None:
        for id_, token in settings.added_tokens_decoder.items():
            require(id_.isdecimal(), f"{place}: added_tokens_decoder has a key {shown(id_)}: expected an id")
            tokens[int(id_[:18])] = token
    else:
        known = {token.content for token in (*named.values(), *extra) if token is not None}
        ids = convert(older, dict[str, int], str(folder / BESIDE[2]), "tokens and their ids")
        tokens = {id_: Token(content, special=content in known) for content, id_ in ids.items()}
        tokens |= {token.id: token for token in written.added_tokens if token.id is not None}
    kind = config.get("tokenizer_class") or _optional(folder / "config.json").get("tokenizer_class") or _CLASS
    require(isinstance(kind, str), f"{place}: tokenizer_class is {shown(kind)}: expected a name")
    return TokenizerFiles(path, kind.removesuffix("Fast"), text, written, settings, tokens, named, extra)


def _optional(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    data = read_regular(path, _EXPECTED)
    require_no_pointer(path, data)
    return decode_json(data, dict[str, Any], printable(str(path)), _EXPECTED)


def _named(document: Mapping[str, Any], path: Path) -> dict[str, Token | None]:
    found = {}
    for key in _NAMES:
        if key in document:
            value = document[key]
            found[key] = None if value is None else _token(value, f"{path}: {key}")
    return found


def _extra(document: Mapping[str, Any], path: Path) -> Iterator[Token]:
    """Tokens under the keys for more of them, in a list or by names, and under names that a model gave itself."""
    for key, value in document.items():
        if key in _EXTRA and value is not None:
            require(isinstance(value, list | dict), f"{path}: {key} is {shown(value)}: expected a list of tokens")
            for token in value.values() if isinstance(value, dict) else value:
                yield _token(token, f"{path}: {key}")
        elif key.endswith("_token") and key not in _NAMES and isinstance(value, str):
            yield _token(value, f"{path}: {key}")


def _token(value: Any, where: str) -> Token:
    """A special token, given as its text or with its flags."""
    token = Token(value) if isinstance(value, str) else convert(value, Token, where, "a token")
    token.special = True
    return token


def require_followed(files: TokenizerFiles) -> None:
    """SoRAError where a setting asks for what is not done here."""
    settings, place = files.settings, files.path.parent
    inputs = settings.model_input_names
    asked: dict[str, tuple[object, bool, str]] = {
        "padding_side": (files.padding_side, files.padding_side == "right", "'right', as BERT counts its positions"),
        "model_input_names": (inputs, inputs is None or _TYPES in inputs, f"{_TYPES} among them, which pairs need"),
        "split_special_tokens": (settings.split_special_tokens, not settings.split_special_tokens, "false"),
        "auto_map": (settings.auto_map, not settings.auto_map, "a tokeniser without code of its own"),
        "init_inputs": (settings.init_inputs, not settings.init_inputs, "none"),
        "fast_tokenizer_files": (settings.fast_tokenizer_files, not settings.fast_tokenizer_files, "tokenizer.json"),
    }
    for key, (value, fine, expected) in asked.items():
        require(fine, f"{place}: {key} of its tokeniser is {shown(value)}: expected {expected}")
