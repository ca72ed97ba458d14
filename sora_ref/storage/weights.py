"""safetensors files as bytes: from C-contiguous arrays only, and the same bytes for the same contents."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from sora_ref.storage.half import HALVES, words

_LENGTH = 8  # bytes of the header's length, little-endian, in front of it


def to_bytes(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], dtypes: Mapping[str, str] | None = None
) -> bytes:
    """A safetensors file with these float32 or float64 arrays, and `format` pt.

    dtypes: key -> float16 or bfloat16, of arrays that hold numbers of that format and are stored in it.

    safetensors 0.8.0 writes the memory of an array as it lies, so one that is not C-contiguous comes back scrambled
    (safetensors#825); `(B[:, kept]) * g[kept]` is such an array.
    """
    from safetensors.numpy import save

    whole, stored = {}, {}
    for key, array in arrays.items():
        half = HALVES.get((dtypes or {}).get(key, ""))
        whole[key] = np.ascontiguousarray(array) if half is None else words(array, half)
        if half is not None:
            stored[key] = half.stored
    return canonical(save(whole, {"format": "pt", **metadata}), stored)


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
