"""The golden vectors: regenerated bit for bit, right by independent computations, and able to tell right from wrong."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from strategies import all_equal, exact, inner, loop_forward, rounded

from sora_ref import SPEC_VERSION, SoRAError, soft_threshold
from sora_ref.backends import get
from sora_ref.conformance import VARIANTS, Choices, Implementation, Layer, Plan, Triple, all_checks
from sora_ref.conformance.frontends.self_check import Reference
from sora_ref.conformance.golden.__main__ import main
from sora_ref.conformance.golden.cases import NOT_DATA, make
from sora_ref.conformance.golden.intervals import Float64, Interval, Sharp, cut, ends, intervals
from sora_ref.conformance.golden.reader import Case, load_cases
from sora_ref.conformance.golden.run import CALLS, run_case, run_vectors
from sora_ref.conformance.golden.values import nearest, upward
from sora_ref.conformance.golden.vector_file import FOLDER, MANIFEST, SCHEMA, TENSORS, safetensors
from sora_ref.conformance.museum import BASELINES, MISTAKES, Mistake
from sora_ref.conformance.museum.baseline import PlainSoRA

Floats = Any
ROOT = Path(__file__).resolve().parents[2]
CASES = load_cases()
MANIFEST_READ = json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))
SCHEMA_READ = json.loads((FOLDER / SCHEMA).read_text(encoding="utf-8"))


def named(case: Case) -> str:
    return case.id


def those(capability: str, *, refused: bool = False) -> list[Case]:
    return [case for case in CASES if case.capability == capability and bool(case.must_refuse) == refused]


def wrong(implementation: Implementation | type[Implementation], cases: Sequence[Case] = CASES) -> set[str]:
    return {verdict.id for verdict in run_vectors(implementation, cases) if verdict.ok is False}


class Careful(PlainSoRA):
    """`PlainSoRA`, which refuses what it does not mean."""

    def branch(self, layer: Layer, x: Floats) -> Floats:
        (out, in_), r = layer.W0.shape, len(layer.adapter.g)
        expect(layer.A.shape == (r, in_) and layer.B.shape == (out, r))
        expect(layer.b is None or layer.b.shape == (out,))
        return super().branch(layer, x)

    def mask(self, x: Floats, p: float, seed: int) -> Floats:
        expect(0 <= p < 1)
        return super().mask(x, p, seed)

    def prox(self, v: Floats, xi: float) -> Floats:
        expect(0 <= xi < math.inf)
        return super().prox(v, xi)

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:
        expect(kind in ("linear", "log_linear", "exp_linear") and (kind != "exp_linear" or start > 0))
        return super().stage_values(kind, start, stop, stages)

    def open(self, g: Floats) -> Floats:
        expect(bool(np.isfinite(g).all()))
        return super().open(g)

    def rank(self, layer: Layer) -> int:
        return len(self.open(layer.g))


def expect(condition: bool) -> None:
    if not condition:
        raise ValueError("not what is meant")


# --- the files


def test_files_are_what_would_be_written_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["write", str(tmp_path)]) == 0
    for name in (MANIFEST, TENSORS, SCHEMA):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((MANIFEST, TENSORS, SCHEMA))
    assert main(["check"]) == 0
    assert "bit for bit" in capsys.readouterr().out
    content = bytearray((tmp_path / TENSORS).read_bytes())
    content[-9] ^= 1
    (tmp_path / TENSORS).write_bytes(content)
    (tmp_path / SCHEMA).unlink()
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert TENSORS in said
    assert SCHEMA in said
    assert MANIFEST not in said


def test_files_are_small_and_of_this_specification() -> None:
    assert sum(len((FOLDER / name).read_bytes()) for name in (MANIFEST, TENSORS, SCHEMA)) < 300_000
    assert MANIFEST_READ["spec_version"] == SPEC_VERSION


def test_manifest_fits_its_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA_READ)
    jsonschema.Draft202012Validator(SCHEMA_READ).validate(MANIFEST_READ)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"must_refuse": "why"},
        {"expected": {}},
        {"capability": "guess"},
        {"check": "PROX"},
        {"tensors": {"v": [1.0]}},
        {"expected": {"T": {"bound": "00000000"}}},
        {"colour": "red"},
    ],
)
def test_schema_refuses_what_is_no_case(change: Mapping[str, Any]) -> None:
    entry = next(entry for entry in MANIFEST_READ["cases"] if entry["id"] == "prox/soft/signed/float64")
    validator = jsonschema.Draft202012Validator(SCHEMA_READ)
    assert validator.is_valid(MANIFEST_READ | {"cases": [entry]})
    assert not validator.is_valid(MANIFEST_READ | {"cases": [entry | change]})


def test_schema_names_the_capabilities_that_are_run() -> None:
    assert set(SCHEMA_READ["$defs"]["case"]["properties"]["capability"]["enum"]) == set(CALLS)
    assert {case.capability for case in CASES} == set(CALLS)


def test_a_reader_as_the_page_tells_it_reads_the_same() -> None:
    content = (FOLDER / MANIFEST_READ["tensors"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == MANIFEST_READ["sha256"]
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    kinds = {"F64": "<f8", "F32": "<f4", "BOOL": "?"}

    def tensor(name: str) -> Floats:
        begin, end = (8 + size + offset for offset in header[name]["data_offsets"])
        return np.frombuffer(content[begin:end], kinds[header[name]["dtype"]]).reshape(header[name]["shape"])

    used = set()
    for entry, case in zip(MANIFEST_READ["cases"], CASES, strict=True):
        named = {role: (name, case[role]) for role, name in entry["tensors"].items()}
        for result, parts in entry.get("expected", {}).items():
            named |= {(result, p): (n, case.expected[result][p]) for p, n in parts.items() if p != "exactly"}
        for name, array in named.values():
            assert np.array_equal(tensor(name), array, equal_nan=array.dtype != bool)
            assert tensor(name).dtype == array.dtype
            used.add(name)
    assert used == set(header) - {"__metadata__"}


def test_the_case_on_the_page_is_one_of_the_files() -> None:
    page = (ROOT / "docs/vectors.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    assert shown in MANIFEST_READ["cases"]
    for capability in CALLS:
        assert f"`{capability}`" in page


def test_files_that_were_changed_are_refused(tmp_path: Path) -> None:
    for name in (MANIFEST, TENSORS):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert len(load_cases(tmp_path)) == len(CASES)
    (tmp_path / TENSORS).write_bytes((FOLDER / TENSORS).read_bytes()[:-1])
    with pytest.raises(SoRAError, match="SHA-256"):
        load_cases(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(MANIFEST_READ | {"format_version": 2}), encoding="utf-8")
    with pytest.raises(SoRAError, match="format 2"):
        load_cases(tmp_path)


# --- what there is


def test_every_check_that_can_be_data_has_a_case() -> None:
    known, covered = {check.id for check in all_checks()}, {case.check for case in CASES if case.expected}
    refused = {case.check for case in CASES if case.must_refuse}
    assert covered | refused <= known
    assert set(NOT_DATA) <= known
    assert known - covered - set(NOT_DATA) == {"SORA-PRUNE-4.refuse"}
    assert "SORA-PRUNE-4.refuse" in refused
    assert not covered & set(NOT_DATA)


def test_cases_have_ids_of_their_own_and_every_rule_in_both_dtypes() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert [case.id for case in CASES] == sorted(case.id for case in CASES)
    for dtype in ("float64", "float32"):
        for room, count in (("gates", 4), ("train", 3)):
            for rule in VARIANTS:
                assert sum(case.id.startswith(f"{room}/{rule}/") and case.dtype == dtype for case in CASES) >= count


def test_bounds_are_small_and_supports_are_told_apart() -> None:
    for case in CASES:
        for parts in case.expected.values():
            if "bound" not in parts:
                continue
            bound, value = parts["bound"], np.abs(parts["value"].astype(float))
            assert bound.dtype == np.float64
            assert (bound >= 0).all()
            assert (bound <= {"float64": 1e-12, "float32": 1e-3, None: 1e-5}[case.dtype] * (1 + value)).all()
            if "zeros" in parts:
                assert ((value == 0) == parts["zeros"]).all()
    supports = [case.expected["gates"]["zeros"] for case in those("gate_steps")]
    assert sum(zeros.any() and not zeros.all() for zeros in supports) > len(supports) / 2


# --- independent computations


@pytest.mark.exact("SORA-LINEAR-1")
@pytest.mark.parametrize("case", those("forward"), ids=named)
def test_y_is_the_element_by_element_sum_rounded_once(case: Case) -> None:
    truth = loop_forward(case["x"], *case.layer())
    assert all_equal(case.expected["y"]["value"], once(truth, case))


@pytest.mark.exact("SORA-LINEAR-3", "SORA-LINEAR-4")
@pytest.mark.parametrize("case", [case for case in those("gradients") if "long" not in case.id], ids=named)
def test_gradients_are_differences_of_the_affine_map(case: Case) -> None:
    """⟨dy, f(θ + e) − f(θ)⟩ is the derivative along e, for the map is affine in each of x, A, g and B."""
    layer, x, dy = case.layer(), case["x"], exact(case["dy"])
    given = {"x": x, **{name: getattr(layer, name) for name in ("A", "g", "B")}}
    at = loop_forward(x, *layer)
    for name, theta in given.items():
        slopes = np.empty(theta.shape, object)
        for place in np.ndindex(theta.shape):
            moved = exact(theta)
            moved[place] += 1
            there = given | {name: moved}
            after = loop_forward(there["x"], layer.W0, layer.b, there["A"], there["g"], there["B"], layer.s)
            slopes[place] = inner(dy, exact(after - at))
        assert all_equal(case.expected[f"d{name}"]["value"], once(slopes, case))


def once(truth: Any, case: Case) -> Any:
    found = [rounded(Fraction(value), case.dtype) for value in truth.ravel()]
    return np.array(found, case.dtype).reshape(truth.shape)


@pytest.mark.exact("SORA-PROX-1", "SORA-PROX-5")
@pytest.mark.parametrize("case", [case for case in those("prox") if "special" not in case.id], ids=named)
def test_thresholds_are_those_of_their_sentences(case: Case) -> None:
    xi, values = Fraction(case["xi"]), [Fraction(float(v)) for v in case["v"]]
    if case.choices["threshold"] == "soft":
        truth = [(abs(v) > xi) * (abs(v) - xi) * (1 if v > 0 else -1) for v in values]
    else:
        truth = [v if abs(v) == xi else (abs(v) >= 2 * xi) * (abs(v) - xi) * (1 if v > 0 else -1) for v in values]
    expected = case.expected["T"]
    assert all_equal(expected["value"], np.array([rounded(Fraction(v), case.dtype) for v in truth], case.dtype))
    assert all_equal(expected["zeros"], np.array([v == 0 for v in truth], bool))


@pytest.mark.independent("SORA-OPT-2", "SORA-GATE-1")
@pytest.mark.parametrize("case", those("gate_steps"), ids=named)
def test_gates_are_those_of_mpmath_coordinate_by_coordinate(case: Case) -> None:
    plan, choices, expected = case.plan(), chosen(case), case.expected["gates"]
    with mp.workdps(60):
        for i, g in enumerate(case["g"]):
            m = v = mpf(0)
            theta = mpf(float(g))
            for t, grad in enumerate(mpf(float(each)) for each in case["grads"][:, i]):
                theta, m, v = one_gate(theta, grad, m, v, t + 1, plan, choices)
                got, bound = float(expected["value"][t, i]), float(expected["bound"][t, i])
                assert abs(mpf(got) - theta) <= mpf(2) ** -(24 if case.dtype == "float32" else 53) * abs(theta)
                assert expected["zeros"][t, i] == (theta == 0)
                assert bound > 0


def chosen(case: Case) -> Choices:
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in case.choices.items()}
    return Choices().replace(**made)


def one_gate(theta: Any, grad: Any, m: Any, v: Any, t: int, plan: Plan, choices: Choices) -> tuple[Any, Any, Any]:
    """The clauses, for one number."""
    lr, strength, (beta1, beta2) = mpf(plan.lrs[t - 1]), mpf(plan.strength), map(mpf, choices.betas)
    m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
    if choices.descend == "sgd":
        metric = mpf(1)
        theta -= lr * grad
    else:
        share = mp.sqrt(1 - beta2**t)
        metric = mp.sqrt(v) / share + choices.eps if choices.descend == "adamw" else (mp.sqrt(v) + choices.eps) / share
        theta -= lr * m / (1 - beta1**t) / metric
    amounts = {"xi": strength, "lr-lambda": lr * strength, "metric-literal": lr * strength / metric}
    amounts["metric"] = amounts["metric-literal"] if v > 0 else mpf(0)
    a = amounts[choices.amount]
    dead = 2 * a if choices.threshold == "released" else a
    return (mp.sign(theta) * (abs(theta) - a) if abs(theta) > dead else mpf(0)), m, v


@pytest.mark.independent("SORA-SCHED-3")
@pytest.mark.parametrize("case", those("stage_values"), ids=named)
def test_thresholds_of_stages_are_those_of_mpmath(case: Case) -> None:
    to, back = {"linear": (mpf, mpf), "log_linear": (mp.exp, mp.log), "exp_linear": (mp.log, mp.exp)}[case["kind"]]
    with mp.workdps(40):
        first, last, steps = to(mpf(case["start"])), to(mpf(case["stop"])), max(case["stages"] - 1, 1)
        truth = [float(back(first + (last - first) * k / steps)) for k in range(case["stages"])]
    assert truth == case.expected["values"]["value"].tolist()


@pytest.mark.exact("SORA-SCHED-4")
def test_algorithm_1_reaches_the_decimal_that_binary_sums_miss() -> None:
    (case,) = (case for case in CASES if case.id.startswith("algorithm-1/0.1-to-0.3"))
    assert case.expected["values"]["value"].tolist() == [0.1, 0.2, 0.3]
    assert 0.1 + 2 * 0.1 > 0.3


# --- who passes, and who does not


@pytest.mark.parametrize("rule", VARIANTS)
def test_specification_passes_with_every_rule(rule: str) -> None:
    assert wrong(Reference(get("numpy"), rule)) == set()


def test_rationals_pass_and_no_case_concerns_nobody() -> None:
    assert wrong(Reference(get("exact"))) == set()
    concerned = [run_vectors(Reference(get("numpy"), rule), CASES) for rule in VARIANTS]
    assert {verdict.id for verdicts in concerned for verdict in verdicts if verdict.ok} == {case.id for case in CASES}


@pytest.mark.parametrize("implementation", [*BASELINES, Careful])
def test_right_implementations_pass(implementation: type[Implementation]) -> None:
    refusals = {case.id for case in CASES if case.must_refuse}
    assert wrong(implementation) <= (set() if implementation is Careful else refusals)


@pytest.mark.parametrize("case", [case for case in CASES if case.must_refuse], ids=named)
def test_what_must_be_refused_is_refused_by_the_specification_in_a_sentence(case: Case) -> None:
    with pytest.raises(AssertionError) as refusal:
        CALLS[case.capability](subject_of(case), case)
    assert isinstance(refusal.value.__cause__, SoRAError)


def subject_of(case: Case) -> Any:
    from sora_ref.conformance import Subject

    return Subject(Reference(get("numpy")), case.dtype or "float64")


PASSED = {base: {verdict.id for verdict in run_vectors(base, CASES) if verdict.ok} for base in BASELINES}
SHOWN = [mistake for mistake in MISTAKES if mistake.refused_by not in NOT_DATA]


def test_most_mistakes_can_be_seen_in_data() -> None:
    assert len(SHOWN) > 0.8 * len(MISTAKES)


@pytest.mark.parametrize("mistake", SHOWN, ids=lambda mistake: mistake.name)
def test_every_mistake_that_data_can_show_fails_a_case_that_its_base_passes(mistake: Mistake) -> None:
    cases = [case for case in CASES if case.id in PASSED[mistake.base] and case.dtype != "float32"]
    implementation = mistake.implementation()
    assert any(run_case(implementation, case).ok is False for case in cases)


@pytest.mark.parametrize("case", [case for case in CASES if case.expected], ids=named)
def test_a_changed_expectation_is_noticed(case: Case) -> None:
    rule = next(rule for rule in VARIANTS if run_case(Reference(get("numpy"), rule), case).ok)
    implementation = Reference(get("numpy"), rule)
    for name, parts in case.expected.items():
        for part, other in changed(parts):
            corrupted = {**case.expected, name: {**parts, part: other}}
            assert run_case(implementation, replace(case, expected=corrupted)).ok is False


def changed(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Each part of an expectation with its last entry wrong."""
    if "exactly" in parts:
        return [("exactly", parts["exactly"] + 1)]
    value = parts["value"]
    if not value.size:
        return [("value", np.zeros((*value.shape, 1)))]
    moved = value.astype(float)
    last = tuple(k - 1 for k in value.shape)
    moved[last] += 3 * parts["bound"][last] if "bound" in parts else 2.0**-20
    return [("value", moved)] + ([("zeros", ~parts["zeros"])] if "zeros" in parts else [])


