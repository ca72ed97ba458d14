"""The kit: right implementations pass in whatever form they come, and what is declared is what is judged."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from kit_implementations import Bfloat16, Fused, PlainLoRA, Tied, Transposed, WholeSteps, failed, skipped
from sampling import sample

from sora_ref import SPEC_VERSION, SoRAError
from sora_ref.backends import get
from sora_ref.conformance import (
    VARIANTS,
    Check,
    Implementation,
    Layer,
    Refusal,
    StorageLayout,
    Subject,
    all_checks,
    capabilities,
    check_implementation,
    run_check,
    select,
)
from sora_ref.conformance.engine.step_intervals import exactly_known, gate_span, lies_in
from sora_ref.conformance.frontends.self_check import Reference, references
from sora_ref.conformance.museum.baseline import PlainSoRA

CORE = ("forward", "gradients", "prox", "prune")
SOME = 3  # examples a check where nothing is to be found; `make test-deep` draws more
FEW = 6  # examples a check where any would do
MANY = 25
Floats = Any

deep = pytest.mark.deep


class Core(PlainSoRA):
    """The same under another name."""


# --- right implementations pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "seed", "examples"),
    [("float64", 0, SOME), ("float32", 1, SOME)]
    + [pytest.param(dtype, seed, MANY, marks=deep) for dtype in ("float64", "float32") for seed in range(3)],
)
def test_plain_implementation_holds_in_full(dtype: str, seed: int, examples: int) -> None:
    report = check_implementation(PlainSoRA, dtype=dtype, seed=seed, max_examples=examples)
    assert failed(report) == []
    assert report.holds
    assert skipped(report) == {"SORA-GATE-3": "declares the amount lr-lambda"}


RULES = [rule for rule in VARIANTS if rule != "released"]
OF_GATES = [each.id for each in all_checks() if {"gate_steps", "train"} & set(each.requires)]


@deep
@pytest.mark.parametrize("rule", RULES)
def test_specification_holds_in_full_with_every_rule(rule: str) -> None:
    assert failed(check_implementation(Reference(get("numpy"), rule), max_examples=MANY)) == []


@pytest.mark.parametrize("examples", sample((SOME, FEW), SOME))
@pytest.mark.parametrize("reference", references()[0], ids=lambda reference: reference.name)
def test_specification_holds_on_every_backend_with_every_rule_that_no_clause_forbids(
    reference: Reference, examples: int
) -> None:
    """The paper's rule by all checks; the others by those of gates and steps, since nothing else differs."""
    by_rule = reference.choices != VARIANTS["paper"]
    report = check_implementation(reference, max_examples=examples, only=OF_GATES if by_rule else ())
    assert failed(report) == []
    assert report.counts()["passed"] >= (8 if by_rule else 35)


def test_backends_that_cannot_run_say_why() -> None:
    found, absent = references()
    names = {reference.backend.name for reference in found} | set(absent)
    assert names == {"numpy", "strict", "exact", "cupy"}
    assert all(absent.values())


FORMS = (Transposed, Fused, Tied, WholeSteps, PlainLoRA)


@pytest.mark.parametrize(
    ("implementation", "dtype", "examples"),
    [(implementation, ("float64", "float32")[place % 2], SOME) for place, implementation in enumerate(FORMS)]
    + [pytest.param(form, dtype, MANY, marks=deep) for form in FORMS for dtype in ("float64", "float32")],
)
def test_other_forms_of_a_right_implementation_pass(
    implementation: type[Implementation], dtype: str, examples: int
) -> None:
    report = check_implementation(implementation, dtype=dtype, max_examples=examples)
    assert {o.check.id: str(o.refusal) for o in report.outcomes if o.status == "failed"} == {}


@pytest.mark.parametrize("examples", sample((SOME, MANY), SOME))
def test_low_precision_is_judged_by_its_own_bound_and_named(examples: int) -> None:
    report = check_implementation(Bfloat16, max_examples=examples)
    assert failed(report) == []
    assert (report.dtype, report.precision) == ("float32", "bf16")
    assert any("does not compute in float64" in note for note in report.notes)


