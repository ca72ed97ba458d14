"""The tokeniser of a model folder: the one that transformers builds from its files, where they agree.

transformers takes no more than the vocabulary of a tokenizer.json, of BPE the merges too, and makes the rest from the
files beside it; other readers take tokenizer.json as it stands.  Where the two differ the folder means two things, and
is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.run.tokens.agreement import add_tokens
from sora_ref.run.tokens.documents import TokenizerFiles, read_files
from sora_ref.run.tokens.families import Chosen, chosen

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_TYPES = "token_type_ids"
_HUSHING = threading.Lock()

Made = TypeVar("Made")


def load_tokenizer(
    folder: Path, max_length: int, say: Callable[[str], None] | None = None, *, token_types: int = 2
) -> Tokenizer:
    """The tokeniser of a model folder, truncating to `max_length` tokens (the longer of a pair first).

    Ids are those of transformers' `AutoTokenizer.from_pretrained(folder)(text, pair, truncation=True,
    max_length=max_length)`, and so are type ids where it gives them; else they are 0.

    token_types: how many types the model has embeddings of; from two on the tokeniser must give them.
    say:         is told where the folder names a smaller length.

    Raises SoRAError, naming file and key, for a folder without tokenizer.json, and for one that is damaged, contradicts
    the files beside it, adds no special tokens, or asks transformers for what is not followed here.
    """
    choice = chosen(folder)
    files = read_files(folder, choice.family.vocabulary)
    _require_followed(files)
    types = _gives_types(files, choice, token_types)
    tokenizer = _guarded(files.path, lambda: _make(files, choice, types))
    singles, pairs = (tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
    around = choice.family.around
    require(singles > 0, f"{files.path}: adds no special tokens to a text: expected {around} around it")
    require(max_length > pairs, f"max_length is {max_length}: expected more than the {pairs} special tokens")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction=files.truncation_side)
    longest = files.settings.model_max_length
    if say and longest is not None and longest < max_length:
        say(f"{folder}: model_max_length is {longest:g}; texts are cut at model.max_length all the same, {max_length}")
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
    """The tokens of texts and pairs; SoRAError where the tokeniser fails on one."""
    return _guarded("the model's tokeniser", lambda: tokenizer.encode_batch(texts))


def _make(files: TokenizerFiles, choice: Chosen, types: bool) -> Tokenizer:
    from tokenizers import Tokenizer

    if not choice.as_written:
        return choice.family.build(files, types)
    tokenizer = Tokenizer.from_str(files.text)
    add_tokens(tokenizer, files, files.named)
    return tokenizer


def _gives_types(files: TokenizerFiles, choice: Chosen, token_types: int) -> bool:
    """Whether the model reads types and the tokeniser gives them; SoRAError where it has several and gets none."""
    inputs, place = files.settings.model_input_names, files.path.parent
    if token_types == 0:
        return False
    if inputs is None:
        require(
            choice.gives_types or token_types < 2,
            f"{place}: model_input_names is not there: expected {_TYPES} among them, which {choice.name} leaves out",
        )
        return choice.gives_types
    require(
        _TYPES in inputs or token_types < 2,
        f"{place}: model_input_names of its tokeniser is {shown(inputs)}: expected {_TYPES} among them, "
        "which pairs need",
    )
    return _TYPES in inputs


def _require_followed(files: TokenizerFiles) -> None:
    """SoRAError where a setting asks for what is not done here."""
    settings, place = files.settings, files.path.parent
    asked: dict[str, tuple[object, bool, str]] = {
        "padding_side": (files.padding_side, files.padding_side == "right", "'right', as positions are counted"),
        "split_special_tokens": (settings.split_special_tokens, not settings.split_special_tokens, "false"),
        "auto_map": (settings.auto_map, not settings.auto_map, "a tokeniser without code of its own"),
        "init_inputs": (settings.init_inputs, not settings.init_inputs, "none"),
        "fast_tokenizer_files": (settings.fast_tokenizer_files, not settings.fast_tokenizer_files, "tokenizer.json"),
    }
    for key, (value, fine, expected) in asked.items():
        require(fine, f"{place}: {key} of its tokeniser is {shown(value)}: expected {expected}")


@contextmanager
def _hushed() -> Iterator[None]:
    """No text on file descriptor 2 meanwhile: Rust's panics print pages there, a page for every text of a batch.

    One thread at a time: the second would take the first one's null device for standard error, and put that back.
    """
    with _HUSHING:
        try:
            kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        except OSError:  # there is no standard error
            yield
            return
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _guarded(path: Path | str, work: Callable[[], Made]) -> Made:
    """What `work` returns; what the library raises, its panics included, as one sentence."""
    try:
        with _hushed():
            return work()
    except SoRAError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # pyo3's, which has no module
            raise
        raise SoRAError(
            f"{printable(str(path))}: not a tokeniser ({brief(str(error))}): expected a tokenizer.json"
        ) from error