def test_a_verdict_says_what_is_wrong_or_why_a_case_is_left_out() -> None:
    class Broken(PlainSoRA):
        least_rank = 1
        biased = False
        dtypes = ("float64",)

        def prox(self, v: Floats, xi: float) -> Floats:
            return v

        def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:
            return dict.fromkeys(layers, 7)

        def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:
            raise RuntimeError("out of order")

    said = {verdict.id: (verdict.ok, verdict.sentence) for verdict in run_vectors(Broken)}
    assert said["prox/soft/signed/float32"] == (
        None,
        "has the bounds of float32, in which the implementation does not compute",
    )
    assert said["prox/soft/signed/float64"] == (False, "T[0] is -3.0: expected -2.5, give or take 1.6e-15")
    assert said["prox/released/signed/float64"] == (
        None,
        "is of the choice threshold released; the implementation declares soft",
    )
    assert said["forward/rank-0/float64"] == (None, "has a rank below 1")
    assert said["forward/plain/float64"] == (None, "has a bias")
    assert said["forward/no-bias/float64"] == (True, "")
    assert said["ranks/closed/float64"] == (None, "has a bias")
    assert said["refuse/threshold/nan/float64"][1].startswith("prox goes through: expected an error")


class Old(Careful):
    spec_version = "0.2"

    gradients = Implementation.gradients


