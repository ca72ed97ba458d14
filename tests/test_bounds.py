"""SORA-BOUND: floating-point results lie within the derived bounds of the exact ones, whatever the magnitudes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import MAGNITUDES, FloatCase, Space, exact, float_cases, half_subnormal, keys, loop_forward, spread

from sora_ref import (
    SoRA,
    SoRAError,
    absorb_gate,
    kept_components,
    linear_bound,
    merge,
    prune,
    sora_linear_forward,
    unmerge,
    unmerge_bound,
)
from sora_ref.bounds import gamma

pytestmark = pytest.mark.filterwarnings("ignore:underflow")


def forms(case: FloatCase) -> dict[str, Any]:
    """The value of the SoRA linear in each form."""

    def value(adapter: SoRA | None, W0: Any = case.W0) -> Any:
        return sora_linear_forward(case.x, W0, case.b, adapter)[0]

    pruned = prune(case.adapter, kept_components(case.g))
    found = {"unpruned": value(case.adapter), "pruned": value(pruned), "merged": value(None, merge(case.W0, pruned).W)}
    for into in ("A", "B"):
        for scale in (False, True):
            lora = absorb_gate(pruned, into=into, scale=scale)
            ones = SoRA(lora.A, np.ones(pruned.rank, case.x.dtype), lora.B, lora.s)
            found[f"absorbed into {into}, scale {scale}"] = value(ones)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_every_form_lies_within_the_bound_of_the_exact_value(dtype: Any, data: st.DataObject) -> None:
    case = data.draw(float_cases(dtype))
    truth = loop_forward(*case)
    bound = exact(linear_bound(case.x, case.W0, case.b, case.adapter))
    for name, y in forms(case).items():
        assert (abs(exact(y) - truth) <= bound).all(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflow_term_has_the_size_the_formula_says(dtype: Any) -> None:
    """All-zero arguments: S = 0 and S₁ = in + 1·(in)·r = 2, so the bound is 4ω·2; at most the inflation above that."""
    zero = np.zeros((1, 1), dtype)
    found = exact(linear_bound(zero, zero, None, SoRA(zero, zero[0], zero, 0.0))).item()
    omega = half_subnormal(dtype)
    assert 8 * omega <= found <= 8 * omega * (1 + Fraction(2) ** -19)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(key=keys)
def test_bound_is_tight_enough_to_catch_an_error_of_twice_its_size(dtype: Any, key: int) -> None:
    """|error| ≥ 2·bound − bound > bound: an injected error is caught in every form, however the rounding fell."""
    rng = np.random.default_rng(key)
    x, W0, A, B = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 3), (2, 3), (2, 3), (2, 2)))
    case = FloatCase(x, W0, None, A, rng.standard_normal(2).astype(dtype), B, 2.0)
    truth, bound = loop_forward(*case), exact(linear_bound(x, W0, None, case.adapter))
    for y in forms(case).values():
        assert (abs(exact(y) + 2 * bound - truth) > bound).all()
    # and it is not idle: no more than N + 1 units of the sum of magnitudes, N = in + r + 5 = 10
    size = loop_forward(np.abs(x), np.abs(W0), None, np.abs(A), np.abs(case.g), np.abs(B), 2.0)
    assert (bound <= 11 * Fraction(float(np.finfo(dtype).eps)) / 2 * size).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
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


def test_bound_is_float64_and_has_the_shape_of_y(floats: Space) -> None:
    x, W0 = floats.asarray(np.ones((2, 5, 3)), "float32"), floats.asarray(np.ones((4, 3)), "float32")
    adapter = floats.adapter(np.ones((2, 3)), np.ones(2), np.ones((4, 2)), 2.0, "float32")
    bound = floats.to_numpy(linear_bound(x, W0, floats.asarray(np.ones(4), "float32"), adapter))
    assert (bound.shape, str(bound.dtype)) == ((2, 5, 4), "float64")
    back = floats.to_numpy(unmerge_bound(W0, adapter))
    assert (back.shape, str(back.dtype)) == ((4, 3), "float64")


def test_bound_is_the_same_on_every_backend(floats: Space) -> None:
    """Small integers: S and S₁ are exact, so γ·S + 4ω·S₁ differs by the few roundings of one scalar formula at most."""
    for dtype in ("float32", "float64"):
        x, W0 = floats.asarray([[1.0, 2.0]], dtype), floats.asarray([[3.0, 4.0]], dtype)
        adapter = floats.adapter([[1.0, 1.0]], [2.0], [[3.0]], 1.0, dtype)
        found = exact(floats.to_numpy(linear_bound(x, W0, None, adapter))).item()
        u, S = Fraction(float(np.finfo(dtype).eps)) / 2, 11 + 18
        want = 8 * u / (1 - 8 * u) * S + 4 * half_subnormal(dtype) * S
        assert want <= found <= want * (1 + Fraction(2) ** -19)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float64, 1e200)])
def test_overflow_is_refused_by_name(dtype: Any, size: float) -> None:
    """PAPER §5: refuse overflow by name.  The product is infinite in its own dtype, so no finite bound holds."""
    x = np.full((1, 1), size, dtype)
    assert np.isinf(x @ x).all()
    with pytest.raises(SoRAError, match=r"overflow"):
        linear_bound(x, x, None, None)


def test_gamma_is_the_fraction_and_refuses_nu_of_one_and_more() -> None:
    assert gamma(3, 0.125) == 0.6  # 0.375/0.625
    assert gamma(0, 2.0**-53) == 0
    for n, u in ((2, 0.5), (3, 0.5), (2**24, 2.0**-24)):
        with pytest.raises(SoRAError, match=rf"{n} roundings of unit roundoff .*: expected n\*u < 1"):
            gamma(n, u)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.sampled_from(MAGNITUDES), st.sampled_from(MAGNITUDES), st.integers(0, 4), keys)
def test_unmerge_without_a_base_lands_within_its_bound(dtype: Any, kind: str, other: str, r: int, key: int) -> None:
    rng = np.random.default_rng(key)
    W0 = spread((2, 3), kind, dtype, rng)
    A, g, B = (spread(shape, other, dtype, rng) for shape in ((r, 3), (r,), (2, r)))
    adapter = SoRA(A, g, B, 0.3)
    restored = unmerge(merge(W0, adapter, keep_base=False))
    assert (abs(exact(restored) - exact(W0)) <= exact(unmerge_bound(W0, adapter))).all()


def test_unmerge_bound_covers_a_change_that_underflow_has_doubled_twice() -> None:
    """B·g rounds from just above ω to 2ω, and s·(B·g) again: the change merged is four times the one of its factors."""
    one = np.ones((1, 1), np.float32)
    B, g, A = one * np.float32(2.0**-75), one[0] * np.float32(2.0**-75 * (1 + 2.0**-10)), one * np.float32(2.0**126)
    adapter = SoRA(A, g, B, 0.5 + 2.0**-12)
    W0 = one * np.float32(2.0**-47 * 0.99)
    restored = unmerge(merge(W0, adapter, keep_base=False))
    assert (abs(exact(restored) - exact(W0)) <= exact(unmerge_bound(W0, adapter))).all()
