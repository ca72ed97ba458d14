"""From a clause to its source, its functions, its tests and the strength of its evidence, all read from the files.

A clause is an item of docs/spec.md that begins with its id in bold.  A function belongs to it when its docstring cites
the id; a test when one of the five marks of evidence names the id: `@pytest.mark.exact("SORA-PROX-1")`.  Of these the
clause links one each: the function that does what it says, and its law, the test that states it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STRENGTHS = ("proved", "exact", "bounded", "independent", "measured")
ID = re.compile(r"SORA-[A-Z]+-\d+")
_FUNCTION = re.compile(r"\*Function:\* \[`(?P<name>[\w.]+)`\]\(\.\./sora_ref/(?P<module>[\w/]+)\.py\)")
_LAW = re.compile(r"\*Law:\* \[(?P<law>[a-z0-9 ]+)\]\(\.\./(?P<file>tests/[\w/]+\.py)\)")
_ITEM = re.compile(r"^- \*\*(?P<ids>SORA-[A-Z]+-\d+)\.\*\*(?P<text>.*(?:\n(?:  .*)?)*)", re.MULTILINE)


@dataclass(frozen=True)
class Clause:
    """One clause as docs/spec.md has it; `source` is what follows *Source:*, empty where that is missing.

    function, law: as `functions` and `evidence` call what the clause links, empty where it links none.
    """

    id: str
    statement: str
    source: str
    function: str = ""
    law: str = ""


@dataclass(frozen=True)
class Evidence:
    """One test and what it bears on: its strengths, and the clauses each of them names."""

    test: str
    strengths: Mapping[str, tuple[str, ...]]


def clauses(text: str | None = None) -> dict[str, Clause]:
    """The clauses of docs/spec.md in their order; ValueError for an id given twice."""
    found: dict[str, Clause] = {}
    for item in _ITEM.finditer(_read("docs/spec.md") if text is None else text):
        body = " ".join(item["text"].split())
        statement, _, source = body.partition("*Source:*")
        if item["ids"] in found:
            raise ValueError(f"clause {item['ids']} stands twice")
        source = re.split(r"\*(?:Deviation|Function)", source)[0].strip()
        function, law = _FUNCTION.search(body), _LAW.search(body)
        found[item["ids"]] = Clause(
            item["ids"],
            statement.strip(),
            source,
            "" if function is None else f"{function['module'].replace('/', '.')}.{function['name']}",
            "" if law is None else f"{law['file']}::test_{law['law'].replace(' ', '_')}",
        )
    return found


def functions() -> dict[str, list[str]]:
    """By clause, the functions and classes whose docstrings cite it: `linear.sora_linear_forward`.

    The specification's own first, then those of the models; what a module as a whole says counts for nothing.
    """
    found: dict[str, list[str]] = {}
    for folder, prefix in (("sora_ref", ""), ("sora_ref/bounds", "bounds."), ("models", "models.")):
        for path in sorted((ROOT / folder).glob("*.py")):
            for name, node in _documented(ast.parse(path.read_text(encoding="utf-8")), prefix + path.stem):
                for clause in dict.fromkeys(ID.findall(ast.get_docstring(node) or "")):
                    found.setdefault(clause, []).append(name)
    return found


def evidence() -> list[Evidence]:
    """Every test function that carries a mark of evidence, by file and name."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                marks = _marks(node.decorator_list)
                if marks:
                    found.append(Evidence(f"{path.relative_to(ROOT)}::{node.name}", marks))
    return found


def tests_of(clause: str, given: Sequence[Evidence]) -> dict[str, list[str]]:
    """By strength, the tests that bear on this clause; strongest first."""
    found = {s: [e.test for e in given if clause in e.strengths.get(s, ())] for s in STRENGTHS}
    return {strength: tests for strength, tests in found.items() if tests}


