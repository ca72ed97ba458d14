"""SORA-BOUND: floating-point results lie within the derived bounds of the exact ones, whatever the magnitudes."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import rounding_report
from hypothesis import given
from hypothesis import strategies as st
from rounding_report import (
    ARITHMETICS,
    AXES,
    OPERATIONS,
    STORED_FP16,
    TRUNCATING,
    Arguments,
    Arithmetic,
    accumulated,
    compute,
    gates_first,
    has_bound_to_reach,
    limit,
    results,
    through_the_weight,
    worst,
)
from sampling import sample
from strategies import (
    MAGNITUDES,
    FloatCase,
    all_equal,
    dropouts,
    exact,
    float_cases,
    keys,
    loop_forward,
    spread,
)

from sora_ref import SoRA, merge, sora_linear_backward, sora_linear_forward, unmerge
from sora_ref.bounds import FP16, Precision, linear_backward_bound, linear_bound, precision_of, unmerge_bound

pytestmark = pytest.mark.filterwarnings("ignore:underflow")
DTYPES = [np.float32, np.float64]
LOW = {name: how for name, how in ARITHMETICS.items() if how.precision.unit_in}
LOW |= {f"{name}, truncating": how for name, how in TRUNCATING.items()}
LOW |= {"fp16, stored": STORED_FP16}


REACHED = [case for case in itertools.product(OPERATIONS, ARITHMETICS, [1, 2, 8]) if has_bound_to_reach(*case)]


def forms(case: FloatCase) -> dict[str, Any]:
    """The value of the SoRA linear in each form."""
    args = Arguments(np.zeros((len(case.x), len(case.W0)), case.x.dtype), *case)
    return {name: compute(args) for name, compute in rounding_report.RESULTS.items() if name.startswith("y")}


def outside(found: dict[str, Any], args: Arguments, precision: Precision) -> dict[str, float]:
    """The results further from the exact ones than their bound, with the share of the bound they have."""
    truth = results(args.exact())
    shares = {}
    for name, value in found.items():
        error = abs(exact(np.asarray(value)) - exact(truth[name]))
        bound = exact(limit(name, args, precision))
        assert error.shape == bound.shape, name
        if not (error <= bound).all():
            shares[name] = max(float(e / b) for e, b in zip(error.ravel(), bound.ravel(), strict=True))
    return shares


@pytest.mark.bounded("SORA-BOUND-2", "SORA-LINEAR-1", "SORA-PRUNE-2", "SORA-PRUNE-3", "SORA-PRUNE-4")
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_every_form_lies_within_the_bound_of_the_exact_value(dtype: Any, data: st.DataObject) -> None:
    """The truth is the elementwise loop over the rationals."""
    case = data.draw(float_cases(dtype))
    truth = loop_forward(*case)
    bound = exact(linear_bound(case.x, case.W0, case.b, case.adapter))
    for name, y in forms(case).items():
        assert (abs(exact(y) - truth) <= bound).all(), name


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-6", "SORA-LINEAR-3")
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_every_result_lies_within_its_bound_whatever_the_magnitudes(dtype: Any, data: st.DataObject) -> None:
    """Outputs, all gradients, the merged weight; the gradients by way of dW; frozen products added onto the branch."""
    case = data.draw(float_cases(dtype))
    dy = spread((len(case.x), len(case.W0)), data.draw(st.sampled_from(MAGNITUDES)), dtype, np.random.default_rng(3))
    args = Arguments(dy, *case)
    for way in (results, through_the_weight, gates_first, accumulated):
        assert outside(way(args), args, precision_of(args.x)) == {}, way.__name__


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), p=dropouts.filter(bool) | st.just(Fraction(1, 10)))
def test_dropout_lies_within_the_bound_too(dtype: Any, data: st.DataObject, p: Fraction) -> None:
    case, rate = data.draw(float_cases(dtype)), float(p)
    keep = np.random.default_rng(5).random(case.x.shape) < 0.6
    dy = np.random.default_rng(6).standard_normal((len(case.x), len(case.W0))).astype(dtype)

    def compute(args: Arguments, p: Any) -> dict[str, Any]:
        y, cache = sora_linear_forward(args.x, args.W0, args.b, args.adapter, keep=keep, p=p)
        return {"y": y, **sora_linear_backward(args.dy, cache, dW0=True, db=True)._asdict()}

    args = Arguments(dy, *case)
    found, truth = compute(args, rate), compute(args.exact(), exact(rate).item())
    y = linear_bound(args.x, args.W0, args.b, args.adapter, keep=keep, p=rate)
    bounds = linear_backward_bound(dy, args.x, args.W0, args.adapter, keep=keep, p=rate)._asdict()
    for name, bound in {"y": y, **bounds}.items():
        assert (abs(exact(found[name]) - exact(truth[name])) <= exact(bound)).all(), name


@pytest.mark.bounded("SORA-BOUND-5")
@pytest.mark.parametrize("arithmetic", LOW.values(), ids=LOW)
@given(key=keys, kind=st.sampled_from(["plain", "tiny", "cancelling"]), sizes=st.tuples(*[st.integers(1, 5)] * 4))
def test_products_of_rounded_inputs_lie_within_the_bound_of_their_precision(
    arithmetic: Arithmetic, key: int, kind: str, sizes: tuple[int, ...]
) -> None:
    """TF32, bf16 and fp16 by rounding the inputs of every matrix product; fp16's subnormals among them.

    Sums as NumPy forms them, and as a matrix unit may: each truncated, and flushed to zero below the normal numbers.
    And bf16 and fp16 with every result rounded to it.
    """
    rng, (n, out, in_, r) = np.random.default_rng(key), sizes
    shapes = {"dy": (n, out), "x": (n, in_), "W0": (out, in_), "b": (out,), "A": (r, in_), "g": (r,), "B": (out, r)}
    low = -9 if arithmetic.precision.spacing_in == FP16.spacing_in else -30
    scale = {"plain": 1.0, "cancelling": 1.0, "tiny": 10.0 ** rng.integers(low, 0)}[kind]
    parts = {
        k: scale * spread(shape, "plain" if kind == "tiny" else kind, np.float32, rng) for k, shape in shapes.items()
    }
    args = Arguments(**parts, s=0.3).map(arithmetic.cast)
    for way in (results, through_the_weight, gates_first):
        assert outside(way(args), args.map(np.asarray), arithmetic.precision) == {}, way.__name__


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-5", "SORA-BOUND-6")
@pytest.mark.parametrize(
    ("operation", "name", "n"),
    sample(REACHED, *(case for case in REACHED if case[2] == 2)),
)
def test_bound_is_at_most_eight_times_the_worst_error_found(operation: str, name: str, n: int) -> None:
    """Sums of up to eight terms: the bound is no idle one, and never exceeded."""
    assert 1 / 8 <= worst(operation, name, n) <= 1


@pytest.mark.bounded("SORA-BOUND-5")
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "db"])
def test_underflow_of_fp16_inputs_leaves_the_bound_no_idle_one(operation: str) -> None:
    """Entries of 1/16, so that products of five are a millionth: still above what fp16's subnormals may take."""
    assert 1 / 8 <= worst(operation, "fp16", 4, 1 / 16) <= 1


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-5", "SORA-BOUND-6")
@pytest.mark.parametrize("name", ARITHMETICS)
@pytest.mark.parametrize("operation", AXES)
def test_an_error_of_twice_the_bound_is_caught(operation: str, name: str) -> None:
    """Injected at one entry, on either side: |error| ≥ 2·bound − bound, and the checks of this file see it."""
    arithmetic, rng = ARITHMETICS[name], np.random.default_rng(11)
    shapes = {"dy": (2, 3), "x": (2, 2), "W0": (3, 2), "b": (3,), "A": (2, 2), "g": (2,), "B": (3, 2)}
    args = Arguments(**{k: rng.standard_normal(shape) for k, shape in shapes.items()}, s=1.5).map(arithmetic.cast)
    plain, value = args.map(np.asarray), np.asarray(compute(operation, args), np.float64)
    assert outside({operation: value}, plain, arithmetic.precision) == {}
    for sign in (2.001, -2.001):
        wrong = value.copy()
        wrong.flat[0] += sign * limit(operation, plain, arithmetic.precision).flat[0]
        assert list(outside({operation: wrong}, plain, arithmetic.precision)) == [operation]


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PRUNE-2", "SORA-PRUNE-3", "SORA-PRUNE-4")
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 9), (np.float64, 500)])
@given(key=keys)
def test_results_are_bitwise_equal_where_integers_make_every_sum_exact(dtype: Any, size: int, key: int) -> None:
    """|every partial sum| ≤ 2·3²·s·size⁵, below 2²⁴ and 2⁵³: nothing rounds, so every form and order gives the same."""
    rng = np.random.default_rng(key)
    shapes = {"dy": (2, 3), "x": (2, 3), "W0": (3, 3), "b": (3,), "A": (2, 3), "g": (2,), "B": (3, 2)}
    parts = {k: rng.integers(-size, size + 1, shape).astype(dtype) for k, shape in shapes.items()}
    args = Arguments(**parts, s=2.0)
    truth = results(args.exact())
    for way in (results, through_the_weight, gates_first, accumulated):
        for name, value in way(args).items():
            assert value.dtype == dtype
            assert all_equal(exact(value), truth[name]), (way.__name__, name)


