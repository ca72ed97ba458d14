"""What counts as a proof that the tests were tested: the judgement on mutmut's results."""

from __future__ import annotations

import ast
import json
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mutant_page import (
    CONTROLS,
    Change,
    Mutant,
    Reason,
    Results,
    Run,
    Verdict,
    faults,
    page,
    read_reasons,
    read_results,
)

SUPPORT = Path(__file__).resolve().parent / "support"
ALIVE = Change("sora_ref/prox.py", "released_penalty", "a <= xi", "a < xi")
KILLED = [Mutant(control, "killed") for control in CONTROLS] * 10
NULLS: dict[tuple[str, str], Verdict] = {(control.file, control.function): "survived" for control in CONTROLS}
FIRST, SECOND = NULLS
WHY = Reason(ALIVE, "at |u| = ξ both branches are 3ξ²/2")

MUTATED = '''
def soft(x, xi=1):
    """T."""
    return x - clip(x, xi)


def x_soft__mutmut_orig(x, xi=1):
    """T."""
    return x - clip(x, xi)


def x_soft__mutmut_1(x, xi=2):
    """T."""
    return x - clip(x, xi)


class Adam:
    def xǁAdamǁupdate__mutmut_orig(self):
        return step(
            self.m,
            self.v,
        )

    def xǁAdamǁupdate__mutmut_1(self):
        return step(
            self.m,
            )
'''


def results(*mutants: Mutant, nulls: dict[tuple[str, str], Verdict] | None = None) -> Results:
    return Results([*KILLED, *mutants], NULLS if nulls is None else nulls)


def test_a_survivor_with_its_reason_is_no_fault() -> None:
    assert faults(results(Mutant(ALIVE, "survived")), [WHY]) == []


@pytest.mark.parametrize(
    ("given", "reasons", "sentence"),
    [
        (results(Mutant(ALIVE, "survived")), [], "survived without a reason"),
        (results(*[Mutant(ALIVE, "survived")] * 2), [WHY], "survived without a reason"),
        (results(Mutant(ALIVE, "killed")), [WHY], "the reason is of no survivor"),
        (results(Mutant(ALIVE, "unclear")), [], "neither killed nor alive"),
        (results(Mutant(ALIVE, "open")), [], "1 mutants have not been run"),
        (results(*[Mutant(ALIVE, "survived")] * 2), [WHY] * 2, "90.91 % were killed: expected at least 95 %"),
        (results(nulls={FIRST: "survived"}), [], "layers.py: nothing that changes nothing"),
        (results(nulls=NULLS | {SECOND: "killed"}), [], "'tanh_backward'): what changes nothing was killed"),
        (results(nulls=NULLS | {FIRST: "open"}), [], "'soft_threshold'): what changes nothing was open"),
    ],
)
def test_what_is_no_proof_is_named(given: Results, reasons: list[Reason], sentence: str) -> None:
    assert any(sentence in fault for fault in faults(given, reasons))


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("verdict", ["survived", "timeout"])
def test_a_control_that_did_not_die_of_a_test_is_a_fault(control: Change, verdict: Verdict) -> None:
    mutants = [Mutant(change, verdict if change == control else "killed") for change, _ in KILLED]
    assert any("the control did not die" in fault for fault in faults(Results(mutants, NULLS), []))


def test_mutants_are_named_by_what_they_change_and_not_by_their_number(tmp_path: Path) -> None:
    folder = tmp_path / "mutants" / "sora_ref"
    folder.mkdir(parents=True)
    (folder / "prox.py").write_text(MUTATED, encoding="utf-8")
    codes = {"x_soft__mutmut_0": 0, "x_soft__mutmut_1": 1, "xǁAdamǁupdate__mutmut_1": -24}
    meta = {"exit_code_by_key": {f"sora_ref.prox.{name}": code for name, code in codes.items()}}
    (folder / "prox.py.meta").write_text(json.dumps(meta), encoding="utf-8")
    found = read_results(tmp_path)
    assert found.nulls == {("sora_ref/prox.py", "soft"): "survived"}
    assert found.mutants == [
        Mutant(Change("sora_ref/prox.py", "soft", "def soft(x, xi=1):", "def soft(x, xi=2):"), "killed"),
        Mutant(Change("sora_ref/prox.py", "Adam.update", "self.v, )", ")"), "timeout"),
    ]


def test_every_reason_is_written_and_the_page_tells_it() -> None:
    assert all(reason.why for reason in read_reasons(SUPPORT / "mutant_survivors.toml"))
    told = page(results(Mutant(ALIVE, "survived")), [WHY], Run("2025-01-01", 12.3, 2, "mutmut 3"))
    assert "95.24 % of 21 mutants were killed" in told
    assert f"`released_penalty`: {WHY.why}\n\n```diff\n- a <= xi\n+ a < xi\n```" in told
    assert "| all | 21 | 20 | 0 | 1 | 95.24 |" in told


def entries(name: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((SUPPORT / name).read_text(encoding="utf-8"))[key]
    return found


@pytest.mark.parametrize("entry", entries("mutant_sample.toml", "mutant"), ids=lambda entry: str(entry["mutant"]))
def test_every_mutant_of_the_sample_changes_a_line_that_is_there_and_has_a_test_that_is(entry: dict[str, Any]) -> None:
    assert (SUPPORT.parents[1] / entry["file"]).read_text(encoding="utf-8").count(entry["original"]) == 1
    for test in entry["tests"]:
        file, _, name = test.partition("::")
        defined = f"def {name.partition('[')[0]}(" if name else ""  # a whole file may be named
        assert defined in (SUPPORT.parents[1] / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "entry", entries("mutant_survivors.toml", "survivor"), ids=lambda entry: str(entry["function"])
)
def test_every_survivor_stands_in_the_function_it_names(entry: dict[str, Any]) -> None:
    text = (SUPPORT.parents[1] / entry["file"]).read_text(encoding="utf-8")
    for name in entry["function"].split("."):
        (text,) = [
            ast.get_source_segment(text, node) or ""
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
        ]
        text = textwrap.dedent(text)
    assert entry["original"] in text