def test_younger_cases_and_missing_capabilities_are_left_out() -> None:
    said = {verdict.id: verdict for verdict in run_vectors(Old, CASES)}
    assert said["store/plain/float64"].sentence == "came with version 0.3; the implementation targets 0.2"
    assert said["gradients/plain/float64"].sentence == "needs gradients, which the implementation has not got"


# --- what makes them


finite = st.floats(-8, 8, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-3)


@pytest.mark.bounded("SORA-BOUND-1")
@given(a=finite, b=finite, c=finite)
def test_intervals_enclose_the_rationals_and_the_floats(a: float, b: float, c: float) -> None:
    sharp, wide = (intervals(kind, np.array([a, b, c])) for kind in (Sharp, Float64))
    formulas: list[Any] = [lambda x, y, z: (x + y) * z - x, lambda x, y, z: -x * y - z * z]
    if b:
        formulas.append(lambda x, y, z: (x - z) / y)
    for formula in formulas:
        truth, computed = formula(*map(Fraction, (a, b, c))), Fraction(formula(a, b, c))
        for found, kind in ((formula(*sharp), Sharp), (formula(*wide), Float64)):
            (low,), (high,) = ends(np.array([found], object))
            assert low <= truth <= high
            assert kind is Sharp or low <= computed <= high
            assert kind is Float64 or high - low < Fraction(2) ** -250
    root = intervals(Sharp, np.array([abs(a)]))[0].sqrt()
    (low,), (high,) = ends(np.array([root], object))
    assert low**2 <= Fraction(abs(a)) <= high**2


