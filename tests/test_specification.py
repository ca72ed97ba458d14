"""The specification's extent: how long it is, and that it knows SoRA alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "sora_ref").glob("*.py"))}
BOUNDS = {f"bounds/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "sora_ref/bounds").glob("*.py")}
NO_CLAUSE = {"__init__.py", "__main__.py", "public.py", "version.py"}  # public names, the door to the command line
MOST = 1_300

# Architectures and their parts, other methods, kernels and what they run on: each has a room of its own.
FOREIGN = (
    *("bert", "roberta", "distilbert", "deberta", "llama", "encoder", "decoder", "attention", "layernorm"),
    *("adalora", "houlsby", "bitfit", "dora", "peft"),
    *("kernel", "kernels", "cuda", "cupy", "numba", "gpu"),
)
# LoRA is the plain form that is left of an adapter whose gates are absorbed: a result of pruning, not a method.
LORA = {"pruning.py": "LoRA", "init.py": "LoRA", "public.py": "LoRA"}


def examples(text: str) -> int:
    """Lines of the examples in docstrings, with what they print."""
    count, inside = 0, False
    for line in map(str.strip, text.splitlines()):
        inside = line.startswith(">>>") or (inside and line not in ("", '"""'))
        count += inside
    return count


def words(text: str) -> set[str]:
    """The words of a file, identifiers taken apart at underscores, in lower case."""
    return {word for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def foreign(text: str) -> list[str]:
    return sorted(words(text) & set(FOREIGN))


def test_it_can_be_read_in_one_sitting() -> None:
    """Lines with something on them, but for the examples, which test_public executes."""
    lines = {name: sum(map(bool, map(str.strip, text.splitlines()))) - examples(text) for name, text in FILES.items()}
    assert sum(count for name, count in lines.items() if name not in NO_CLAUSE) <= MOST, lines


@pytest.mark.parametrize("name", [*FILES, *BOUNDS])
def test_it_names_no_architecture_no_other_method_and_no_kernel(name: str) -> None:
    text = (FILES | BOUNDS)[name]
    if name == "__init__.py":  # its docstring says where the other rooms are
        text = text.partition("from sora_ref")[2]
    assert foreign(text) == []
    assert ("lora" in words(text)) <= (name in LORA)


def test_a_foreign_word_is_noticed_wherever_it_stands() -> None:
    assert foreign('if "LayerNorm" in name:  # BERT\n    return cuda_launch()') == ["bert", "cuda", "layernorm"]
    assert foreign("a bertolt is no model") == []


def test_examples_are_not_counted() -> None:
    assert examples('"""f.\n\n    >>> f(1)\n    2\n    >>> g(\n    ...     1)\n    3\n    """\n    return 1\n') == 5