# --- a form that is not declared, or declared wrongly --------------------------------------------------------------


@pytest.mark.parametrize("implementation", [Transposed, Fused, Tied])
def test_undeclared_layout_is_refused(implementation: type[Implementation]) -> None:
    undeclared = type("Undeclared", (implementation,), {"layout": StorageLayout()})
    assert "SORA-LINEAR-1" in failed(check_implementation(undeclared, only=["SORA-LINEAR-1"], max_examples=FEW))


def test_low_precision_that_is_not_declared_is_refused() -> None:
    undeclared = type("Undeclared", (Bfloat16,), {"precision": None})
    report = check_implementation(undeclared, only=["SORA-BOUND-2", "SORA-BOUND-4"], max_examples=FEW)
    assert failed(report) == ["SORA-BOUND-2", "SORA-BOUND-4"]
    assert report.precision == "float32"


def test_low_precision_is_not_believed_of_what_computes_in_float64() -> None:
    class Pretends(PlainSoRA):
        precision = "bf16"
        dtypes = ("float32",)

        def branch(self, layer: Layer, x: Floats) -> Floats:
            return super().branch(layer, x) * (1 + 2.0**-20)

    for dtype in (None, "float32"):
        report = check_implementation(Pretends, only=["SORA-LINEAR-1"], dtype=dtype, max_examples=FEW)
        assert "SORA-LINEAR-1" in failed(report)
        assert report.precision in ("float64", "float32")
        assert any("declares bf16, but computes in float64" in note for note in report.notes)
    assert report.dtype == "float32"


def test_low_precision_beyond_its_own_bound_is_refused() -> None:
    class Worse(Bfloat16):
        @staticmethod
        def low(x: Floats) -> Floats:
            return np.round(np.asarray(x, np.float32) * 16) / np.float32(16)

    assert failed(check_implementation(Worse, only=["SORA-BOUND-2"], max_examples=MANY)) == ["SORA-BOUND-2"]


def test_a_relative_error_that_no_usual_tolerance_sees_is_refused() -> None:
    class Almost(PlainSoRA):
        def branch(self, layer: Layer, x: Floats) -> Floats:
            return super().branch(layer, x) * (1 + 2.0**-44)

    assert "SORA-LINEAR-1" in failed(check_implementation(Almost, only=["SORA-LINEAR-1"], max_examples=MANY))


def test_float32_inside_float64_is_refused_by_the_bound() -> None:
    class Single(PlainSoRA):
        def forward(self, layer: Layer, x: Floats) -> Floats:
            parts = {name: part.astype("float32") for name, part in layer._asdict().items() if hasattr(part, "astype")}
            y: Floats = super().forward(layer._replace(**parts), x.astype("float32"))
            return y.astype("float64")

    (outcome,) = check_implementation(Single, only=["SORA-BOUND-2"], max_examples=FEW).outcomes
    assert outcome.refusal is not None
    assert outcome.refusal.likely == "y lies within the bound of float32: something is computed in that"


# --- capabilities, levels, versions --------------------------------------------------------------------------------


def test_a_missing_capability_is_a_reason_and_fails_the_level_that_requires_it() -> None:
    class ForwardAlone(Implementation):
        def forward(self, layer: Layer, x: Floats) -> Floats:
            return PlainSoRA().forward(layer, x)

    report = check_implementation(ForwardAlone, level="core", max_examples=FEW)
    assert capabilities(ForwardAlone()) == ("forward",)
    assert not report.holds
    assert skipped(report)["SORA-LINEAR-3"] == "needs gradients, which the implementation has not got"
    assert {o.check.id for o in report.outcomes if o.status == "passed"} == {
        "SORA-LINEAR-5",
        "SORA-LINEAR-5.arguments",
        "SORA-LINEAR-1",
        "SORA-BOUND-2",
    }


