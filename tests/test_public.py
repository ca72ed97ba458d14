"""The public face: what `import sora_ref as sr` gives, and the example that stands in every docstring of it."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from docstrings import FILES, documented, restructured

import sora_ref as sr

ROOT = Path(__file__).resolve().parents[1]
NAMESPACES = {"bounds": sr.bounds, "schedules": sr.schedules}
UNEXECUTED = {"BF16", "FP16", "TF32"}  # precisions, which the example of `Precision` shows


EXAMPLES = {
    f"{path.stem}.{name}": (text, path, line)
    for path in FILES
    for _, name, text, line in documented(path)
    if ">>>" in text
}


def public() -> Iterator[str]:
    """Every public name, those of the namespaces after their module."""
    for name in sr.__all__:
        if name not in NAMESPACES:
            yield name
    yield from (name for name in sr.bounds.__all__ if name not in UNEXECUTED)
    schedules = ast.parse((ROOT / "sora_ref/schedules.py").read_text(encoding="utf-8")).body
    yield from (node.name for node in schedules if isinstance(node, ast.FunctionDef) and node.name[0] != "_")


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_in_a_docstring_prints_what_stands_under_it(example: str) -> None:
    text, path, line = EXAMPLES[example]
    given = {"np": np, "sr": sr}
    case = doctest.DocTestParser().get_doctest(text, given, example, str(path), line)
    printed: list[str] = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(case, out=printed.append)
    assert (failed, bool(tried)) == (0, True), "".join(printed)


def test_every_public_name_has_an_example() -> None:
    shown = {example.rpartition(".")[2] for example in EXAMPLES}
    assert sorted(set(public()) - shown) == []


def test_public_names_are_sorted_few_and_there() -> None:
    assert len(sr.__all__) == len(set(sr.__all__)) <= 55
    assert [name for name in sr.__all__ if not hasattr(sr, name)] == []
    assert sr.__all__ == sorted(sr.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    loaded = {name for name, value in vars(sr).items() if not isinstance(value, ModuleType) and name[0] != "_"}
    assert loaded == set(sr.__all__) - set(NAMESPACES)


def test_every_array_function_says_its_errors_or_has_none() -> None:
    """A function of the public face that refuses something says so: it, or its docstring, names SoRAError."""
    silent = []
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name in set(public()):
                calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
                refuses = any(call.startswith(("require", "_check")) for call in calls)
                if refuses and "SoRAError" not in (ast.get_docstring(node) or ""):
                    silent.append(f"{path.stem}.{node.name}")
    assert silent == []


def test_the_readme_shows_what_it_says() -> None:
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    given: dict[str, Any] = {}
    exec(code, given)
    assert given["kept"] == (0,)
    assert given["smaller"].rank == 1
    assert not given["grads"].dA[1].any()
    assert given["grads"].dg[1] != 0
    assert given["adapter"].g[1] != 0


def test_types_are_shipped() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert (ROOT / "sora_ref/py.typed").is_file()
    assert setuptools["package-data"]["sora_ref"] == ["py.typed"]


def test_the_page_of_the_interface_has_every_public_name_once() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    entry = re.compile(r"^\.\. auto(?:function|class|data):: sora_ref\.(?:\w+\.)?(\w+)(?:\((.*)\))?$", re.MULTILINE)
    entries = entry.findall(page)
    assert sorted(name for name, _ in entries) == sorted({*public(), *UNEXECUTED})
    for name, written in entries:  # a signature is written out where the defaults' own text would be long
        if written:
            assert re.findall(r"(?:^|, )(\w+)", written) == list(inspect.signature(getattr(sr, name)).parameters)


def test_docstrings_become_lists_formulas_examples_and_references() -> None:
    text = """What f does, g_i included: in_ and a*b.

        y = x Aᵀ

    x:    (n, in), any `dtype`; see
          `soft_threshold`.
    a, b: numbers.        c: another.
    Raises SoRAError.  Deviation: ``none``.

    >>> f(1)
    2
"""
    assert restructured(
        text.splitlines()[:1] + textwrap.dedent(text.partition("\n")[2]).splitlines(), ["soft_threshold"]
    ) == [
        r"What f does, g_i included: in\_ and a\*b.",
        "",
        "::",
        "",
        "   y = x Aᵀ",
        "",
        "",
        "- ``x``: (n, in), any ``dtype``; see",
        "  :py:obj:`~sora_ref.soft_threshold`.",
        "- ``a``, ``b``: numbers.",
        "- ``c``: another.",
        "",
        "Raises SoRAError.  Deviation: ``none``.",
        "",
        ".. code-block:: pycon",
        "",
        "   >>> f(1)",
        "   2",
        "",
    ]
