"""The tokenizer's files of a model folder, for another folder: what they are is checked before they are copied.

A model folder may come from anybody, and a link in it may lead anywhere.  So a file is taken only if it lies in the
folder itself, or, where that is a snapshot of Hugging Face's cache, among the blobs of the same model (the cache's
snapshots are links into those); and only if its contents are what its name says: a tokenizer that loads, a JSON
object, a vocabulary each line of which the tokenizer knows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.run.token_settings import BESIDE, FILE
from sora_ref.storage.regular import read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VOCABULARY = "vocab.txt"
NAMES = (FILE, *BESIDE, _VOCABULARY)


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files that are there, links that lead nowhere included."""
    paths = [folder / name for name in NAMES]
    return [path for path in paths if path.exists() or path.is_symlink()]


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files by name; SoRAError, naming the file, where one lies elsewhere or is something else."""
    found = {}
    for path in tokenizer_files(folder):
        _require_own(path, folder)
        found[path.name] = read_regular(path, "a file of the model's tokenizer")
    require(FILE in found, f"{printable(str(folder / FILE))}: no such file: expected the model's tokenizer")
    tokenizer = _tokenizer(folder / FILE, found[FILE])
    for name in BESIDE:
        if name in found:
            _require_object(folder / name, found[name])
    if _VOCABULARY in found:
        _require_vocabulary(folder / _VOCABULARY, found[_VOCABULARY], tokenizer)
    return found


def _require_own(path: Path, folder: Path) -> None:
    """SoRAError unless the file lies in the folder, or among the blobs of the cache it is a snapshot of."""
    try:
        home, target = folder.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise SoRAError(f"{printable(str(path))}: leads nowhere ({error}): expected a file") from error
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    require(
        target.parent in homes,
        f"{printable(str(path))}: a link to {shown(str(target))}, outside the model's folder: "
        "expected a file of its own, for it is copied",
    )


def _tokenizer(path: Path, data: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises bare Exception
        raise SoRAError(
            f"{printable(str(path))}: not a tokeniser ({brief(str(error))}): expected a tokenizer.json"
        ) from error


def _require_object(path: Path, data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SoRAError(f"{printable(str(path))}: not JSON: expected the tokenizer's configuration") from error
    require(isinstance(value, dict), f"{printable(str(path))}: no JSON object: expected the tokenizer's configuration")


def _require_vocabulary(path: Path, data: bytes, tokenizer: Tokenizer) -> None:
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise SoRAError(f"{printable(str(path))}: not UTF-8: expected the tokenizer's vocabulary") from error
    for number, line in enumerate(lines, start=1):
        token = line.removesuffix("\r")
        known = tokenizer.token_to_id(token) is not None or (number == len(lines) and not token)
        require(known, f"{printable(str(path))}, line {number}: no token of {FILE} beside it: expected one a line")