@pytest.mark.bounded("SORA-BOUND-2")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["x·W0", "x·A", "z·g", "s·u", "u·B"])
def test_bound_covers_gradual_underflow_at_each_multiplication(dtype: Any, place: str) -> None:
    """Two numbers whose product is below the smallest subnormal: the result is 0, and the error not relative to it."""
    tiny, one = dtype(float(np.finfo(dtype).smallest_normal)), dtype(1)
    values = dict.fromkeys(("x", "W0", "A", "g", "B"), one)
    s = 1.0
    first, second = {"x·W0": "x W0", "x·A": "x A", "z·g": "x g", "s·u": "x s", "u·B": "x B"}[place].split()
    values[first] = tiny
    if second == "s":
        s = float(tiny)
    else:
        values[second] = tiny
    if place != "x·W0":
        values["W0"] = dtype(0)
    x, W0, A, B = (np.full((1, 1), values[name]) for name in ("x", "W0", "A", "B"))
    case = FloatCase(x, W0, None, A, np.array([values["g"]]), B, s)
    truth = loop_forward(*case)
    bound = exact(linear_bound(case.x, case.W0, case.b, case.adapter))
    assert (truth > 0).all()
    for name, y in forms(case).items():
        assert (abs(exact(y) - truth) <= bound).all(), name


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-6")
@pytest.mark.parametrize(
    ("dtype", "x", "large", "gate", "s"),
    [
        (np.float32, 1e9, 1e9, 1.0, 1e-42),
        (np.float32, 1e9, 1e9, 1.0, 0.49 * 2.0**-149),
        (np.float32, 1e9, 1e9, 1.1e-15, 1e-30),
        (np.float16, 2.0**-8, 200.0, 1.0, 1.49 * 2.0**-24),
        (np.float16, 2.0**-8, 200.0, 1.49 * 2.0**-12, 2.0**-12),
        (np.float64, 1e70, 1e70, 1.1e-150, 1e-174),
    ],
)
def test_bounds_cover_an_s_that_is_lost_before_large_factors_meet_it(
    dtype: Any, x: float, large: float, gate: float, s: float
) -> None:
    """s, or s·g, is subnormal and rounds by up to all of itself; A and B are large, and so are x and dy."""
    row, one, zero = (np.full((1, 1), value, dtype) for value in (x, large, 0.0))
    args = Arguments(row, row, zero, None, one, np.full(1, gate, dtype), one, s)
    precision = precision_of(one)
    for way in (results, through_the_weight, gates_first):
        assert outside(way(args), args, precision) == {}, way.__name__
    lost = abs(exact(gates_first(args)["W merged"]) - exact(results(args.exact())["W merged"])).item()
    assert lost > 100 * float(precision.unit) * large * large * gate * s  # no relative error of a few roundings


