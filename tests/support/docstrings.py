"""Docstrings as this project writes them, turned into reStructuredText for the page of the public interface.

Paragraphs stay paragraphs.  What is indented is a formula, and stays as it is.  A line `x, y: text`, with what is
indented under it, is an item of a list.  A paragraph that begins with `>>>` is an example.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = tuple(sorted([*(ROOT / "sora_ref").glob("*.py"), *(ROOT / "sora_ref/bounds").glob("*.py")]))

_ITEM = re.compile(r"(?P<names>[^\W\d]\w*(?:, [^\W\d]\w*)*):\s+(?P<text>\S.*)")
_NO_ITEM = {"Deviation", "Source"}
_COLUMN = re.compile(r"\s{3,}(?=[^\W\d]\w*:\s)")  # several items in a line, side by side
_LITERAL = re.compile(r"``[^`]+``|`(?P<name>[^`]+)`")
_SPECIAL = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")


def documented(path: Path) -> Iterator[tuple[ast.stmt | None, str, str, int]]:
    """Whatever a module documents: the statement (None: the module itself), its name, the docstring, the line.

    Functions and classes have a docstring of their own; that of a value stands under its assignment.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for before, node in zip([None, *body], body, strict=False):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node, node.name, ast.get_docstring(node) or "", node.lineno
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            named = before.targets[0] if isinstance(before, ast.Assign) else getattr(before, "target", None)
            yield before, "" if named is None else ast.unparse(named), node.value.value, node.lineno


def of_values() -> dict[str, str]:
    """The docstrings of the specification's values, by name."""
    values = (ast.Assign, ast.AnnAssign)
    return {name: text for path in FILES for node, name, text, _ in documented(path) if isinstance(node, values)}


def restructured(lines: Sequence[str], known: Collection[str]) -> list[str]:
    """The docstring in reStructuredText; a literal that is one of the names in `known` becomes a reference to it."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent("\n".join(lines)).strip("\n"))
    return [line for paragraph in paragraphs for line in (*_block(paragraph, known), "")]


def _block(paragraph: str, known: Collection[str]) -> Iterator[str]:
    if paragraph.startswith(">>>"):
        yield from (".. code-block:: pycon", "", *textwrap.indent(paragraph, "   ").splitlines())
    elif all(line.startswith("    ") for line in paragraph.splitlines()):
        yield from ("::", "", *textwrap.indent(textwrap.dedent(paragraph), "   ").splitlines())
    else:
        yield from _text(paragraph.splitlines(), known)


def _text(lines: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """Lines of running text, and lists where items stand among them."""
    listed = False
    for line in (part for whole in lines for part in _COLUMN.split(whole)):
        item = _ITEM.fullmatch(line)
        if item and item["names"] not in _NO_ITEM:
            if not listed:
                yield ""
            names = ", ".join(f"``{name}``" for name in item["names"].split(", "))
            yield f"- {names}: {_inline(item['text'], known)}"
            listed = True
        elif listed and line.startswith(" "):
            yield f"  {_inline(line.strip(), known)}"
        else:
            if listed:
                yield ""
            yield _inline(line.strip(), known)
            listed = False


def _inline(text: str, known: Collection[str]) -> str:
    """Running text with its literals marked, and with every other character meant as itself."""
    parts, end = [], 0
    for found in _LITERAL.finditer(text):
        name = found["name"]
        literal = found[0] if name is None else f":py:obj:`~sora_ref.{name}`" if name in known else f"``{name}``"
        parts += [_SPECIAL.sub(r"\\\g<0>", text[end : found.start()]), literal]
        end = found.end()
    return "".join([*parts, _SPECIAL.sub(r"\\\g<0>", text[end:])])
