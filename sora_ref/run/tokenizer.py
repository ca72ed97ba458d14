"""The tokeniser of a model folder: the one that transformers builds from its files, where they agree.

transformers takes no more than the vocabulary of a BERT's tokenizer.json and makes the rest from the files beside it;
other readers take tokenizer.json as it stands.  Where the two differ the folder means two things, and is refused.
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
from sora_ref.run.token_settings import TokenizerFiles, read_files, require_followed
from sora_ref.run.wordpiece import add_tokens, build

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_BUILT = ("BertTokenizer", "ElectraTokenizer")  # one class of transformers under two names
_AS_WRITTEN = ("PreTrainedTokenizer", "TokenizersBackend")  # transformers takes tokenizer.json as it stands
_TYPES = "token_type_ids"
_HUSHING = threading.Lock()

Made = TypeVar("Made")


def load_tokenizer(folder: Path, max_length: int, say: Callable[[str], None] | None = None) -> Tokenizer:
    """The tokeniser of a model folder, truncating to `max_length` tokens (the longer of a pair first).

    Ids and type ids are those of transformers' `AutoTokenizer.from_pretrained(folder)(text, pair, truncation=True,
    max_length=max_length)`.  `say` is told where the folder names a smaller length.  Raises SoRAError, naming file and
    key, for a folder without tokenizer.json, and for one that is damaged, contradicts the files beside it, adds no
    special tokens, or asks transformers for what is not followed here.
    """
    files = read_files(folder)
    require_followed(files)
    tokenizer = _guarded(files.path, lambda: _make(files))
    singles, pairs = (tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
    require(singles > 0, f"{files.path}: adds no special tokens to a text: expected [CLS] and [SEP], as BERT has them")
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


def _make(files: TokenizerFiles) -> Tokenizer:
    from tokenizers import Tokenizer

    kind, inputs = files.tokenizer_class, files.settings.model_input_names
    if kind in _BUILT:
        return build(files)
    require(
        kind in _AS_WRITTEN,
        f"{files.path.parent}: tokenizer_class is {shown(kind)}: expected one of {', '.join((*_BUILT, *_AS_WRITTEN))}",
    )
    require(
        inputs is not None,
        f"{files.path.parent}: model_input_names is not there: expected {_TYPES} among them, which {kind} leaves out",
    )
    tokenizer = Tokenizer.from_str(files.text)
    add_tokens(tokenizer, files, {key: token for key, token in files.named.items() if token is not None})
    return tokenizer


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