@pytest.mark.bounded("SORA-BOUND-5")
def test_bounds_cover_an_s_that_is_lost_where_it_is_stored_in_fp16() -> None:
    """s·g = 0.99·2⁻²⁵ is 0 once it is stored, and the product of x, A and B is 2¹⁵."""
    one, part = np.ones((1, 1)), np.full((1, 1), 32.0)
    args = Arguments(one, part, 0 * one, None, part, one[0] * 2.0**-13, part, 0.99 * 2.0**-12).map(STORED_FP16.cast)
    for way in (results, through_the_weight, gates_first):
        assert outside(way(args), args.map(np.asarray), STORED_FP16.precision) == {}, way.__name__
    assert not np.any(np.asarray(gates_first(args)["y"]))


@pytest.mark.bounded("SORA-BOUND-4", "SORA-BOUND-5")
def test_bounds_cover_the_products_of_a_gates_gradient_each_lost_where_it_is_stored_in_fp16() -> None:
    """32 rows, v ⊙ z = 0.99·2⁻²⁵ in each; s comes first."""
    column, one = np.ones((32, 1)), np.ones((1, 1))
    dy, x, zero = 2.0**-13 * column, 0.99 * 2.0**-12 * column, 0 * one
    args = Arguments(dy, x, zero, None, one, one[0], one, 1.0).map(STORED_FP16.cast)
    assert outside({"dg": compute("dg", args)}, args.map(np.asarray), STORED_FP16.precision) == {}
    assert not np.any(np.asarray(compute("dg", args)))