def test_intervals_refuse_what_they_cannot_decide() -> None:
    wide = Interval(-(1 << 320), 1 << 320)
    for undecided in (lambda: wide > 0, lambda: wide < 0, lambda: wide <= 0, lambda: 1 / wide):
        with pytest.raises(SoRAError):
            undecided()
    with pytest.raises(SoRAError, match="on the threshold"):
        cut(soft_threshold, intervals(Float64, np.array([0.5])), Fraction(1, 2))
    assert 2 - Sharp.exactly(0.5) > 1
    assert Sharp.exactly(0.5) ** 3 == 0.125
    assert Sharp.exactly(0.5).low == (1 << 320) // 2


def test_numbers_are_rounded_once_and_bounds_up_to_a_grid() -> None:
    beyond_half = 1 + Fraction(1, 2**24) + Fraction(1, 2**60)  # float64 rounds to the tie, whose even neighbour is 1
    assert nearest(beyond_half, "float32") == np.float32(1 + 2.0**-23)
    assert np.float32(float(beyond_half)) == 1
    assert nearest(Fraction(1, 3), "float64") == 1 / 3
    assert upward(Fraction(0)) == 0
    for x in (Fraction(1, 3), Fraction(5, 2**60), Fraction(10) ** -30):
        assert x < Fraction(upward(x)) < x * Fraction(130, 128)
        assert (upward(x) / 2.0 ** (math.frexp(upward(x))[1] - 8)).is_integer()
    with pytest.raises(SoRAError, match="next to a change"):
        upward(Fraction(3, 8) / (1 + Fraction(1, 2**20)))


def test_the_format_is_written_as_the_library_reads_it() -> None:
    from safetensors.numpy import load

    tensors = {
        "b": np.array([True, False]),
        "a": np.arange(6.0).reshape(2, 3).T,
        "c": np.zeros((0, 3), np.float32),
        "d": np.array(2.5),
    }
    found = load(safetensors(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_making_depends_on_nothing_that_came_before() -> None:
    np.random.seed(1)
    assert make() == {name: (FOLDER / name).read_bytes() for name in (MANIFEST, TENSORS, SCHEMA)}
