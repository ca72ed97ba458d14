"""safetensors files: a model's weights, and checkpoints, whose digest may be right while their contents are not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from sora_ref.run.inspect import inspect_path
from sora_ref.run.trained import load_trained
from sora_ref.storage.sealed import sealed_bytes
from tests.soak.fuzz import octets, trees
from tests.soak.fuzz.documents import model_folder, read_model, train_it
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.ground import Ground

_LENGTH = 8


def safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, another length of it, other numbers, or other bytes."""
    length = int.from_bytes(data[:_LENGTH], "little")
    try:
        header = json.loads(data[_LENGTH : _LENGTH + length])
    except (ValueError, RecursionError):
        return octets.damaged(rng, data)
    rest = data[_LENGTH + length :]
    match rng.randrange(12):
        case 0:
            return octets.damaged(rng, data)
        case 1:
            wrong = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
            return wrong.to_bytes(_LENGTH, "little") + data[_LENGTH:]
        case 2 | 3 | 4:  # numbers that are none
            word = rng.choice((b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"))
            at = 4 * rng.randrange(max(len(rest) // 4, 1))
            rest = rest[:at] + word + rest[at + 4 :]
        case 5 | 6:
            header = trees.changed(rng, header)
        case _:
            header = _retold(rng, header)
    text = trees.to_json(header)
    return len(text).to_bytes(_LENGTH, "little") + text + rest


def _retold(rng: random.Random, header: Any) -> Any:
    """The same bytes told to be something else: another dtype, shape or name, so that the file is sound."""
    keys = [key for key in header if key != "__metadata__"] if isinstance(header, dict) else []
    if not keys:
        return header
    key = rng.choice(keys)
    entry = dict(header[key]) if isinstance(header[key], dict) else {}
    shape = entry.get("shape")
    size = int(np.prod([n for n in shape if isinstance(n, int)], dtype=object)) if isinstance(shape, list) else 1
    match rng.randrange(6):
        case 0:
            entry["dtype"] = rng.choice(("I32", "U32", "F32"))
        case 1:
            entry |= {"dtype": rng.choice(("F16", "BF16", "I16")), "shape": [2 * size]}
        case 2:
            entry |= {"dtype": rng.choice(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2")), "shape": [4 * size]}
        case 3:
            entry["shape"] = rng.choice(([size], [1, size], [size, 1], [1] * 40 + [size], [1] * 70 + [size]))
        case 4:
            entry |= {"shape": rng.choice(([0], [0, 2**62], [2**40, 0])), "data_offsets": [0, 0]}
        case _:
            name = rng.choice(
                (f"bert.{key}", f"{key}.weight", key.replace("0", "9"), key.replace("weight", "gamma"), "")
            )
            return {name if other == key else other: value for other, value in header.items()}
    return {**header, key: entry}


def sealed(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint whose digest is right, with other facts, names, shapes or numbers in it."""
    length = int.from_bytes(data[:_LENGTH], "little")
    try:
        notes = json.loads(data[_LENGTH : _LENGTH + length])["__metadata__"]
        facts = {key: json.loads(value) for key, value in notes.items() if key != "sha256"}
        tensors: dict[str, np.ndarray] = dict(load(data))
        if rng.random() < 0.5:
            changed = trees.changed(rng, facts)
            facts = changed if isinstance(changed, dict) and all(isinstance(key, str) for key in changed) else facts
        else:
            tensors = _other(rng, tensors)
        return sealed_bytes(tensors, facts)
    except Exception:  # safetensors has many ways not to write what nobody should
        return octets.damaged(rng, data)


def _other(rng: random.Random, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    name = rng.choice(sorted(tensors))
    array = tensors[name]
    rest = {key: value for key, value in tensors.items() if key != name}
    match rng.randrange(7):
        case 0:
            return rest
        case 1:
            return tensors | {
                rng.choice(("x", f"{name}.x", "params/", "m/a", "v/a", "\x1b[2J", "params/classifier.x")): array
            }
        case 2:
            return rest | {
                rng.choice((name.replace("0", "7"), name[1:], name.replace("/", "."), "params/a.sora_A")): array
            }
        case 3:
            ways: list[Callable[[], np.ndarray]] = [
                lambda: array[:0],
                lambda: array.reshape(-1),
                lambda: array[None],
                lambda: np.ascontiguousarray(array.T),
                lambda: np.concatenate([array, array]),
                lambda: array.sum(),
            ]
            return rest | {name: np.asarray(rng.choice(ways)())}
        case 4:
            return rest | {name: array.astype(rng.choice(("float64", "float16", "int64", "int8", "bool", "complex64")))}
        case 5:
            wrong = array.copy()
            wrong.reshape(-1)[: 1 + rng.randrange(max(array.size, 1))] = rng.choice((np.nan, np.inf, -np.inf, 1e38, 0))
            return rest | {name: wrong}
        case _:
            other = rng.choice(sorted(tensors))
            return tensors | {name: tensors[other], other: array}


def _damage_weights(rng: random.Random, files: Files) -> Files:
    return {"model.safetensors": some(rng, files["model.safetensors"], safetensors)}


def _run_folder(ground: Ground) -> Path:
    return ground.wholes["train"].folder


def _damage_checkpoint(rng: random.Random, files: Files) -> Files:
    name = max(name for name in files if name.startswith("checkpoints/"))
    return {name: some(rng, files[name], sealed if rng.random() < 0.8 else safetensors)}


def _read_checkpoint(folder: Path) -> Any:
    return inspect_path(folder), load_trained(folder)


def _predict(folder: Path, out: Path) -> list[str]:
    return ["predict", str(folder), "a good film", "--json", "--quiet"]


FORMATS = (
    Format("weights", model_folder, _damage_weights, read_model, slice=80, console=train_it),
    Format("checkpoint", _run_folder, _damage_checkpoint, _read_checkpoint, slice=80, console=_predict),
)