@pytest.mark.bounded("SORA-BOUND-5")
def test_bounds_cover_what_dropout_makes_of_a_product_lost_where_it_is_stored_in_fp16() -> None:
    """(v ⊙ g) A = 0.99·2⁻²⁵ is 0 once it is stored, and the factor 1/(1 − p) = 2¹⁰ follows."""
    dy, one, A = (np.full((1, 1), value) for value in (2.0**-13, 1.0, 0.99 * 2.0**-12))
    args = Arguments(dy, one, 0 * one, None, A, one[0], one, 1.0, 1 - 2.0**-10).map(STORED_FP16.cast)
    assert outside({"dx": compute("dx", args)}, args.map(np.asarray), STORED_FP16.precision) == {}
    assert not np.any(np.asarray(compute("dx", args)))


@pytest.mark.bounded("SORA-BOUND-2")
@pytest.mark.parametrize("dtype", DTYPES)
def test_bound_covers_the_worst_sum_of_equal_roundings(dtype: Any) -> None:
    """1 + u + u + …: every addition loses u, so a plain layer errs by (in − 1)·u, which γ must cover."""
    n, u = 64, float(np.finfo(dtype).eps) / 2
    x, W0 = np.array([[1.0] + [u] * (n - 1)], dtype), np.ones((1, n), dtype)
    truth = loop_forward(x, W0, None, np.zeros((0, n)), np.zeros(0), np.zeros((1, 0)), 1)
    left_to_right = dtype(0)
    for value in x[0]:
        left_to_right = dtype(left_to_right + value)
    assert left_to_right == 1
    assert abs(Fraction(float(left_to_right)) - truth.item()) <= exact(linear_bound(x, W0, None, None)).item()


@pytest.mark.bounded("SORA-BOUND-5")
@pytest.mark.parametrize(("gate", "s"), [(2.0**10, 1.0), (1.0, 2.0**10)])
def test_what_underflows_is_scaled_by_the_gate_and_by_s(gate: float, s: float) -> None:
    """A = 2⁻²⁶ is rounded to 0 in fp16, and the factors that follow carry the loss into every result."""
    one, A = np.ones((1, 1)), np.full((1, 1), 2.0**-26)
    args = Arguments(one, one, 0 * one, None, A, one[0] * gate, one, s).map(ARITHMETICS["fp16"].cast)
    for way in (results, through_the_weight, gates_first):
        assert outside(way(args), args.map(np.asarray), FP16) == {}
    assert np.asarray(rounding_report.RESULTS["y"](args)).item() == 0


