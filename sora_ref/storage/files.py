"""Files that are never half-written, and are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.checks import require
from sora_ref.errors import SoRAError, printable
from sora_ref.storage.folder import flush_folder
from sora_ref.storage.weights import canonical

_DIGEST = "sha256"
_OURS = r"config\.toml|(versions|summary|memorization_ids)\.json|(metrics|gates)\.jsonl|(ranks|gates)\.png"
_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_SCRAP = re.compile(rf"\.({_OURS}|(step|stage)-\d+\.safetensors)\.[a-z0-9_]{{8}}")


def require_regular(path: Path, expected: str) -> None:
    """SoRAError, "… expected {expected}", unless `path` leads to a file that can be opened and read to its end.

    Refused by name: what is missing, a folder, a named pipe, a socket, a device (which could wait for ever), a circle
    of links, what may not be read, and what no file can be called.  Nothing but a regular file is ever opened.
    """
    os.close(_open_regular(path, expected))


def read_regular(path: Path, expected: str) -> bytes:
    """The bytes of a regular file; SoRAError as `require_regular` says, or where the disk fails."""
    descriptor = _open_regular(path, expected)
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise SoRAError(
            f"{printable(str(path))}: cannot be read ({error.strerror or error}): expected {expected}"
        ) from error


def _open_regular(path: Path, expected: str) -> int:
    name = printable(str(path))
    try:
        _require_regular(name, os.stat(path), expected)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise SoRAError(f"{name}: no such file: expected {expected}") from error
    except OSError as error:
        raise SoRAError(f"{name}: cannot be read ({error.strerror or error}): expected {expected}") from error
    except SoRAError:
        raise
    except ValueError as error:  # a zero character, or half of a character's code, is in no file's name
        raise SoRAError(f"{name}: no file can be called that ({error}): expected {expected}") from error
    try:
        _require_regular(name, os.fstat(descriptor), expected)  # it may have been exchanged meanwhile
    except SoRAError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(name: str, found: os.stat_result, expected: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    require(kind == stat.S_IFREG, f"{name}: {_NO_FILES.get(kind, 'no file')}: expected {expected}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or leave what was there: a temporary sibling, flushed to disk, then renamed over `path`.

    Raises SoRAError where the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        raise SoRAError(
            f"{path}: cannot be written ({error.strerror}): expected a writable folder with room"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # renamed, where all went well
                os.unlink(temporary)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in which a number that is undefined (NaN, an infinity) is null, for JSON has no word for it."""
    return json.dumps(_defined(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except OSError as error:
        raise SoRAError(f"{path}: cannot be read ({error.strerror or error}): expected a checkpoint") from error
    except SafetensorError as error:
        raise SoRAError(f"{path}: truncated or no safetensors file ({error}): expected a checkpoint") from error
    stored = metadata.pop(_DIGEST, None)
    require(stored is not None, f"{path}: no {_DIGEST} in its metadata: expected a checkpoint of sora-ref")
    require(stored == _digest(tensors, metadata), f"{path}: damaged, its {_DIGEST} does not match its contents")
    return tensors, {key: json.loads(value) for key, value in metadata.items()}


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines; a line cut short by a kill is dropped when they are read."""
    try:
        with path.open("a", encoding="utf-8") as file:
            for record in records:
                file.write(to_json(record) + "\n")
    except OSError as error:
        raise SoRAError(
            f"{path}: cannot be written ({error.strerror}): expected a writable folder with room"
        ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file, without a last one that a kill cut short; none where there is no file.

    Raises SoRAError, naming file and line, where a whole line is no JSON object.
    """
    if not path.exists():
        return []
    try:
        whole = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise SoRAError(f"{path}: cannot be read ({error.strerror}): expected JSON lines") from error
    records = []
    for number, line in enumerate(whole, start=1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise SoRAError(f"{path}, line {number}: damaged ({error}): expected a JSON object in UTF-8") from error
    return records


def keep_lines(path: Path, last_step: int) -> None:
    """Drop the records of steps after `last_step`, and any line cut short: what a resumed run will write again."""
    if path.exists():
        kept = [record for record in read_lines(path) if record["step"] <= last_step]
        write_text(path, "".join(to_json(record) + "\n" for record in kept))


def _digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(tensors.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
