"""Read back, and compared bit for bit with what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sora_ref.peft.load import read_adapter
from sora_ref.preconditions import require
from sora_ref.pruning import LoRA

_EPS = float(np.finfo(np.float64).eps)


class Comparison(NamedTuple):
    """A folder on the disk beside what was meant to be in it.

    tensors:         how many were compared; each has the same dtype, shape and bits, or the comparison fails.
    max_abs_diff:    the largest difference of two entries, 0.
    max_scale_error: the largest |α_i/r_i − s_i| / |s_i|; both roundings of α = s·r and α/r allow 2⁻⁵².
    """

    tensors: int
    max_abs_diff: float
    max_scale_error: float


def compare_with_disk(
    folder: Path, files: Mapping[str, bytes], loras: Mapping[str, LoRA], saved: Mapping[str, np.ndarray]
) -> Comparison:
    """Reads `folder` as anybody's PEFT adapter and compares; SoRAError, naming file or tensor, where it differs.

    files: the bytes of each file.  loras, saved: what `read_adapter` has to find.
    """
    for name, data in files.items():
        require(
            (folder / name).read_bytes() == data, f"{folder / name} differs from what was written: is the disk sound?"
        )
    read = read_adapter(folder)
    meant, found = _tensors(loras, saved), _tensors(read.loras, read.saved)
    require(meant.keys() == found.keys(), f"{folder} holds {sorted(found)}: expected {sorted(meant)}")
    for name, array in meant.items():
        same = (array.dtype, array.shape, array.tobytes()) == (
            found[name].dtype,
            found[name].shape,
            found[name].tobytes(),
        )
        require(same, f"{folder}: {name} was read back changed: expected it bit for bit")
    errors = [_scale_error(read.loras[module].s, lora.s) for module, lora in loras.items()]
    require(max(errors) <= _EPS, f"{folder}: a scale was read back changed by {max(errors):.1e}")
    return Comparison(len(meant), max(_max_abs_diff(meant[name], found[name]) for name in meant), max(errors))


def _tensors(loras: Mapping[str, LoRA], saved: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    matrices = {f"{module}.{matrix}": getattr(lora, matrix) for module, lora in loras.items() for matrix in ("A", "B")}
    return matrices | dict(saved)


def _max_abs_diff(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def _scale_error(found: float, meant: float) -> float:
    return abs(found - meant) / abs(meant) if meant else abs(found)
