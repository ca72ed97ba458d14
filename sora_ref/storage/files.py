"""Files that are never half-written, and are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.storage.documents import Stepped, decode_json, json_lines, line_of
from sora_ref.storage.folder import flush_folder
from sora_ref.storage.json_text import to_json as to_json
from sora_ref.storage.regular import read_regular as read_regular
from sora_ref.storage.regular import require_regular as require_regular
from sora_ref.storage.weights import canonical

_DIGEST = "sha256"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_OURS = r"(versions|inputs|summary|memorization_ids|mlflow)\.json|(metrics|gates)\.jsonl|(ranks|gates)\.png"
_SCRAP = re.compile(rf"\.(config\.toml|{_OURS}|(best|(step|stage)-[0-9]+)\.safetensors)\.[a-z0-9_]{{8}}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or leave what was there: a temporary sibling, flushed to disk, then renamed over `path`.

    A new file may be read by whom the process's umask lets read it; one that replaces another keeps its permissions.
    Raises SoRAError where the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _permissions(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, _NEW, 0o666 if before is None else before), "wb") as file:
            if before is not None:
                os.chmod(temporary, before)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except (OSError, ValueError) as error:  # ValueError: what no file can be called
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({getattr(error, 'strerror', None) or error}): "
            "expected a writable folder with room"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError, ValueError):  # renamed, where all went well
                os.unlink(temporary)


def _permissions(path: Path) -> int | None:
    """Those of the file that stands there, links not followed; None where there is none."""
    with suppress(FileNotFoundError):
        found = os.lstat(path).st_mode
        return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None
    return None


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; SoRAError, too, for half of a character's code, which UTF-8 has no bytes for."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        part = shown(text[max(error.start - 20, 0) : error.end + 20])
        raise SoRAError(f"{printable(str(path))}: {part} is no text that UTF-8 could hold: expected one") from error
    write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, to_json(value, indent=2) + "\n")


def is_scrap(path: Path) -> bool:
    """Whether a killed `write_bytes` left this file behind: hidden, a name of ours, eight letters more."""
    return _SCRAP.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove such scraps from a run directory, its checkpoints and its stages."""
    for place in (folder, folder / "checkpoints", folder / "stages"):
        for path in place.glob(".*"):
            if is_scrap(path):
                path.unlink()


def tensor_bytes(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """Tensors and JSON-able facts as one safetensors file, with a digest over names, dtypes, shapes and bytes."""
    from safetensors.numpy import save

    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # safetensors 0.8 scrambles others
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    metadata[_DIGEST] = _digest(whole, metadata)
    return canonical(save(whole, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `tensor_bytes` made; SoRAError, naming the file, where it is missing, truncated or changed."""
    from safetensors import SafetensorError, safe_open

    where, expected = printable(str(path)), "a checkpoint of sora-ref"
    require_regular(path, expected)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except OSError as error:
        raise SoRAError(f"{where}: cannot be read ({error.strerror or error}): expected {expected}") from error
    except SafetensorError as error:
        raise SoRAError(
            f"{where}: truncated or no safetensors file ({brief(str(error))}): expected {expected}"
        ) from error
    except (TypeError, AttributeError, ValueError) as error:  # bfloat16, float8, a hundred dimensions
        raise SoRAError(f"{where}: holds what NumPy has not ({brief(str(error))}): expected {expected}") from error
    stored = metadata.pop(_DIGEST, None)
    require(stored is not None, f"{where}: no {_DIGEST} in its metadata: expected {expected}")
    require(stored == _digest(tensors, metadata), f"{where}: damaged, its {_DIGEST} does not match its contents")
    return tensors, {
        key: decode_json(value, Any, f"{where}: {shown(key)} of its metadata", expected)
        for key, value in metadata.items()
    }


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines; a line cut short by a kill is dropped when they are read.

    Raises SoRAError where the file cannot be written, or is a link: it would lead out of the run's folder.
    """
    try:
        with os.fdopen(_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8") as file:
            for record in records:
                file.write(to_json(record) + "\n")
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({error.strerror}): expected a writable folder with room"
        ) from error


def keep_lines(
    path: Path, last_step: int, kind: Any = Stepped, see: Callable[[int, Any], None] = lambda number, record: None
) -> None:
    """Cut off the records of steps after `last_step`, and a line cut short: what a resumed run will write again.

    kind: the records' type, with an int `step`.  see: called with the number and the record of every line that stays;
    what it raises leaves the file as it is.  Lines that stay keep their bytes; where all stay, so does the file.  The
    whole log is looked at, one line at a time.  Raises SoRAError, naming file and line, where a whole line is no such
    record, or steps go back.
    """
    keep, before = 0, None
    for number, end, record in json_lines(path, kind, "a log of a run"):
        step = record.step
        if before is not None and step < before:
            where = line_of(path, number)
            raise SoRAError(f"{where}: damaged (step {step} after step {before}): expected a log of a run")
        before = step
        if step <= last_step:
            see(number, record)
            keep = end
    try:
        if path.exists() and path.stat().st_size > keep:
            with os.fdopen(_own(path, os.O_RDWR), "r+b") as file:
                file.truncate(keep)
                os.fsync(file.fileno())
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be written ({error.strerror}): expected a writable log"
        ) from error


def _own(path: Path, flags: int) -> int:
    """A log of ours, open to be written; SoRAError where a link stands there."""
    require(not path.is_symlink(), f"{printable(str(path))}: a link: expected a log of the run's own")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(tensors.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
