"""The tokenizer's files of a model folder, for another folder: what they are is checked before they are copied.

A model folder may come from anybody, and a link in it may lead anywhere.  So a file is taken only if it lies in the
folder itself, or, where that is a snapshot of Hugging Face's cache, among the blobs of the same model (the cache's
snapshots are links into those); and only if its contents are what its name says: a tokenizer that loads, a JSON
object, a vocabulary each entry of which the tokenizer knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.run.tokens.documents import BESIDE, FILE
from sora_ref.run.tokens.families import chosen
from sora_ref.storage.regular import read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of the folder's tokenizer, by its family, that are there; links that lead nowhere included."""
    return _there(folder, (FILE, *BESIDE, *chosen(folder).family.vocabulary))


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files by name; SoRAError, naming the file, where one lies elsewhere or is something else."""
    found = _read(folder, (FILE, *BESIDE))
    require(FILE in found, f"{printable(str(folder / FILE))}: no such file: expected the model's tokenizer")
    tokenizer = _tokenizer(folder / FILE, found[FILE])
    for name in BESIDE:
        if name in found:
            _require_object(folder / name, found[name])
    family = chosen(folder).family
    vocabulary = _read(folder, family.vocabulary)
    for name, data in vocabulary.items():
        family.require_vocabulary(folder / name, _text(folder / name, data), tokenizer)
    return found | vocabulary


def _there(folder: Path, names: Iterable[str]) -> list[Path]:
    paths = [folder / name for name in names]
    return [path for path in paths if path.exists() or path.is_symlink()]


def _read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The contents of those that are there, once they are seen to be the folder's own."""
    found = {}
    for path in _there(folder, names):
        _require_own(path, folder)
        found[path.name] = read_regular(path, "a file of the model's tokenizer")
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


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SoRAError(f"{printable(str(path))}: not UTF-8: expected the tokenizer's vocabulary") from error
