"""Laws of the whole map over the rationals: symmetries, forms and sums, `==` throughout, outputs and gradients alike.

Whatever a function returns here has come back through the exact backend's `to_host`, which raises where it finds a
float.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    Exact,
    LinearCase,
    all_equal,
    batches,
    dropouts,
    exact,
    inner,
    keys,
    loop_forward,
    ranks,
    rationals,
    sizes,
)

from sora_ref import (
    SoRA,
    absorb_gate,
    combine_microbatches,
    count_parameters,
    delta,
    kept_components,
    merge,
    prune,
    sora_linear_backward,
    sora_linear_forward,
    unmerge,
)
from sora_ref.backends import get
from sora_ref.backends.exact_backend import Rational

to_host = get("exact").to_host
generator = np.random.default_rng
BRANCH = ("dA", "dg", "dB")
INTO: tuple[Literal["A", "B"], ...] = ("A", "B")
FOLDS = tuple(product(INTO, (False, True)))
nonzero = rationals.filter(bool)


class Problem(NamedTuple):
    """A SoRA linear and the gradient dy at its output."""

    case: LinearCase
    dy: Exact

    @property
    def adapter(self) -> SoRA:
        return SoRA(self.case.A, self.case.g, self.case.B, self.case.s)


def numbers(rng: np.random.Generator, *shape: int) -> Exact:
    """Rationals k/d with k ≠ 0, so that nothing vanishes by accident."""
    return exact(rng.integers(1, 9, shape) * rng.choice([-1, 1], shape)) / exact(rng.integers(1, 8, shape))


def adapter_of(rng: np.random.Generator, out: int, r: int, in_: int, s: Any) -> SoRA:
    """About a third of the gates are closed."""
    return SoRA(numbers(rng, r, in_), numbers(rng, r) * exact(rng.random(r) > 1 / 3), numbers(rng, out, r), s)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Shapes are drawn; the numbers come from one key, which is many times faster than to draw each."""
    (out, in_, r), batch, rng = (draw(sizes), draw(sizes), draw(ranks)), draw(batches), generator(draw(keys))
    A, g, B, s = adapter_of(rng, out, r, in_, numbers(rng, 1)[0])
    b = numbers(rng, out) if draw(st.booleans()) else None
    case = LinearCase(numbers(rng, *batch, in_), numbers(rng, out, in_), b, A, g, B, s)
    return Problem(case, numbers(rng, *batch, out))


def results(problem: Problem, adapter: SoRA | None, W0: Any = None, keep: Any = None, p: Any = 0) -> dict[str, Exact]:
    """The output and every gradient, with this adapter in place of the problem's own."""
    W = problem.case.W0 if W0 is None else W0
    y, cache = sora_linear_forward(problem.case.x, W, problem.case.b, adapter, keep=keep, p=p)
    grads = sora_linear_backward(problem.dy, cache, dW0=True, db=True)
    return {"y": to_host(y), **{name: to_host(grad) for name, grad in grads._asdict().items() if grad is not None}}


def agree(found: dict[str, Exact], expected: dict[str, Exact]) -> bool:
    return found.keys() == expected.keys() and all(all_equal(found[name], expected[name]) for name in found)


def as_sora(lora: Any) -> SoRA:
    return SoRA(lora.A, exact(np.ones(lora.A.shape[0])), lora.B, lora.s)


# --- forms of one map ----------------------------------------------------------------------------------------------


def fixed_problem(r: int, g: Sequence[Fraction]) -> Problem:
    """Three rows, (in, out) = (3, 2), no zero but of gates."""
    rng, shapes = generator(r), ((3, 3), (2, 3), (2,), (r, 3), (2, r), (3, 2))
    x, W0, b, A, B, dy = (numbers(rng, *shape) for shape in shapes)
    return Problem(LinearCase(x, W0, b, A, exact(np.array(g, object)), B, Rational(16, 3)), dy)


@pytest.mark.exact("SORA-PRUNE-1", "SORA-PRUNE-2", "SORA-PRUNE-3", "SORA-PRUNE-4", "SORA-LINEAR-2", "SORA-LINEAR-4")
@pytest.mark.parametrize("r", range(5))
def test_forms_have_one_output_and_one_gradient_for_every_pattern_of_zeros_and_signs(r: int) -> None:
    """All 3^r patterns of closed, positive and negative gates, all and none closed and rank 0 included."""
    for g in product((Fraction(0), Fraction(3, 7), Fraction(-2, 5)), repeat=r):
        problem = fixed_problem(r, g)
        full, adapter = results(problem, problem.adapter), problem.adapter
        kept = kept_components(adapter.g)
        closed = [i for i in range(r) if i not in kept]
        assert kept == tuple(i for i in range(r) if g[i])
        assert all_equal(full["y"], loop_forward(*problem.case))

        pruned = prune(adapter, kept)
        rows = {"dA": full["dA"][list(kept)], "dg": full["dg"][list(kept)], "dB": full["dB"][:, list(kept)]}
        assert agree(results(problem, pruned), {**full, **rows})
        assert all(value == 0 for value in (*full["dA"][closed].flat, *full["dB"][:, closed].flat))
        assert all(full["dg"][closed] != 0)  # what pruning forgets

        shared = {name: value for name, value in full.items() if name not in BRANCH}
        assert agree(results(problem, None, merge(problem.case.W0, pruned).W), shared)
        for into, scale in FOLDS:
            absorbed = results(problem, as_sora(absorb_gate(pruned, into=into, scale=scale)))
            assert agree({name: absorbed[name] for name in shared}, shared)


