"""Sealed files: tensors and facts in one safetensors file, with a digest over all of them.

The digest stands among the file's notes.  It is sha256 over the notes and over every tensor's name, dtype, shape and
bytes, so a file that was changed in any of them is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.errors import printable, shown
from sora_ref.preconditions import require
from sora_ref.storage.documents import decode_json
from sora_ref.storage.tensors import open_tensors, tensor_bytes

_DIGEST = "sha256"


def sealed_bytes(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """A sealed file with these float32 or float64 tensors and these facts, which JSON can hold."""
    notes = {key: json.dumps(value) for key, value in facts.items()}
    return tensor_bytes(tensors, notes | {_DIGEST: digest(tensors, notes)})


def read_sealed(path: Path, expected: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the facts that `sealed_bytes` was given, bit for bit.

    Raises SoRAError, "…: expected {expected}", where the file is missing, truncated, changed or not a sealed one.
    """
    where = printable(str(path))
    with open_tensors(path, expected) as file:
        notes = dict(file.metadata)
        stored = notes.pop(_DIGEST, None)
        require(stored is not None, f"{where}: no {_DIGEST} in its metadata: expected {expected}")
        for key in file.entries:
            file.require_floats(key, ("F64", "F32"))
        tensors = {key: file.read(key) for key in file.entries}
    right = stored == digest(tensors, notes)
    require(right, f"{where}: damaged, its {_DIGEST} does not match its contents: expected {expected}")
    facts = {
        key: decode_json(value, Any, f"{where}: {shown(key)} of its metadata", expected) for key, value in notes.items()
    }
    return tensors, facts


def digest(tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    """sha256 over the notes and over each tensor's name, dtype, shape and bytes, in the order of the names."""
    seen = hashlib.sha256(json.dumps(dict(sorted(notes.items()))).encode())
    for name, array in sorted(tensors.items()):
        seen.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()