def test_core_asks_for_exactly_the_four_capabilities() -> None:
    assert {name for each in select("core") for name in each.requires} == set(CORE)
    core_alone = type("CoreAlone", (Implementation,), {name: getattr(PlainSoRA, name) for name in CORE})
    for helper in ("branch", "gradients_through", "open"):
        setattr(core_alone, helper, getattr(PlainSoRA, helper))
    report = check_implementation(core_alone, level="full", max_examples=FEW)
    assert report.holds
    assert report.counts()["skipped"] > 15


def test_whole_steps_stand_in_for_prox_gates_and_gradients() -> None:
    subject = Subject(WholeSteps(), "float64")
    assert [subject.has[name] for name in ("prox", "gate_steps", "gradients")] == ["train"] * 3
    report = check_implementation(WholeSteps, max_examples=FEW)
    assert {"SORA-PROX-1", "SORA-GATE-1", "SORA-LINEAR-3", "SORA-STEP-7"} <= {
        o.check.id for o in report.outcomes if o.status == "passed"
    }

    class Wrong(WholeSteps):
        inner = type("Hard", (PlainSoRA,), {"prox": lambda self, v, xi: np.where(np.abs(v) > xi, v, 0.0)})()

    assert (
        failed(check_implementation(Wrong, only=["SORA-PROX-1", "SORA-GATE-1"], max_examples=FEW))[0] == "SORA-PROX-1"
    )


def test_clauses_that_are_younger_than_the_version_aimed_at_are_skipped() -> None:
    old = type("Old", (PlainSoRA,), {"spec_version": "0.1"})
    report = check_implementation(old, level="core", max_examples=FEW)
    assert report.holds
    assert skipped(report)["SORA-LINEAR-5"] == "came with version 0.3; the implementation targets 0.1"
    assert report.targets == "0.1"


