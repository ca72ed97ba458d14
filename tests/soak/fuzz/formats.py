"""Every format that is read.  A new one belongs in this table."""

from __future__ import annotations

from tests.soak.fuzz import adapters, documents, runs, tables, tensors
from tests.soak.fuzz.format import Format

FORMATS: dict[str, Format] = {
    format.name: format for module in (documents, tensors, tables, adapters, runs) for format in module.FORMATS
}
