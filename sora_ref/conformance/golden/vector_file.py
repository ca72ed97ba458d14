"""The files of the golden vectors: how cases and tensors are written down, to the last byte."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from sora_ref import SPEC_VERSION
from sora_ref.conformance.checks.catalogue import all_checks
from sora_ref.conformance.golden.values import Expected
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan

FORMAT_VERSION = 1  # of the files' layout; the cases have the version of the specification
FOLDER = files("sora_ref.conformance.golden")
MANIFEST, TENSORS, SCHEMA = "cases.json", "cases.safetensors", "cases.schema.json"
_CODES = {"float64": "F64", "float32": "F32", "bool": "BOOL"}


class VectorFile:
    """The cases as they are written down, and the tensors they name; equal tensors are stored once."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.tensors: dict[str, Floats] = {}
        self._since = {check.id: check.since for check in all_checks()}

    def add(
        self,
        name: str,
        check: str,
        capability: str,
        dtype: str | None,
        about: str,
        arguments: Mapping[str, Any],
        expected: Mapping[str, Expected | int] | None = None,
        *,
        must_refuse: str = "",
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        """One case.  Arrays among the arguments become tensors, layers and plans their parts, the rest settings."""
        id = name if dtype is None else f"{name}/{dtype}"
        tensors, settings = {}, {}
        for key, value in _parts(arguments):
            if isinstance(value, np.ndarray):
                tensors[key] = self._tensor(value)
            else:
                settings[key] = as_json(value)
        case: dict[str, Any] = {"id": id, "check": check, "since": self._since[check], "about": about}
        case |= {"capability": capability, "dtype": dtype, "tensors": tensors, "settings": settings}
        if choices:
            case["choices"] = choices
        if must_refuse:
            case["must_refuse"] = must_refuse
        else:
            case["expected"] = {key: self._expected(each) for key, each in (expected or {}).items()}
        self.cases.append(case)

    def contents(self) -> dict[str, bytes]:
        """The files by name."""
        tensors = safetensors(self.tensors)
        head = {
            "$schema": SCHEMA,
            "format_version": FORMAT_VERSION,
            "spec_version": SPEC_VERSION,
            "tensors": TENSORS,
            "sha256": hashlib.sha256(tensors).hexdigest(),
        }
        lines = ",\n".join(_json(case) for case in sorted(self.cases, key=lambda case: str(case["id"])))
        manifest = f'{_json(head)[:-1]}, "cases": [\n{lines}\n]}}\n'
        return {MANIFEST: manifest.encode(), TENSORS: tensors, SCHEMA: (FOLDER / SCHEMA).read_bytes()}

    def _expected(self, expected: Expected | int) -> Any:
        if isinstance(expected, int):
            return {"exactly": expected}
        return {part: self._tensor(array) for part, array in expected.items()}

    def _tensor(self, array: Floats) -> str:
        """The tensor's name, which says what is in it, so that equal ones are one and others leave it as it is."""
        kind = f"{_CODES[array.dtype.name]} {array.shape} ".encode()
        name = hashlib.sha256(kind + _bytes(array)).hexdigest()[:8]
        known = self.tensors.setdefault(name, array)
        assert (known.shape, _bytes(known)) == (array.shape, _bytes(array)), "eight digits are too few"
        return name


def _parts(arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Layers and plans taken apart, lists of arrays numbered; a bias that is None is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in arguments.items():
        if isinstance(value, Layer):
            prefix = "" if key == "layer" else f"{key}/"
            found += [(prefix + name, part) for name, part in value._asdict().items() if part is not None]
        elif isinstance(value, Plan):
            found += list(vars(value).items())
        elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            found += [(f"{key}/{k}", part) for k, part in enumerate(value)]
        else:
            found.append((key, value))
    return found


def as_json(value: Any) -> Any:
    """As JSON has it: what is not finite by its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity"
    return list(value) if isinstance(value, tuple) else value


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def safetensors(tensors: Mapping[str, Floats]) -> bytes:
    """The format itself, so that no library's order of keys decides: wider numbers first, then by name."""
    header: dict[str, Any] = {"__metadata__": {"format_version": str(FORMAT_VERSION)}}
    data = b""
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        array = tensors[name]
        content = _bytes(array)
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _bytes(array: Floats) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