@pytest.mark.exact("SORA-PRUNE-3", "SORA-LINEAR-3")
@pytest.mark.parametrize(("into", "scale"), FOLDS)
@given(problem=problems())
def test_gradients_of_an_absorbed_gate_obey_the_chain_rule(
    into: Literal["A", "B"], scale: bool, problem: Problem
) -> None:
    """With A' = f·A (or B' = B·f) and f = g or s·g: dA = f dA', and dg is f' times ⟨A_i, dA'_i⟩, row by row."""
    adapter, (_, _, _, A, g, B, s) = problem.adapter, problem.case
    full = results(problem, adapter)
    folded = results(problem, as_sora(absorb_gate(adapter, into=into, scale=scale)))
    slope = s if scale else Rational(1)
    if into == "A":
        full_of_folded = {"dA": (slope * g)[:, None] * folded["dA"], "dg": slope * (A * folded["dA"]).sum(axis=1)}
    else:
        full_of_folded = {"dB": folded["dB"] * (slope * g), "dg": slope * (B * folded["dB"]).sum(axis=0)}
    assert agree({**folded, **full_of_folded}, full)


@pytest.mark.exact("SORA-PRUNE-3", "SORA-PRUNE-4", "SORA-PRUNE-5")
@given(problems(), keys)
def test_merging_absorbing_and_unmerging_go_round_twice(problem: Problem, key: int) -> None:
    (out, in_), W0, first = problem.case.W0.shape, problem.case.W0, problem.adapter
    second = adapter_of(generator(key), out, first.rank, in_, first.s)
    for keep_base in (True, False):
        once = merge(W0, first, keep_base=keep_base)
        twice = merge(once.W, second, keep_base=keep_base)
        assert all_equal(to_host(twice.W), to_host(merge(W0, stacked(first, second)).W))
        back = unmerge(twice)
        assert all_equal(to_host(back), once.W)
        assert all_equal(to_host(unmerge(once._replace(W=back))), W0)
        assert all_equal(to_host(merge(unmerge(once), first).W), once.W)
    for into, then in product(INTO, repeat=2):
        lora = absorb_gate(first, into=into, scale=True)
        again = absorb_gate(as_sora(lora), into=then, scale=True)
        assert all(all_equal(to_host(p), q) for p, q in zip(again[:2], lora[:2], strict=True))
        assert all_equal(to_host(delta(as_sora(again))), to_host(delta(first)))


# --- symmetries of the triple --------------------------------------------------------------------------------------


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PRUNE-2", "SORA-COUNT-2")
@given(problems(), st.data())
def test_permuting_components_leaves_the_map_and_permutes_the_gradients(problem: Problem, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(problem.adapter.rank)))
    A, g, B, s = problem.adapter
    permuted = SoRA(A[order], g[order], B[:, order], s)
    full = results(problem, problem.adapter)
    rows = {"dA": full["dA"][order], "dg": full["dg"][order], "dB": full["dB"][:, order]}
    assert agree(results(problem, permuted), {**full, **rows})
    assert all_equal(to_host(delta(permuted)), to_host(delta(problem.adapter)))
    assert counts(permuted) == counts(problem.adapter)


SYMMETRIES = ("A against B", "g against B", "A against g", "signs of g and B", "all, by component", "s against B")


def scaling(kind: str, r: int, data: st.DataObject) -> tuple[Any, Any, Any, Any]:
    """Factors of A (by row), g, B (by column) and s whose product is 1 in every component."""
    one, c = exact(np.ones(r)), Rational(data.draw(nonzero))
    a, e = numbers(generator(data.draw(keys)), 2, r)
    return {
        "A against B": (c * one, one, one / c, 1),
        "g against B": (one, c * one, one / c, 1),
        "A against g": (a, one / a, one, 1),
        "signs of g and B": (one, -one, -one, 1),
        "all, by component": (a, e, one / (a * e), 1),
        "s against B": (one, one, one / c, c),
    }[kind]


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PRUNE-4", "SORA-COUNT-2")
@pytest.mark.parametrize("kind", SYMMETRIES)
@given(problem=problems(), data=st.data())
def test_rescaling_leaves_the_map_and_its_gradients_transform_contravariantly(
    kind: str, problem: Problem, data: st.DataObject
) -> None:
    A, g, B, s = problem.adapter
    a, e, b, c = scaling(kind, problem.adapter.rank, data)
    rescaled = SoRA(a[:, None] * A, e * g, b * B, c * s)
    full = results(problem, problem.adapter)
    covectors = {"dA": full["dA"] / a[:, None], "dg": full["dg"] / e, "dB": full["dB"] / b}
    assert agree(results(problem, rescaled), {**full, **covectors})
    assert all_equal(to_host(delta(rescaled)), to_host(delta(problem.adapter)))
    assert counts(rescaled) == counts(problem.adapter)


