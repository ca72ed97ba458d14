"""Golden vectors as they are read from their files.  docs/vectors.md describes the format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sora_ref.conformance.golden.vector_file import FOLDER, FORMAT_VERSION, MANIFEST
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Case:
    """One call, and what has to come of it.

    id:          unique; the words before the first slash say what it is about.
    check:       of the conformance kit; the clause is what stands before the dot.
    since:       the version of the specification that brought it.
    about:       what is special.
    capability:  the implementation's method that is called.
    dtype:       of all floating-point tensors; None where only Python numbers are concerned.
    arguments:   tensors and settings, by name.
    choices:     what an implementation must have declared for the case to concern it; `Choices` lists them.
    expected:    by name, "value" with "bound" and "zeros" where there are such, or "exactly" with an integer.
    must_refuse: why the call has to fail; empty where it must not.
    """

    id: str
    check: str
    since: str
    about: str
    capability: str
    dtype: str | None
    arguments: Mapping[str, Any]
    choices: Mapping[str, Any]
    expected: Mapping[str, Mapping[str, Any]]
    must_refuse: str

    def __getitem__(self, name: str) -> Any:
        """The argument of this name."""
        return self.arguments[name]

    def layer(self, prefix: str = "") -> Layer:
        """The layer among the arguments, or the one of a module."""
        W0, A, g, B, s = (self[prefix + name] for name in ("W0", "A", "g", "B", "s"))
        return Layer(W0, self.arguments.get(f"{prefix}b"), A, g, B, s)

    def layers(self) -> dict[str, Layer]:
        """Those of all modules, or the only one."""
        return {module: self.layer(f"{module}/") for module in self.arguments.get("modules", ())} or (
            {"": self.layer()} if "A" in self.arguments else {}
        )

    def plan(self) -> Plan:
        """The plan among the arguments."""
        return Plan(tuple(self["lrs"]), self["peak"], self["strength"], self["weight_decay"], self["clip"])

    def numbered(self, name: str) -> list[Floats]:
        """name/0, name/1, …"""
        count = sum(key.startswith(f"{name}/") for key in self.arguments)
        return [self[f"{name}/{k}"] for k in range(count)]


def load_cases(folder: Any = FOLDER) -> list[Case]:
    """The cases in a folder, the package's own by default; SoRAError where the files are not what they should be."""
    from safetensors.numpy import load

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    version = manifest["format_version"]
    require(version == FORMAT_VERSION, f"{MANIFEST} has format {version}: expected {FORMAT_VERSION}")
    content = (folder / manifest["tensors"]).read_bytes()
    intact = hashlib.sha256(content).hexdigest() == manifest["sha256"]
    require(intact, f"{manifest['tensors']} is not the file that {MANIFEST} was written with: expected its SHA-256")
    tensors = load(content)
    return [_case(entry, tensors) for entry in manifest["cases"]]


def _case(entry: Mapping[str, Any], tensors: Mapping[str, Floats]) -> Case:
    settings = {name: _number(value) for name, value in entry["settings"].items()}
    expected = {
        name: {part: tensors[which] if part != "exactly" else which for part, which in parts.items()}
        for name, parts in entry.get("expected", {}).items()
    }
    return Case(
        **{name: entry[name] for name in ("id", "check", "since", "about", "capability", "dtype")},
        arguments=settings | {name: tensors[which] for name, which in entry["tensors"].items()},
        choices=entry.get("choices", {}),
        expected=expected,
        must_refuse=entry.get("must_refuse", ""),
    )


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity") else value
