"""Every format that is read.  A new one belongs in this table."""

from __future__ import annotations

from tests.soak.fuzz import adapters, byte_level, documents, runs, tables, tensors
from tests.soak.fuzz.format import Format

_MODULES = (documents, byte_level, tensors, tables, adapters, runs)
FORMATS: dict[str, Format] = {format.name: format for module in _MODULES for format in module.FORMATS}