def lacks(clause: Clause, cited: Mapping[str, Sequence[str]], given: Sequence[Evidence]) -> list[str]:
    """What this clause has not got: statement, source, a function that cites it, a test that is marked, its law.

    The function and the law are those that it links, and have to be among the functions and the tests.
    """
    tests = tests_of(clause.id, given)
    parts = {
        "statement": clause.statement,
        "source": clause.source,
        "function": clause.function in cited.get(clause.id, ()),
        "test": tests,
        "law": any(clause.law in named for named in tests.values()),
    }
    return [name for name, part in parts.items() if not part]


def unknown(text: str, known: Container[str]) -> list[str]:
    """The ids cited in a text that are no clause."""
    return [clause for clause in dict.fromkeys(ID.findall(text)) if clause not in known]


def counts() -> dict[str, int]:
    """How many test functions carry each mark, with a clause or without; strongest first."""
    marked = evidence()
    return {strength: sum(strength in test.strengths for test in marked) for strength in STRENGTHS}


def table() -> str:
    """The traceability table in Markdown: a row a clause, its law, its strongest evidence, how many tests there are."""
    cited, marked = functions(), evidence()
    lines = ["| clause | source | functions | law | strongest | tests |", "|---|---|---|---|---|---|"]
    for clause in clauses().values():
        names = ", ".join(f"`{name}`" for name in cited.get(clause.id, ()))
        found = tests_of(clause.id, marked)
        numbers = ", ".join(f"{len(tests)} {strength}" for strength, tests in found.items())
        law = law_of(clause.law)
        cells = (clause.id, clause.source.removesuffix("."), names, law, next(iter(found), "none"), numbers)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def law_of(test: str) -> str:
    """The law that a test is named after."""
    return test.partition("::test_")[2].replace("_", " ")


def laws() -> str:
    """Each law that a clause links, in Markdown: whose it is, where it stands, and its text."""
    by_law: dict[str, list[str]] = {}
    for clause in clauses().values():
        by_law.setdefault(clause.law, []).append(clause.id)
    return "\n\n".join(
        f'<a id="{anchor(test)}"></a>**{law_of(test)}** ({", ".join(ids)}; `{test.partition("::")[0]}`)\n\n'
        f"```python\n{_text_of(test)}\n```"
        for test, ids in by_law.items()
    )


def anchor(test: str) -> str:
    """Where the page of laws has this test."""
    return test.partition("::test_")[2].replace("_", "-")


def _text_of(test: str) -> str:
    """A test function as it is written, decorators included."""
    file, _, name = test.partition("::")
    text = _read(file)
    (node,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def listing() -> str:
    """Behind the table: of each clause the laws that are tested, by strength and file, in Markdown."""
    marked, lines = evidence(), []
    for clause in clauses():
        lines.append(f"- {clause}")
        for strength, tests in tests_of(clause, marked).items():
            lines.append(f"  - **{strength}** {_listed(tests)}")
    return "\n".join(lines)


def _listed(tests: Sequence[str]) -> str:
    """Tests as the laws they are named after, by file: `tests/test_prox.py`: law, law."""
    by_file: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition("::")
        by_file.setdefault(file, []).append(name.removeprefix("test_").replace("_", " "))
    return "; ".join(f"`{file}`: {', '.join(names)}" for file, names in by_file.items())


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f"{module}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{module}.{node.name}.{m.name}", m) for m in node.body if isinstance(m, ast.FunctionDef))


def _marks(decorators: Sequence[ast.expr]) -> dict[str, tuple[str, ...]]:
    """By strength, the ids of all marks of that strength."""
    found: dict[str, tuple[str, ...]] = {}
    for decorator in decorators:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        mark = ast.unparse(call).removeprefix("pytest.mark.")
        if mark in STRENGTHS:
            arguments = decorator.args if isinstance(decorator, ast.Call) else []
            named = (*found.get(mark, ()), *(ast.literal_eval(argument) for argument in arguments))
            found[mark] = tuple(dict.fromkeys(named))
    return found


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
