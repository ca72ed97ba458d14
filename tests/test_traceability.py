"""Every clause has a statement, a source, a function, a test and a strength; nothing cites a clause that is none."""

from __future__ import annotations

import re

import pytest
import traceability
from traceability import ID, ROOT, STRENGTHS

CLAUSES = traceability.clauses()
MARKED = traceability.evidence()


def test_the_specification_is_read_as_it_is_written() -> None:
    text = (ROOT / "docs/spec.md").read_text(encoding="utf-8")
    assert set(CLAUSES) == set(re.findall(r"\*\*(SORA-[A-Z]+-\d+)", text))
    assert {"SORA-LINEAR-1", "SORA-PROX-2", "SORA-BOUND-3"} <= set(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES)
def test_clause_lacks_nothing(clause: str) -> None:
    assert CLAUSES[clause].statement, f"{clause} has no statement"
    assert CLAUSES[clause].source, f"{clause} has no source"
    assert traceability.functions().get(clause), f"no docstring cites {clause}"
    assert traceability.tests_of(clause, MARKED), f"no test is marked with {clause}"


@pytest.mark.parametrize("folder", ["sora_ref", "backends", "models", "tests", "docs"])
def test_nothing_cites_a_clause_that_is_none(folder: str) -> None:
    files = [
        path for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}") if path.stem != "test_traceability"
    ]
    cited = {clause: path.name for path in files for clause in ID.findall(path.read_text(encoding="utf-8"))}
    assert {clause: path for clause, path in cited.items() if clause not in CLAUSES} == {}


def test_marks_name_clauses_and_nothing_else() -> None:
    named = {c: e.test for e in MARKED for clauses in e.strengths.values() for c in clauses}
    assert {clause: test for clause, test in named.items() if clause not in CLAUSES} == {}


def test_a_clause_without_source_or_twice_is_noticed() -> None:
    found = traceability.clauses(
        "- **SORA-X-1.** One.\n  More.  *Source:* eq. 1.  *Deviation:* none.\n- **SORA-X-2.** Two.\n"
    )
    assert [(c.id, c.statement, c.source) for c in found.values()] == [
        ("SORA-X-1", "One. More.", "eq. 1."),
        ("SORA-X-2", "Two.", ""),
    ]
    with pytest.raises(ValueError, match="SORA-X-1 stands twice"):
        traceability.clauses("- **SORA-X-1.** One.\n- **SORA-X-1.** Two.\n")


def test_the_table_has_a_row_for_every_clause() -> None:
    rows = traceability.table().splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(CLAUSES)
    assert set(STRENGTHS) >= {s for e in MARKED for s in e.strengths}
