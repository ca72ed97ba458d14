"""The museum: every mistake is refused for its clause, no two are the same, and what is right is not refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from sora_ref.conformance import Layer, Plan, Subject, all_checks, capabilities, check_implementation, run_check, select
from sora_ref.conformance.engine.runner import EXAMPLES
from sora_ref.conformance.museum import BASELINES, MISTAKES, Mistake, Verdict, last_line, run_all, run_mistake, table
from sora_ref.conformance.museum.baseline import PlainSoRA

Floats = npt.NDArray[Any]
FEW = 15  # examples a check, which refuse all mistakes but these
RARE = ("SumMissesTheLast", "SwappedWhereShapesAgree")
CHECKS = {name for each in all_checks() for name in (each.id, each.clause)}


def identifier(each: Mistake) -> str:
    return each.implementation.__name__


# --- every mistake is refused, and what is right is not ---


@pytest.mark.parametrize("each", [each for each in MISTAKES if identifier(each) not in RARE], ids=identifier)
def test_mistake_is_refused_for_its_clause(each: Mistake) -> None:
    verdict = run_mistake(each, max_examples=FEW)
    assert verdict.right, f"{verdict}: {verdict.outcome and verdict.outcome.refusal}"


@pytest.mark.parametrize("each", [each for each in MISTAKES if identifier(each) in RARE], ids=identifier)
def test_mistake_that_few_examples_show_is_refused_by_its_check(each: Mistake) -> None:
    (check,) = select(only=[each.refused_by])
    outcome = run_check(Subject(each.implementation(), "float64"), check, max_examples=EXAMPLES, shrink=False)
    assert outcome.status == "failed"


@pytest.mark.deep
@pytest.mark.parametrize("each", MISTAKES, ids=identifier)
def test_mistake_is_refused_for_its_clause_with_as_many_examples_as_users_draw(each: Mistake) -> None:
    verdict = run_mistake(each)
    assert verdict.right, f"{verdict}: {verdict.outcome and verdict.outcome.refusal}"


@pytest.mark.parametrize("base", BASELINES)
def test_what_mistakes_begin_from_is_right(base: type[PlainSoRA]) -> None:
    report = check_implementation(base, max_examples=5)
    assert report.holds
    assert [each for each in report.shortcomings() if each.status != "skipped"] == []


@pytest.mark.parametrize("base", BASELINES)
def test_right_implementation_among_the_mistakes_is_reported_as_not_refused(base: type[PlainSoRA]) -> None:
    control, wrong = Mistake(base, "SORA-LINEAR-1", ""), MISTAKES[0]
    said: list[Verdict] = []
    verdicts = run_all(said.append, mistakes=[wrong, control, wrong], max_examples=5)
    assert list(verdicts) == said
    assert [verdict.right for verdict in verdicts] == [True, False, True]
    assert verdicts[1].outcome is None
    assert str(verdicts[1]).endswith("not refused, expected SORA-LINEAR-1")
    assert last_line(verdicts) == "refused 2/3 for the right clause"


def test_mistake_that_is_refused_for_another_clause_does_not_count() -> None:
    mislabelled = Mistake(MISTAKES[0].implementation, "SORA-PROX-1", "")
    verdict = run_mistake(mislabelled, max_examples=5)
    assert verdict.outcome is not None
    assert not verdict.right


SAMPLE = ("PenaltyAveraged", "SecondMergeGoesThrough", "BetasSwapped")


@pytest.mark.parametrize("name", SAMPLE)
def test_shortcut_past_what_a_mistake_does_not_touch_changes_no_verdict(name: str) -> None:
    (each,) = (one for one in MISTAKES if one.implementation.__name__ == name)
    short, long = (run_mistake(each, max_examples=5, shortcut=shortcut).outcome for shortcut in (True, False))
    assert short is not None
    assert long is not None
    assert (short.check, str(short.refusal)) == (long.check, str(long.refusal))


# --- what the museum says ---


def test_museum_has_what_was_promised() -> None:
    assert len(MISTAKES) >= 60
    assert len({each.name for each in MISTAKES}) == len(MISTAKES)


def test_every_mistake_says_what_it_is_in_one_sentence() -> None:
    assert [each.name for each in MISTAKES if not each.says.endswith(".") or ". " in each.says] == []
    assert [
        each.name for each in MISTAKES if each.implementation.name != each.name or each.implementation in BASELINES
    ] == []
    assert [each.name for each in MISTAKES if each.refused_by not in CHECKS] == []


def test_every_mistake_declares_what_its_base_declares() -> None:
    """It is refused for what it does, and not for what it calls itself."""
    for each in MISTAKES:
        assert each.implementation.choices == each.base.choices
        assert capabilities(each.implementation()) == capabilities(each.base())


def test_table_has_a_row_for_every_mistake() -> None:
    rows = [line.replace("\\|", "").strip("| ").split(" | ") for line in table().splitlines()[2:]]
    assert [row[0] for row in rows] == [each.name for each in MISTAKES]
    assert [row[3] for row in rows] == [each.refused_by for each in MISTAKES]
    assert {len(row) for row in rows} == {4}


# --- no two of them are the same ---


class Fingerprint(NamedTuple):
    """What an implementation computes on the probes: numbers, and everything else there is to say about the results."""

    shape: tuple[Any, ...]
    numbers: Floats


def test_no_two_mistakes_compute_the_same() -> None:
    known = [(each.name, fingerprint(each.implementation)) for each in MISTAKES]
    known += [(base.name, fingerprint(base)) for base in BASELINES]
    assert alike(known) == []


def test_two_names_for_one_program_are_found_alike() -> None:
    known = [("right", fingerprint(BASELINES[0])), ("wrong", fingerprint(MISTAKES[0].implementation))]
    found = alike([*known, ("again", fingerprint(BASELINES[0])), *known])
    assert sorted(found) == [("again", "right"), ("right", "again"), ("right", "right"), ("wrong", "wrong")]


@pytest.mark.parametrize("kind", [*BASELINES, MISTAKES[0].implementation, MISTAKES[-1].implementation])
def test_same_program_under_another_name_has_the_same_fingerprint(kind: type[PlainSoRA]) -> None:
    assert same(fingerprint(kind), fingerprint(type("Other", (kind,), {})))


def test_one_rounding_makes_no_other_fingerprint() -> None:
    class Associated(PlainSoRA):
        def branch(self, layer: Layer, x: Floats) -> Floats:
            out: Floats = layer.s * (x @ (layer.A.T * layer.g) @ layer.B.T)
            return out

    assert same(fingerprint(PlainSoRA), fingerprint(Associated))


def alike(known: Sequence[tuple[str, Fingerprint]]) -> list[tuple[str, str]]:
    """The pairs that are equal but for roundings; the numbers of the probes are of size 1 to 1000."""
    found = []
    by_shape: dict[tuple[Any, ...], list[tuple[str, Floats]]] = {}
    for name, (shape, numbers) in known:
        by_shape.setdefault(tuple(map(str, shape)), []).append((name, numbers))
    for group in by_shape.values():
        names, rows = [name for name, _ in group], np.stack([numbers for _, numbers in group])
        for i, name in enumerate(names):
            equal = np.isclose(rows[i + 1 :], rows[i], rtol=1e-12, atol=1e-12, equal_nan=True).all(axis=1)
            found += [(name, names[i + 1 + k]) for k in np.flatnonzero(equal)]
    return found


def same(one: Fingerprint, two: Fingerprint) -> bool:
    return alike([("one", one), ("two", two)]) != []


def fingerprint(kind: type[PlainSoRA]) -> Fingerprint:
    """All capabilities on all probes; results once more at the end, in case a later call has changed them."""
    implementation, said, numbers, kept = kind(), [], [], []
    with np.errstate(all="ignore"):
        for name, arguments in probes():
            before = list(parts(arguments))
            try:
                result = _call(implementation, name, arguments)
            except Exception as error:
                result = type(error).__name__
            kept.append(result)
            said.append((name, list(parts(arguments)) == before))
            numbers.append(_numbers(result, said, zeros=name == "prox"))
        numbers += [_numbers(result, said) for result in kept]
    return Fingerprint(tuple(said), np.concatenate(numbers))


def _call(implementation: PlainSoRA, name: str, arguments: tuple[Any, ...]) -> Any:
    if name != "store":
        return getattr(implementation, name)(*arguments)
    (layer,) = arguments
    with tempfile.TemporaryDirectory() as folder:
        implementation.save(layer, Path(folder))
        return implementation.load(Path(folder), layer.W0, layer.b)


def parts(value: Any) -> Iterator[Any]:
    """What a value is made of: the bytes of arrays, numbers, and the words for the rest."""
    if isinstance(value, np.ndarray):
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield from (part for key in sorted(value) for part in parts(value[key]))
    elif isinstance(value, list | tuple):
        yield from (part for each in value for part in parts(each))
    else:
        yield value


def _numbers(value: Any, said: list[Any], zeros: bool = False) -> Floats:
    """The numbers of a result in one row; what else there is of it goes into `said`."""
    if isinstance(value, Mapping):
        value = [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list | tuple):
        said.append(len(value))
        return np.concatenate([np.empty(0), *(_numbers(each, said, zeros) for each in value)])
    if isinstance(value, np.ndarray):
        said.append((value.shape, value.dtype.str, (value == 0).tolist() if zeros else None))
        return value.ravel().astype(float)
    if isinstance(value, float | int | np.number):
        return np.array([float(value)])
    said.append(value)
    return np.empty(0)


def probes() -> list[tuple[str, tuple[Any, ...]]]:
    """Arguments of every capability, anew: layers and inputs of several shapes, all kinds of gates, schedules."""
    rng = np.random.default_rng(0)
    found: list[tuple[str, tuple[Any, ...]]] = []
    layers = [
        *(_layer(rng, 3, 4, gates) for gates in ((1.25, 0.0, -0.75), (0.0, 0.0), ())),
        _layer(rng, 2, 2, (1.5, -2.0)),
        _layer(rng, 2, 3, (1e-10, -1e-6, 1e-4)),
    ]
    layers.insert(1, layers[0]._replace(A=layers[0].A + 1, B=layers[0].B - 1))  # the same W0, another branch
    for layer in layers:
        for lead in ((2,), (), (2, 3), (0,)) if layer is layers[0] else ((2,),):
            x, dy = (rng.standard_normal((*lead, size)) for size in layer.W0.shape[::-1])
            found += [("forward", (layer, x)), ("gradients", (layer, x, dy))]
            found += [("training_forward", (layer, x, 0.75, 5)), ("training_gradients", (layer, x, dy, 0.75, 5))]
        found += [(name, (layer,)) for name in ("prune", "merge", "unmerge", "store")]
        found += [("refuse_merge", (layer, case)) for case in ("again", "tied", "dropout")]
        found += _training(rng, layer)
    named = {"query": layers[0], "ffn": layers[2], "out": layers[4]._replace(B=0 * layers[4].B)}
    found += [("count", (named,)), ("ranks", (named,)), ("penalty", ([layer.g for layer in layers], 0.5))]
    one = np.ones((1, 1), "float32")
    single = ("forward", (Layer(one, one[0], one, one[0], one, 2.0), one))
    return [*found, single, *_thresholds(rng), *_schedules()]


def _layer(rng: np.random.Generator, out: int, in_: int, gates: tuple[float, ...]) -> Layer:
    r, normal = len(gates), rng.standard_normal
    return Layer(normal((out, in_)), normal(out), normal((r, in_)), np.array(gates), normal((out, r)), 16 / 3)


def _training(rng: np.random.Generator, layer: Layer) -> list[tuple[str, tuple[Any, ...]]]:
    xs, dys = (rng.standard_normal((3, 2, size)) for size in layer.W0.shape[::-1])
    plan = Plan((0.1, 0.2, 0.05, 0.4), 0.3, 0.25, weight_decay=0.5)
    settings = (plan, *(Plan(plan.lrs, 0.3, 0.25, clip=clip) for clip in (None, 0.5, 1e3)))
    microbatches = [(xs[0], dys[0]), (xs[1, :1], dys[1, :1])]
    return [("train", (layer, xs, dys, each)) for each in settings] + [("accumulate", (layer, microbatches))]


def _thresholds(rng: np.random.Generator) -> list[tuple[str, tuple[Any, ...]]]:
    points = np.array([0.3, -0.3, 0.6, -0.6, 0.0, 1e-9, np.nan, np.inf, -np.inf])
    gates, grads = rng.uniform(-1, 1, 16), rng.standard_normal((4, 16))
    gates[::4] = 0
    plan = Plan((0.1, 0.2, 0.05, 0.4, 0.3), 0.5, 0.25, weight_decay=0.5)
    return [
        ("prox", (points, 0.3)),
        ("prox", (np.concatenate([gates, 3 * gates]), 0.3)),
        ("gate_steps", (gates, grads, plan)),
        ("gate_steps", (gates, grads[:1] / 8, plan)),
    ]


def _schedules() -> list[tuple[str, tuple[Any, ...]]]:
    kinds = ("linear", "log_linear", "exp_linear")
    modules = ((0, "m0"), (1, "m0"), (0, "m1"), (0, "m0"))
    return [
        *(("learning_rates", (0.5, total, warmup)) for total, warmup in ((7, 3), (5, 0), (1, 1))),
        *(("stage_values", (kind, 0.25, 2.0, stages)) for kind in kinds for stages in (1, 4)),
        *(("algorithm_1", arguments) for arguments in ((0.1, 0.3, 0.1), (0.0, 0.35, 0.1), (0.25, 0.25, 0.05))),
        ("stage_rates", ([0.1, 0.2], 1.0, 4, 1)),
        *(("initial", (name, 3, 5, r, 16.0, seed)) for r in (0, 3) for seed, name in modules),
    ]


def test_probes_reach_every_capability() -> None:
    reached: set[str] = {name for name, _ in probes()} - {"store"} | {"save", "load"}
    assert reached == set(capabilities(PlainSoRA()))