# --- sums ----------------------------------------------------------------------------------------------------------


def stacked(*adapters: SoRA) -> SoRA:
    """One adapter of summed rank; all have the same s."""
    A, g, B, s = zip(*adapters, strict=True)
    return SoRA(np.concatenate(A), np.concatenate(g), np.concatenate(B, axis=1), s[0])


def counts(*adapters: SoRA) -> Any:
    return count_parameters({str(i): adapter for i, adapter in enumerate(adapters)}, hidden=3, head=5)


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PRUNE-2", "SORA-PRUNE-4", "SORA-COUNT-2")
@given(problems(), st.integers(0, 3), keys)
def test_two_modules_of_one_scale_are_one_of_summed_rank(problem: Problem, r: int, key: int) -> None:
    (out, in_), first = problem.case.W0.shape, problem.adapter
    second = adapter_of(generator(key), out, r, in_, first.s)
    both, one, two, frozen = (results(problem, adapter) for adapter in (stacked(first, second), first, second, None))
    for name in ("y", "dx"):
        assert all_equal(both[name], one[name] + two[name] - frozen[name])
    for name, axis in zip(BRANCH, (0, 0, 1), strict=True):
        assert all_equal(both[name], np.concatenate([one[name], two[name]], axis=axis))
    assert all_equal(to_host(delta(stacked(first, second))), to_host(delta(first)) + to_host(delta(second)))
    left, right = (prune(adapter, kept_components(adapter.g)) for adapter in (first, second))
    pruned = prune(stacked(first, second), kept_components(stacked(first, second).g))
    assert all(all_equal(to_host(p), q) for p, q in zip(pruned[:3], stacked(left, right)[:3], strict=True))
    assert counts(stacked(first, second)) == counts(first, second)
    assert counts(first, second).retained == counts(left, right).total == counts(pruned).retained


@pytest.mark.exact("SORA-LINEAR-3")
@given(problems(), keys, rationals, rationals)
def test_backward_is_linear_in_dy(problem: Problem, key: int, a: Fraction, c: Fraction) -> None:
    other = problem._replace(dy=numbers(generator(key), *problem.dy.shape))
    both = results(problem._replace(dy=problem.dy * a + other.dy * c), problem.adapter)
    one, two = (results(each, problem.adapter) for each in (problem, other))
    for name in both.keys() - {"y"}:
        assert all_equal(both[name], a * one[name] + c * two[name]), name


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3")
@given(problems(), dropouts, keys)
def test_backward_is_the_adjoint_of_the_derivative_in_all_arguments_at_once(
    problem: Problem, p: Fraction, key: int
) -> None:
    """Along θ + tV the output has degree 4 in t at most, for which the five-point rule for f'(0) makes no error."""
    case, rng, drop = problem.case, generator(key), Rational(p)
    keep = rng.random(case.x.shape) < 0.6
    moving = [name for name in ("x", "W0", "b", "A", "g", "B") if getattr(case, name) is not None]
    V = {name: numbers(rng, *getattr(case, name).shape) for name in moving}

    def along(t: int) -> Exact:
        moved = Problem(case._replace(**{name: getattr(case, name) + t * step for name, step in V.items()}), problem.dy)
        return results(moved, moved.adapter, keep=keep, p=drop)["y"]

    Jv = (along(-2) - 8 * along(-1) + 8 * along(1) - along(2)) / 12
    found = results(problem, problem.adapter, keep=keep, p=drop)
    assert inner(problem.dy, exact(Jv)) == sum(inner(found[f"d{name}"], step) for name, step in V.items())


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-STEP-2")
@given(problems(), st.lists(st.integers(0, 4), max_size=3).map(sorted))
def test_gradients_of_microbatches_sum_to_those_of_the_batch(problem: Problem, cuts: list[int]) -> None:
    rows, dys = (np.reshape(t, (-1, t.shape[-1])) for t in (problem.case.x, problem.dy))
    whole = results(Problem(problem.case._replace(x=rows), dys), problem.adapter)
    parts = [
        results(Problem(problem.case._replace(x=x), dy), problem.adapter)
        for x, dy in zip(np.split(rows, cuts), np.split(dys, cuts), strict=True)
    ]
    assert all_equal(np.concatenate([part["y"] for part in parts]), whole["y"])
    assert all_equal(np.concatenate([part["dx"] for part in parts]), whole["dx"])
    names = whole.keys() - {"y", "dx"}
    three: Any = Rational(3)  # an int would turn the int zeros that NumPy sums of nothing are into floats
    mean = combine_microbatches([{name: part[name] for name in names} for part in parts], three)
    assert all(all_equal(3 * to_host(mean[name]), whole[name]) for name in names)
