"""Every clause has a statement, a source, a function, a test and a strength; nothing cites a clause that is none."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest
import traceability
from traceability import ROOT, STRENGTHS

CLAUSES = traceability.clauses()
CITED = traceability.functions()
MARKED = traceability.evidence()


def test_the_specification_is_read_as_it_is_written() -> None:
    text = (ROOT / "docs/spec.md").read_text(encoding="utf-8")
    assert set(CLAUSES) == set(re.findall(r"\*\*(SORA-[A-Z]+-\d+)", text))
    assert {"SORA-LINEAR-1", "SORA-PROX-2", "SORA-BOUND-3"} <= set(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES)
def test_clause_lacks_nothing(clause: str) -> None:
    assert traceability.lacks(CLAUSES[clause], CITED, MARKED) == []


@pytest.mark.parametrize("folder", ["sora_ref", "backends", "models", "tests", "docs"])
def test_nothing_cites_a_clause_that_is_none(folder: str) -> None:
    files = [
        path for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}") if path.stem != "test_traceability"
    ]
    found = {str(path): traceability.unknown(path.read_text(encoding="utf-8"), CLAUSES) for path in files}
    assert {name: ids for name, ids in found.items() if ids} == {}


def test_marks_name_clauses_and_nothing_else() -> None:
    found = {e.test: [c for named in e.strengths.values() for c in named if c not in CLAUSES] for e in MARKED}
    assert {test: names for test, names in found.items() if names} == {}


@pytest.mark.parametrize("test", [e.test for e in MARKED if "proved" in e.strengths])
def test_every_proof_has_a_control_that_is_refuted(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (body,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    called = {ast.unparse(node.func) for node in ast.walk(body) if isinstance(node, ast.Call)}
    assert {"prove", "refute"} <= called


def test_whatever_a_clause_lacks_is_noticed() -> None:
    whole = traceability.Clause("SORA-X-1", "One.", "eq. 1.", "module.function", "tests/test_x.py::test_one")
    cited = {"SORA-X-1": ["module.function"]}
    marked = [traceability.Evidence("tests/test_x.py::test_one", {"exact": ("SORA-X-1",)})]
    assert traceability.lacks(whole, cited, marked) == []
    assert traceability.lacks(replace(whole, statement=""), cited, marked) == ["statement"]
    assert traceability.lacks(replace(whole, source=""), cited, marked) == ["source"]
    assert traceability.lacks(whole, {"SORA-X-2": ["module.function"]}, marked) == ["function"]
    assert traceability.lacks(whole, cited, [replace(marked[0], strengths={"exact": ()})]) == ["test", "law"]
    assert traceability.lacks(replace(whole, function="module.other"), cited, marked) == ["function"]
    assert traceability.lacks(replace(whole, law="tests/test_x.py::test_two"), cited, marked) == ["law"]
    assert traceability.unknown("as SORA-X-1 says, and SORA-X-2, and SORA-X-21", cited) == ["SORA-X-2", "SORA-X-21"]


def test_a_clause_without_source_or_twice_is_noticed() -> None:
    found = traceability.clauses(
        "- **SORA-X-1.** One.\n  More.  *Source:* eq. 1.  *Deviation:* none.\n  *Function:* [`f`](../sora_ref/a/b.py)."
        "  *Law:* [one is one](../tests/test_x.py).\n- **SORA-X-2.** Two.\n"
    )
    assert list(found.values()) == [
        traceability.Clause("SORA-X-1", "One. More.", "eq. 1.", "a.b.f", "tests/test_x.py::test_one_is_one"),
        traceability.Clause("SORA-X-2", "Two.", ""),
    ]
    with pytest.raises(ValueError, match="SORA-X-1 stands twice"):
        traceability.clauses("- **SORA-X-1.** One.\n- **SORA-X-1.** Two.\n")


def test_the_table_has_a_row_for_every_clause_and_the_listing_every_test_of_one() -> None:
    rows = [row.strip("| ").split(" | ") for row in traceability.table().splitlines()[2:]]
    assert [row[0] for row in rows] == list(CLAUSES)
    assert {len(row) for row in rows} == {6}
    assert {row[4] for row in rows} <= set(STRENGTHS)
    listing = traceability.listing()
    laws = [e.test.partition("::test_")[2].replace("_", " ") for e in MARKED if any(e.strengths.values())]
    assert [law for law in laws if law not in listing] == []


def test_the_page_of_laws_has_every_law_with_its_text() -> None:
    page = traceability.laws()
    for clause in CLAUSES.values():
        assert f'<a id="{traceability.anchor(clause.law)}"></a>' in page
        assert f"def {clause.law.partition('::')[2]}(" in page


def test_counts_are_of_test_functions_by_strength() -> None:
    assert list(traceability.counts()) == list(STRENGTHS)
    assert sum(traceability.counts().values()) == sum(len(e.strengths) for e in MARKED)
