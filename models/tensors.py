"""safetensors files, read with every failure named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

from sora_ref.errors import SoRAError

_EXACT = {"F64": "<f8", "F32": "<f4"}
_HALF = ("F16", "BF16")


class Tensors(NamedTuple):
    """A file's contents.

    arrays:   by key, in the order of the keys; float64 or float32.
    cast:     key -> stored dtype, of those that were stored in half precision and are float32 here.
    metadata: the file's own notes.
    """

    arrays: dict[str, np.ndarray]
    cast: dict[str, str]
    metadata: dict[str, str]


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda key: True) -> Tensors:
    """The tensors of `path` whose keys are wanted; SoRAError where it is absent, damaged, or one holds no floats."""
    try:
        data = path.read_bytes()
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise SoRAError(f"{path} cannot be read: {error.strerror}: expected tensors") from error
    except SafetensorError as error:
        raise SoRAError(f"{path} is damaged or truncated, no safetensors file: {error}: expected tensors") from error
    entries = sorted((entry for entry in entries if wanted(entry[0])), key=lambda entry: entry[0])
    arrays = {key: _array(path, key, entry) for key, entry in entries}
    cast = {key: entry["dtype"] for key, entry in entries if entry["dtype"] in _HALF}
    return Tensors(arrays, cast, _metadata(data))


def _array(path: Path, key: str, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, data = entry["dtype"], entry["data"]
    flat: np.ndarray
    if dtype in _EXACT:
        flat = np.frombuffer(data, _EXACT[dtype])
    elif dtype == "F16":
        flat = np.frombuffer(data, "<f2").astype(np.float32)
    elif dtype == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        raise SoRAError(f"{path}: {key} is stored as {dtype}: expected F64, F32, F16 or BF16")
    return flat.reshape(tuple(entry["shape"]))


def _metadata(data: bytes) -> dict[str, str]:
    """The header's notes; its length stands in the first 8 bytes, little-endian, and was checked on reading."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata
