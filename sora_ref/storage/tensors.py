"""safetensors files: read one tensor at a time with every failure named, and written as the same bytes every time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sora_ref.errors import SoRAError, brief, printable, shown
from sora_ref.preconditions import require
from sora_ref.storage.half import HALVES, words
from sora_ref.storage.pointers import require_no_pointer, why_absent
from sora_ref.storage.regular import require_regular

PYTORCH = {"format": "pt"}  # the note by which transformers knows a file of weights
_HALF = ("F16", "BF16")
_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_LENGTH = 8  # bytes of the header's length, little-endian, in front of it
_MOST = 2**24  # bytes of a header: room for some 100,000 tensors
_CHUNK = 2**18  # numbers that are read at a time


class Tensors(NamedTuple):
    """A file's contents.

    arrays:   by key, in the order of the keys; float64 or float32.
    cast:     key -> stored dtype, of those that were stored in half precision and are float32 here.
    metadata: the file's own notes.
    """

    arrays: dict[str, np.ndarray]
    cast: dict[str, str]
    metadata: dict[str, str]


class Entry(NamedTuple):
    """What the header says of a tensor: its dtype as stored, its shape, where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file.

    expected: what was expected of it, as sentences say it.
    entries:  what it holds, by key, in the order of the keys.
    """

    path: Path
    expected: str
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    file: IO[bytes]

    def require_floats(self, key: str, known: Sequence[str] = tuple(_STORED)) -> None:
        """SoRAError where the tensor is stored otherwise than in the `known` dtypes, as quantised ones are."""
        stored = self.entries[key].dtype
        require(
            stored in known,
            f"{printable(str(self.path))}: {shown(key)[1:-1]} is stored as {stored}: expected "
            f"{', '.join(known[:-1])} or {known[-1]}",
        )

    def read(self, key: str, dtype: str | None = None) -> np.ndarray:
        """One tensor, in `dtype`; by default in float64 where it is stored so, else in float32.

        The array is all the memory that this takes, a small piece apart.  Raises SoRAError where the tensor holds no
        floats, or the disk fails.
        """
        self.require_floats(key)
        stored, shape, start = self.entries[key]
        size = math.prod(shape)
        flat = np.empty(size, dtype or ("float64" if stored == "F64" else "float32"))
        try:
            self.file.seek(start)
            for first in range(0, size, _CHUNK):
                piece = flat[first : first + _CHUNK]
                data = self.file.read(piece.size * _STORED[stored].itemsize)
                require(
                    len(data) == piece.size * _STORED[stored].itemsize,
                    f"{printable(str(self.path))}: truncated while it was read: expected {self.expected}",
                )
                numbers = np.frombuffer(data, _STORED[stored])
                if stored == "BF16":  # the upper half of a float32
                    numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
                with np.errstate(over="ignore"):  # what overflows is infinite
                    piece[:] = numbers
        except OSError as error:
            raise SoRAError(
                f"{printable(str(self.path))}: cannot be read ({error.strerror}): expected {self.expected}"
            ) from error
        try:
            return flat.reshape(shape)
        except ValueError as error:  # a hundred dimensions, or longer ones than NumPy counts
            raise SoRAError(
                f"{printable(str(self.path))}: {shown(key)[1:-1]} has a shape that NumPy has not "
                f"({brief(str(error))}): expected a vector or a matrix"
            ) from error


@contextmanager
def open_tensors(path: Path, expected: str = "tensors") -> Iterator[TensorFile]:
    """The file, opened and its header checked; no tensor is read before it is asked for.

    expected: what sentences say was expected.
    Raises SoRAError where it is absent, a Git LFS pointer, damaged or truncated, or has a key twice.
    """
    if not os.path.lexists(path) and (why := why_absent(path)):
        raise SoRAError(why)
    require_regular(path, expected)
    try:
        with path.open("rb") as file:
            entries, metadata = _header(path, file, expected)
            yield TensorFile(path, expected, entries, metadata, file)
    except OSError as error:
        raise SoRAError(f"{printable(str(path))}: cannot be read ({error.strerror}): expected {expected}") from error


def read_tensors(path: Path) -> Tensors:
    """All tensors of the file; SoRAError where it is absent, damaged, or one holds no floats."""
    with open_tensors(path) as file:
        arrays = {key: file.read(key) for key in file.entries}
        cast = {key: entry.dtype for key, entry in file.entries.items() if entry.dtype in _HALF}
        return Tensors(arrays, cast, dict(file.metadata))


def _header(path: Path, file: IO[bytes], expected: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """What the file's header says, once the library has found it sound: without holes, overlaps and false lengths."""
    name = printable(str(path))
    first = file.read(64)
    require_no_pointer(path, first)
    length = int.from_bytes(first[:_LENGTH], "little")
    room = max(os.fstat(file.fileno()).st_size - _LENGTH, 0)
    damaged = f"{name} is damaged or truncated, no safetensors file"
    require(length <= room, f"{damaged}: a header of {length} bytes where there are {room}: expected {expected}")
    require(length <= _MOST, f"{name}: a header of {length} bytes: expected at most {_MOST}")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise SoRAError(f"{damaged}: {brief(str(error))}: expected {expected}") from error
    file.seek(_LENGTH)
    header: dict[str, Any] = json.loads(file.read(length), object_pairs_hook=lambda pairs: _once(name, pairs))
    metadata: dict[str, str] = header.pop("__metadata__", None) or {}
    base = _LENGTH + length
    return {
        key: Entry(entry["dtype"], tuple(entry["shape"]), base + entry["data_offsets"][0])
        for key, entry in sorted(header.items())
    }, metadata


def _once(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        require(key not in found, f"{name}: {shown(key)} is there twice in its header: expected each tensor once")
        found[key] = value
    return found


def tensor_bytes(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], dtypes: Mapping[str, str] | None = None
) -> bytes:
    """A safetensors file with these float32 or float64 arrays and these notes; equal contents are equal bytes.

    dtypes: key -> float16 or bfloat16, of arrays that hold numbers of that format and are stored in it.

    safetensors 0.8.0 writes the memory of an array as it lies, so one that is not C-contiguous comes back scrambled
    (safetensors#825); `(B[:, kept]) * g[kept]` is such an array.
    """
    whole, stored = {}, {}
    for key, array in arrays.items():
        half = HALVES.get((dtypes or {}).get(key, ""))
        whole[key] = np.asarray(array, order="C") if half is None else words(array, half)
        if half is not None:
            stored[key] = half.stored
    return canonical(save(whole, dict(metadata)), stored)


def canonical(data: bytes, stored: Mapping[str, str] | None = None) -> bytes:
    """The same safetensors file with its notes in alphabetical order.

    stored: key -> the dtype that its entry shall name, of arrays that NumPy knows only as words of as many bits.

    safetensors writes them in another order every time (0.8.0: a hash table of its own seed), so one content had many
    files.  The tensors' entries and bytes stay as they are, and so does their alignment to 8 bytes.
    """
    length = int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH : _LENGTH + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    for key, dtype in (stored or {}).items():
        header[key]["dtype"] = dtype
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + data[_LENGTH + length :]