@pytest.mark.parametrize("version", ["9.9", "latest", ""])
def test_a_version_that_does_not_exist_is_one_sentence(version: str) -> None:
    with pytest.raises(SoRAError, match=f"expected {SPEC_VERSION} or earlier"):
        check_implementation(type("Future", (PlainSoRA,), {"spec_version": version}), max_examples=1)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"dtypes": ("float16",)}, "declares dtypes"),
        ({"dtypes": ()}, "declares dtypes"),
        ({"precision": "fp8", "dtypes": ("float32",), "forward": None}, "declares precision 'fp8'"),
    ],
)
def test_declarations_that_mean_nothing_are_one_sentence(attributes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        check_implementation(type("Odd", (PlainSoRA,), attributes), max_examples=1)


def test_a_dtype_that_the_implementation_does_not_declare_is_one_sentence() -> None:
    with pytest.raises(SoRAError, match="computes in float32: expected one of these, not float64"):
        check_implementation(Bfloat16, dtype="float64")


# --- declared choices ----------------------------------------------------------------------------------------------


def test_declared_deviations_are_verified_and_do_not_conform() -> None:
    class Recomputes(PlainSoRA):
        choices = PlainSoRA.choices.replace(scale_after_pruning="recomputed")

        def prune(self, layer: Layer) -> Layer:
            left = super().prune(layer)
            return left._replace(s=layer.s * len(layer.g) / max(len(left.g), 1))

    report = check_implementation(Recomputes, level="core", max_examples=FEW)
    assert [(o.check.id, o.status) for o in report.shortcomings()] == [("SORA-PRUNE-2", "deviates")]
    undeclared = type("Undeclared", (Recomputes,), {"choices": PlainSoRA.choices})
    assert [(o.check.id, o.status) for o in check_implementation(undeclared, only=["SORA-PRUNE-2"]).shortcomings()] == [
        ("SORA-PRUNE-2", "failed")
    ]
    falsely = type("Falsely", (PlainSoRA,), {"choices": Recomputes.choices})
    assert [(o.check.id, o.status) for o in check_implementation(falsely, only=["SORA-PRUNE-2"]).shortcomings()] == [
        ("SORA-PRUNE-2", "failed")
    ]


@pytest.mark.parametrize("rule", [rule for rule in VARIANTS if rule != "paper"])
def test_a_rule_that_is_not_the_declared_one_is_refused_and_recognised(rule: str) -> None:
    undeclared = type("Undeclared", (Reference,), {"choices": VARIANTS["paper"]})(get("numpy"), rule)
    undeclared.gate_steps = Reference(get("numpy"), rule).gate_steps
    report = check_implementation(undeclared, only=["SORA-GATE-1", "SORA-GATE-2", "SORA-OPT-2"], max_examples=MANY)
    refusals = [outcome.refusal for outcome in report.outcomes if outcome.refusal]
    assert refusals
    assert any(f"the rule {rule}" in refusal.likely for refusal in refusals)


# --- expected failures ---------------------------------------------------------------------------------------------


class NoScale(PlainSoRA):
    """A mistake: the scale is lost."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        return super().branch(layer._replace(s=1.0), x)


def test_expected_failures_are_strict_and_have_known_ids() -> None:
    ids = {"SORA-LINEAR-1": "no scale yet", "SORA-BOUND-2": "the same", "SORA-PRUNE": "x"}
    with pytest.raises(SoRAError, match="unknown check 'SORA-PRUNE'"):
        check_implementation(NoScale, expected_failures=ids)
    del ids["SORA-PRUNE"]
    report = check_implementation(NoScale, level="core", expected_failures=ids, max_examples=FEW)
    assert report.holds
    assert report.counts()["xfailed"] == 2
    report = check_implementation(PlainSoRA, level="core", expected_failures=ids, max_examples=FEW)
    assert not report.holds
    assert report.counts()["xpassed"] == 2


# --- determinism and counterexamples -------------------------------------------------------------------------------


def test_equal_seeds_give_equal_counterexamples_and_they_are_small() -> None:
    reports = [check_implementation(NoScale, only=["SORA-LINEAR-1"], seed=5) for _ in range(2)]
    one, two = (report.outcomes[0].refusal for report in reports)
    assert one is not None
    assert two is not None
    assert (str(one), repr(one.case)) == (str(two), repr(two.case))
    layer: Layer = one.case["layer"]
    assert layer.W0.shape == (1, 1)
    assert layer.adapter.rank == 1
    assert layer.b is None
    assert one.likely.startswith("the map without s")


def test_an_exception_of_the_implementation_is_a_refusal_with_its_words() -> None:
    class Broken(PlainSoRA):
        def forward(self, layer: Layer, x: Floats) -> Floats:
            raise KeyError("lora_A")

    outcome = run_check(Subject(Broken(), "float64"), select(only=["SORA-LINEAR-1"])[0])
    assert "forward raises KeyError: 'lora_A'" in str(outcome.refusal)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (lambda y: y[..., :-1], r"y has shape .*: expected"),
        (lambda y: y.astype("float32"), "y has dtype float32: expected float64"),
        (lambda y: y * np.nan, "y.* is nan: expected"),
    ],
)
def test_results_of_the_wrong_form_are_said_to_be_so(result: Any, sentence: str) -> None:
    class Odd(PlainSoRA):
        def forward(self, layer: Layer, x: Floats) -> Floats:
            return result(super().forward(layer, x))

    outcome = run_check(Subject(Odd(), "float64"), select(only=["SORA-LINEAR-1"])[0])
    assert outcome.refusal is not None
    with pytest.raises(Refusal, match=sentence):
        raise outcome.refusal


# --- the list ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", all_checks(), ids=lambda each: each.id)
def test_every_check_says_what_it_checks(each: Check) -> None:
    import traceability

    assert each.clause in traceability.clauses()
    assert each.title
    assert each.formula
    assert each.source
    assert each.requires
    assert set(each.requires) <= set(capabilities(PlainSoRA()))
    assert each.since in ("0.1", "0.2", "0.3")
    assert each.body.__doc__


def test_every_capability_is_needed_by_some_check() -> None:
    assert {name for each in all_checks() for name in each.requires} == set(capabilities(PlainSoRA()))


def test_unknown_names_of_checks_are_errors() -> None:
    with pytest.raises(SoRAError, match=r"unknown check 'SORA-LINEAR-none': expected SORA-LINEAR-\d"):
        select(only=["SORA-LINEAR-none"])


# --- spans of steps ------------------------------------------------------------------------------------------------


@pytest.mark.bounded("SORA-GATE-1", "SORA-OPT-2", "SORA-GATE-2")
@pytest.mark.parametrize("rule", list(VARIANTS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spans_hold_and_a_relative_error_beyond_them_does_not_fit(rule: str, dtype: str) -> None:
    """Random gates and gradients of very different sizes; then a learning rate that is off by a little."""
    from sora_ref.conformance.protocol.layer import Plan

    rng, choices, subject = np.random.default_rng(0), VARIANTS[rule], Subject(Reference(get("numpy"), rule), dtype)
    off = 2.0**-8 if dtype == "float32" else 2.0**-36
    caught = 0
    for _ in range(40):
        g = rng.standard_normal(6).astype(dtype)
        grads = (rng.standard_normal((4, 6)) * 10.0 ** rng.integers(-6, 3, (4, 6))).astype(dtype)
        plan = Plan((0.1, 0.07, 0.05, 0.02, 0.01), 0.1, 0.05)
        after = subject.gate_steps(g, grads, plan)
        known = [exactly_known(grad) for grad in grads]
        for t in range(1, 5):
            before = g if t == 1 else after[t - 2]
            span = gate_span(choices, before, known[:t], plan, t, subject.precision)
            assert lies_in(after[t - 1].astype(float), span).all()
            other = Plan(tuple(lr * (1 + off) for lr in plan.lrs), 0.1 * (1 + off), 0.05)
            shifted = gate_span(choices, before, known[:t], other, t, subject.precision)
            caught += bool((~lies_in(after[t - 1].astype(float), shifted)).any())
    assert caught >= 80


@pytest.mark.exact("SORA-PROX-1")
def test_span_of_the_support_is_that_of_the_rationals() -> None:
    """Dyadic gates and SGD: what the span says of zeros is what exact arithmetic says, wherever it says anything."""
    from sora_ref.conformance.protocol.layer import Plan

    rng = np.random.default_rng(1)
    known = undecided = 0
    for _ in range(200):
        g, grad = rng.integers(-8, 9, 4) / 4, rng.integers(-8, 9, 4) / 4
        span = gate_span(
            VARIANTS["paper"],
            g,
            [exactly_known(grad)],
            Plan((0.25, 0.25), 0.25, 1.0),
            1,
            Subject(PlainSoRA(), "float64").precision,
        )
        for k in range(4):
            v = Fraction(g[k]) - Fraction(1, 4) * Fraction(grad[k])
            assert not (span.zero[k] and abs(v) > Fraction(1, 4))
            assert not (span.open[k] and abs(v) <= Fraction(1, 4))
            known += bool(span.zero[k] or span.open[k])
            undecided += abs(v) == Fraction(1, 4)
    assert known + undecided == 800


def test_an_implementation_that_is_not_steady_is_refused_and_not_an_error_of_ours() -> None:
    class Unsteady(PlainSoRA):
        calls = 0

        def prox(self, v: Floats, xi: float) -> Floats:
            type(self).calls += 1
            return super().prox(v, xi) + (type(self).calls == 7)

    outcome = run_check(Subject(Unsteady(), "float64"), select(only=["SORA-PROX-1"])[0])
    assert "the same input gives one result and then another" in str(outcome.refusal)


def test_an_implementation_that_leaves_the_process_is_refused() -> None:
    class Leaves(PlainSoRA):
        def prox(self, v: Floats, xi: float) -> Floats:
            raise SystemExit(3)

    outcome = run_check(Subject(Leaves(), "float64"), select(only=["SORA-PROX-1"])[0])
    assert "prox raises SystemExit: 3" in str(outcome.refusal)
