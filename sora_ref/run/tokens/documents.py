"""What the files of a tokeniser say, collected as transformers (5.23) collects it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
PARTS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("additional_special_tokens", "extra_special_tokens")

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
    merges: list[str | list[str]] = field(default_factory=list)
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
    add_prefix_space: bool = False
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

    text, written: tokenizer.json.
    tokens: the added ones by id.
    named:  those with a part to play, by cls_token and the like; None for one that is switched off.
    extra:  others that are special.
    """

    path: Path
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


def named_class(folder: Path) -> tuple[str | None, str]:
    """The class of the tokeniser without "Fast", None where no file names one, and the model's type, "" likewise."""
    place, model = folder / BESIDE[0], _optional(folder / "config.json")
    kind = _optional(place).get("tokenizer_class") or model.get("tokenizer_class") or None
    require(kind is None or isinstance(kind, str), f"{place}: tokenizer_class is {shown(kind)}: expected a name")
    model_type = model.get("model_type", "")
    return kind and kind.removesuffix("Fast"), model_type if isinstance(model_type, str) else ""


def read_files(folder: Path, vocabulary: Collection[str]) -> TokenizerFiles:
    """The documents of a folder's tokeniser.

    vocabulary: names of the files from which transformers could make tokenizer.json.  Raises SoRAError, naming file and
    key, where a document is missing or damaged.
    """
    path = folder / FILE
    if not path.exists() and all((folder / name).exists() for name in vocabulary):
        raise SoRAError(
            f"{path}: no such file, only {' and '.join(vocabulary)}: expected it too; transformers makes it of "
            f"{'that' if len(vocabulary) == 1 else 'those'}, in that folder: {REWRITE}"
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
    return TokenizerFiles(path, text, written, settings, tokens, named, extra)


def _optional(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    data = read_regular(path, _EXPECTED)
    require_no_pointer(path, data)
    return decode_json(data, dict[str, Any], printable(str(path)), _EXPECTED)


def _named(document: Mapping[str, Any], path: Path) -> dict[str, Token | None]:
    found = {}
    for key in PARTS:
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
        elif key.endswith("_token") and key not in PARTS and (isinstance(value, str) or _is_typed(value)):
            yield _token(value, f"{path}: {key}")


def _token(value: Any, where: str) -> Token:
    """A special token, given as its text or with its flags."""
    token = Token(value) if isinstance(value, str) else convert(value, Token, where, "a token")
    token.special = True
    return token


def _is_typed(value: Any) -> bool:
    """Whether transformers reads this as an AddedToken wherever it stands in tokenizer_config.json."""
    return isinstance(value, dict) and value.get("__type") == "AddedToken"