@pytest.mark.bounded("SORA-BOUND-5")
def test_what_underflows_on_the_way_to_dx_is_scaled_by_dropout_and_by_the_frozen_weight() -> None:
    """2⁻²⁶ is 0 in fp16: as A before the factor 1/(1 − p) = 2¹⁰, or as dy before W0 = 2¹⁰; 2⁻¹⁶ is lost either way."""
    one, zero, tiny = (np.full((1, 1), value, np.float32) for value in (1.0, 0.0, 2.0**-26))
    keep, p = np.ones((1, 1), bool), 1 - 2.0**-10
    branch, nothing = SoRA(tiny, one[0], one, 1.0), SoRA(zero, one[0], zero, 1.0)

    def dx(dy: Any, W0: Any, adapter: SoRA, **dropout: Any) -> Any:
        return linear_backward_bound(dy, one, W0, adapter, precision=FP16, **dropout).dx

    assert dx(one, zero, branch, keep=keep, p=p) >= 2.0**-16
    assert dx(tiny, 2**10 * one, nothing) >= 2.0**-16
    assert dx(one, zero, branch) == dx(one, zero, branch, p=p) < 2.0**-16


@pytest.mark.bounded("SORA-BOUND-2")
def test_a_flat_sum_over_two_indices_is_a_longer_chain_and_not_covered() -> None:
    """The branch as one sum over in·r products, left to right: further off than the bound of any matrix product."""
    n, u = 32, np.float32(2.0**-24)
    A = np.full((n, n), u)
    A[0, 0] = 1
    total, truth = np.float32(0), Fraction(1) + (n * n - 1) * Fraction(float(u))
    for product in A.ravel():  # 1 + u + u + …: every addition loses u
        total = np.float32(total + product)
    ones = np.ones((1, n), np.float32)
    bound = exact(linear_bound(ones, 0 * ones, None, SoRA(A, ones[0], ones, 1.0))).item()
    assert abs(Fraction(float(total)) - truth) > bound


@pytest.mark.bounded("SORA-BOUND-3", "SORA-PRUNE-5")
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.sampled_from(MAGNITUDES), st.sampled_from(MAGNITUDES), st.integers(0, 4), keys)
def test_unmerge_without_a_base_lands_within_its_bound(dtype: Any, kind: str, other: str, r: int, key: int) -> None:
    rng = np.random.default_rng(key)
    W0 = spread((2, 3), kind, dtype, rng)
    A, g, B = (spread(shape, other, dtype, rng) for shape in ((r, 3), (r,), (2, r)))
    adapter = SoRA(A, g, B, 0.3)
    restored = unmerge(merge(W0, adapter, keep_base=False))
    assert (abs(exact(restored) - exact(W0)) <= exact(unmerge_bound(W0, adapter))).all()


@pytest.mark.bounded("SORA-BOUND-3")
def test_unmerge_bound_covers_a_change_that_underflow_has_doubled_twice() -> None:
    """B·g rounds from just above ω to 2ω, and s·(B·g) again: the change merged is four times the one of its factors."""
    one = np.ones((1, 1), np.float32)
    B, g, A = one * np.float32(2.0**-75), one[0] * np.float32(2.0**-75 * (1 + 2.0**-10)), one * np.float32(2.0**126)
    adapter = SoRA(A, g, B, 0.5 + 2.0**-12)
    W0 = one * np.float32(2.0**-47 * 0.99)
    restored = unmerge(merge(W0, adapter, keep_base=False))
    assert (abs(exact(restored) - exact(W0)) <= exact(unmerge_bound(W0, adapter))).all()
