"""Reports: what a refusal says, what a badge may claim, JSON by its schema, and JUnit's XML."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

from sora_ref import SPEC_VERSION
from sora_ref.conformance import (
    Choices,
    Implementation,
    Layer,
    Plan,
    Report,
    StorageLayout,
    all_checks,
    check_implementation,
)
from sora_ref.conformance.frontends.json_report import as_json, plain, schema
from sora_ref.conformance.frontends.junit import as_junit
from sora_ref.conformance.frontends.text import badge, brief, command, lines, missing, outcome_lines, standing
from sora_ref.conformance.museum.baseline import PlainSoRA

Floats = Any
FEW = 6


class Ungated(PlainSoRA):
    """dg of the gated z."""

    name = "gated twice"

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> dict[str, Floats]:
        found = dict(super().gradients(layer, x, dy))
        return found | {"dg": found["dg"] * layer.g}


class Core(Implementation):
    """What level core asks for, and nothing else."""

    name = "core alone"
    forward, gradients, prox, prune = PlainSoRA.forward, PlainSoRA.gradients, PlainSoRA.prox, PlainSoRA.prune
    branch, gradients_through, open = PlainSoRA.branch, PlainSoRA.gradients_through, PlainSoRA.open


class NoPrune(Core):
    """Core without prune."""

    prune = Implementation.prune


class Decays(PlainSoRA):
    """Declares, and does, a decay of its gates."""

    choices: ClassVar[Choices] = Choices(gate_decay=0.5)

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        lr = plan.lrs[t]
        return self.prox(g - lr * 0.5 * g - lr * grad, lr * plan.strength)


@pytest.fixture(scope="module")
def whole() -> Report:
    return check_implementation(PlainSoRA, max_examples=FEW)


@pytest.fixture(scope="module")
def wrong() -> Report:
    return check_implementation(Ungated, level="core", max_examples=FEW, seed=3)


@pytest.fixture(scope="module")
def core() -> Report:
    return check_implementation(Core, max_examples=FEW)


# --- the refusal ---------------------------------------------------------------------------------------------------


def test_refusal_says_clause_formula_source_finding_smallest_input_cause_and_command(wrong: Report) -> None:
    text = "\n".join(lines(wrong, Ungated(), "mine:Ungated"))
    block = text.partition("refused SORA-LINEAR-3: ")[2].partition("\n\n")[0]
    rows = [row.strip().partition("  ")[::2] for row in block.splitlines()]
    assert rows[0] == ("the gradients", "")
    found = dict(rows[1:])
    assert found["formula"].startswith("dB = s·dyᵀ(z ⊙ g), dg = Σₙ v ⊙ z")
    assert found["source"] == "derived from SoRA eq. 6-9"
    assert found["found"].startswith("dg[0] is 2.0: expected 1.0 (off by 1, where float64 may be off by")
    assert found["input"] == "layer: W0 = [[1]], b = None, A = [[1]], g = [2], B = [[1]], s = 1"
    assert "x: [[1]]" in block
    assert "freezes closed gates" in found["likely"]
    assert found["reproduce"] == "sora-ref check mine:Ungated --only SORA-LINEAR-3 --seed 3 --max-examples 6"


def test_command_names_whatever_is_not_the_default(wrong: Report) -> None:
    check = all_checks()[0]
    assert command(replace(wrong, max_examples=50), check, "m:A") == f"sora-ref check m:A --only {check.id} --seed 3"
    assert "--dtype float32" in command(replace(wrong, dtype="float32"), check, "m:A")
    assert command(wrong, check, "") == ""


def test_table_has_a_row_for_every_check_with_status_and_reason(core: Report) -> None:
    rows = lines(core, Core())
    for outcome in core.outcomes:
        (row,) = [row for row in rows if row.split()[:1] == [outcome.check.id]]
        assert outcome.status == row.split()[1]
        assert outcome.check.title in row
        assert outcome.reason in row


def test_header_says_what_is_declared_and_judged(whole: Report) -> None:
    class Odd(PlainSoRA):
        layout = StorageLayout(transposed=True, groups=3, sites=2)
        gated, biased, least_rank, precision = False, False, 1, "bf16"

    text = "\n".join(lines(replace(whole, targets="0.1", notes=("a note",)), Odd(), "m:Odd"))
    for words in ("transposed", "3 groups", "2 tied sites", "no gates", "no bias", "ranks from 1", "precision bf16"):
        assert words in text
    for words in ("rule paper", "float64, float32", "targets specification 0.1", "note: a note", "seed 0", "(m:Odd)"):
        assert words in text
    assert "transposed" not in "\n".join(lines(whole, PlainSoRA()))


def test_values_are_short_and_keep_the_shape_of_what_is_empty() -> None:
    assert brief(np.zeros((0, 3))) == "float64 of shape (0, 3)"
    assert brief(np.ones((24, 24), "float32")) == "float32 of shape (24, 24)"
    assert brief(np.array([[1.0, 0.5]])) == "[[1, 0.5]]"
    assert brief(Plan((0.5, 0.25), 0.5, 1.0)).startswith("lrs = (0.5, 0.25), peak = 0.5, strength = 1")
    assert brief([(np.ones(1), np.ones(2))]) == "[([1], [1, 1])]"


# --- the badge -----------------------------------------------------------------------------------------------------


def test_badge_names_specification_level_precision_and_rule(whole: Report) -> None:
    assert badge(whole) == f"SoRA {SPEC_VERSION} · full · float64 · paper"
    assert standing(whole) == [badge(whole)]
    assert missing(whole) == ""


def test_badge_of_what_shows_no_steps_is_core_and_its_rule_only_declared(core: Report) -> None:
    assert badge(core) == f"SoRA {SPEC_VERSION} · core · float64 · declares paper"
    assert "not full" in standing(core)[1]
    assert "train" in standing(core)[1]


def test_badge_names_the_precision_that_was_judged() -> None:
    assert " · float32 · " in str(
        badge(check_implementation(PlainSoRA, level="core", dtype="float32", max_examples=FEW))
    )


@pytest.mark.parametrize(
    ("implementation", "options", "said"),
    [
        (Ungated, {"level": "core"}, "refused SORA-LINEAR-3, SORA-LINEAR-4"),
        (NoPrune, {"level": "core"}, "the level needs prune"),
        (Decays, {}, "deviates from SORA-GATE-1"),
        (PlainSoRA, {"only": ["SORA-PROX-1"]}, "checks of level core were not run"),
        (PlainSoRA, {"only": ["SORA-PROX-3"], "expected_failures": {"SORA-PROX-3": "x"}}, "unexpectedly passed"),
    ],
)
def test_there_is_no_badge_where_anything_is_missing(
    implementation: type[Implementation], options: Any, said: str
) -> None:
    report = check_implementation(implementation, max_examples=FEW, **options)
    assert badge(report) is None
    assert said in missing(report)
    assert standing(report)[0].startswith("no badge: ")


def test_badge_confesses_expected_failures() -> None:
    expected = {"SORA-LINEAR-3": "known", "SORA-LINEAR-4": "known", "SORA-BOUND-4": "known"}
    report = check_implementation(Ungated, level="core", max_examples=FEW, expected_failures=expected)
    assert report.holds
    assert str(badge(report)).endswith(" · except SORA-LINEAR-3, SORA-LINEAR-4, SORA-BOUND-4")


# --- for machines --------------------------------------------------------------------------------------------------


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("which", ["whole", "wrong", "core"])
def test_json_is_as_the_schema_says(which: str, request: pytest.FixtureRequest) -> None:
    report: Report = request.getfixturevalue(which)
    found = json.loads(json.dumps(as_json(report, PlainSoRA(), "mine:Implementation"), allow_nan=False))
    jsonschema.Draft202012Validator(schema()).validate(found)
    assert found["badge"] == badge(report)
    assert found["holds"] is report.holds
    assert [each["id"] for each in found["checks"]] == [each.check.id for each in report.outcomes]


def test_json_of_every_status_is_as_the_schema_says() -> None:
    expected = {"SORA-PROX-3": "x", "SORA-LINEAR-3": "y"}
    reports = [
        check_implementation(Ungated, max_examples=3, expected_failures=expected),
        check_implementation(Decays, max_examples=3),
    ]
    found = [as_json(report, Ungated()) for report in reports]
    statuses = {each["status"] for one in found for each in one["checks"]}
    assert statuses == {"passed", "failed", "deviates", "skipped", "xfailed", "xpassed"}
    for each in found:
        jsonschema.Draft202012Validator(schema()).validate(each)


def test_schema_refuses_what_is_no_report(wrong: Report) -> None:
    right = as_json(wrong, Ungated())
    refused = next(k for k, each in enumerate(right["checks"]) if each["status"] == "failed")
    wrongs: list[Any] = [
        right | {"level": "some"},
        right | {"more": 1},
        {name: value for name, value in right.items() if name != "seed"},
        right | {"checks": [right["checks"][refused] | {"refusal": None}]},
        right | {"checks": [right["checks"][refused] | {"id": "LINEAR"}]},
        right | {"counts": {"passed": 1}},
    ]
    validator = jsonschema.Draft202012Validator(schema())
    assert [each for each in wrongs if validator.is_valid(each)] == []


def test_json_holds_the_whole_case_exactly(wrong: Report) -> None:
    found = next(each for each in as_json(wrong, Ungated(), "m:A")["checks"] if each["id"] == "SORA-BOUND-4")["refusal"]
    outcome = next(each for each in wrong.outcomes if each.check.id == "SORA-BOUND-4")
    assert outcome.refusal is not None
    x = outcome.refusal.case["x"]
    assert found["case"]["x"]["shape"] == list(x.shape)
    assert np.array_equal(np.array(found["case"]["x"]["values"], found["case"]["x"]["dtype"]), x)
    assert found["case"]["layer"]["s"] == outcome.refusal.case["layer"].s
    assert found["command"] == "sora-ref check m:A --only SORA-BOUND-4 --seed 3 --max-examples 6"


def test_numbers_that_json_lacks_are_words() -> None:
    found = plain({"x": np.array([np.nan, np.inf, -np.inf, 1]), "p": Plan((1.0,), 1.0, 0.0), "o": object})
    assert found["x"]["values"] == ["NaN", "Infinity", "-Infinity", 1.0]
    assert found["p"]["lrs"] == [1.0]
    json.dumps(found, allow_nan=False)


def test_junit_has_a_case_for_every_check_with_failures_and_reasons(wrong: Report, core: Report) -> None:
    for report in (wrong, core):
        (suite,) = ElementTree.fromstring(as_junit(report, Core(), "mine:Core"))
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == [each.check.id for each in report.outcomes]
        assert {case.get("classname") for case in cases} == {"mine.Core"}
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures", "")) == report.counts()["failed"]
        assert len(suite.findall("testcase/skipped")) == int(suite.get("skipped", "")) == report.counts()["skipped"]
    failure = next(each for each in ElementTree.fromstring(as_junit(wrong, Core())).iter("failure"))
    assert "formula" in str(failure.text)
    assert str(failure.get("message")).startswith("dg[0] is 2.0: expected 1.0")


def test_junit_survives_what_xml_cannot_say() -> None:
    class Rude(PlainSoRA):
        def prox(self, v: Floats, xi: float) -> Floats:
            raise ValueError("a bell \x07 and a nul \x00 <&>")

    report = check_implementation(Rude, only=["SORA-PROX-1"], max_examples=2)
    failures = list(ElementTree.fromstring(as_junit(report, Rude())).iter("failure"))
    assert "a bell \ufffd and a nul \ufffd <&>" in str(failures[0].get("message"))


def test_an_outcome_by_itself_says_what_a_test_needs(wrong: Report) -> None:
    failed = next(each for each in wrong.outcomes if each.status == "failed")
    text = "\n".join(outcome_lines(failed, 3, FEW))
    assert failed.check.id in text
    assert "seed 3, 6 examples a check" in text
    assert "because  it is so" in "\n".join(
        outcome_lines(replace(failed, status="deviates", reason="it is so", refusal=None), 0, 1)
    )
