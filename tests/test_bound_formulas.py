"""SORA-BOUND: the bounds are the formulas of their clauses, worked out by hand; and what has no bound is refused."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from strategies import Space, exact, half_subnormal

from sora_ref import SoRA, SoRAError, sora_linear_backward, sora_linear_forward
from sora_ref.backends import float_info
from sora_ref.bounds import (
    BF16,
    FP16,
    TF32,
    Precision,
    gamma,
    linear_backward_bound,
    linear_bound,
    merge_bound,
    precision_of,
    unmerge_bound,
)

pytestmark = pytest.mark.filterwarnings("ignore:underflow")
DTYPES = [np.float32, np.float64]


@pytest.mark.exact("SORA-BOUND-5")
def test_precisions_are_those_of_their_formats() -> None:
    """u of the inputs: half the distance from 1 to the next number; fp16's range and smallest number are its own."""
    assert {p.name: p.unit_in for p in (TF32, BF16, FP16)} == {"tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
    half, single = float_info(np.ones(1, np.float16)), float_info(np.ones(1, np.float32))
    assert (FP16.unit_in, FP16.spacing_in, FP16.largest_in) == (half.eps / 2, half.smallest_subnormal, half.max)
    assert TF32.largest == BF16.largest == FP16.largest == single.max
    for p in (TF32, BF16, FP16):  # accumulation: four times float32's own roundoff, and flushed to zero
        assert (p.unit, p.spacing) == (2 * single.eps, 2 * single.smallest_normal)
        assert (p.unit_out, p.spacing_out) == (0, 0)
    stored = dataclasses.replace(BF16, name="bf16, stored", unit_out=2.0**-8, spacing_out=2.0**-125)
    assert BF16.stored() == stored
    pure = dataclasses.replace(FP16, name="fp16, stored", unit_out=2.0**-11, spacing_out=2.0**-24, largest=65504.0)
    assert FP16.stored() == pure


@pytest.mark.bounded("SORA-BOUND-2")
@pytest.mark.parametrize("dtype", DTYPES)
def test_underflow_term_has_the_size_the_formula_says(dtype: Any) -> None:
    """All-zero arguments: 4ω for each path's sum of one product, 8ω for the last operations, and the inflation."""
    zero = np.zeros((1, 1), dtype)
    found = exact(linear_bound(zero, zero, None, SoRA(zero, zero[0], zero, 0.0))).item()
    omega = half_subnormal(dtype)
    assert 16 * omega <= found <= 16 * omega * (1 + Fraction(2) ** -19)


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-3", "SORA-BOUND-4", "SORA-BOUND-6")
def test_bounds_are_float64_and_have_the_shapes_of_what_they_bound(floats: Space) -> None:
    x, W0, dy = (floats.asarray(np.ones(shape), "float32") for shape in ((2, 5, 3), (4, 3), (2, 5, 4)))
    adapter = floats.adapter(np.ones((2, 3)), np.ones(2), np.ones((4, 2)), 2.0, "float32")
    y, cache = sora_linear_forward(x, W0, None, adapter)
    grads = sora_linear_backward(dy, cache, dW0=True, db=True)
    pairs = [
        (y, linear_bound(x, W0, floats.asarray(np.ones(4), "float32"), adapter)),
        (W0, merge_bound(W0, adapter)),
        (W0, unmerge_bound(W0, adapter)),
        *zip(grads, linear_backward_bound(dy, x, W0, adapter), strict=True),
    ]
    for value, bound in pairs:
        found = floats.to_numpy(bound)
        assert (found.shape, str(found.dtype)) == (floats.to_numpy(value).shape, "float64")
        assert (found > 0).all()
    plain = linear_backward_bound(dy, x, W0, None)
    assert (plain.dA, plain.dg, plain.dB) == (None, None, None)


@pytest.mark.bounded("SORA-BOUND-2")
def test_bound_is_the_same_on_every_backend(floats: Space) -> None:
    """Small integers: S is exact and Ω below the inflation, so γ·S differs by the roundings of one scalar formula."""
    for dtype in ("float32", "float64"):
        x, W0 = floats.asarray([[1.0, 2.0]], dtype), floats.asarray([[3.0, 4.0]], dtype)
        adapter = floats.adapter([[1.0, 1.0]], [2.0], [[3.0]], 1.0, dtype)
        found = exact(floats.to_numpy(linear_bound(x, W0, None, adapter))).item()
        u, S = Fraction(float(np.finfo(dtype).eps)) / 2, 11 + 18
        want = 9 * u / (1 - 9 * u) * S  # N = 2·2 + 1 + 4
        assert want <= found <= want * (1 + Fraction(2) ** -19)


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-5", "SORA-BOUND-6")
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float64, 1e200)])
def test_overflow_is_refused_by_name(dtype: Any, size: float) -> None:
    """PAPER §5: refuse overflow by name.  The product is infinite in its own dtype, so no finite bound holds."""
    x = np.full((1, 1), size, dtype)
    assert np.isinf(x @ x).all()
    with pytest.raises(SoRAError, match=rf"may overflow {x.dtype}"):
        linear_bound(x, x, None, None)
    with pytest.raises(SoRAError, match=rf"may overflow {x.dtype}"):
        linear_backward_bound(x, x, x, None)
    with pytest.raises(SoRAError, match=rf"may overflow {x.dtype}"):
        merge_bound(x, SoRA(x, x[0], x, 1.0))


@pytest.mark.exact("SORA-BOUND-5")
def test_fp16_bounds_reach_the_shapes_of_real_layers() -> None:
    """65,504 limits the inputs of a product, not its sum: a BERT's FFN module in fp16 has a bound."""
    rng = np.random.default_rng(2)
    shapes = {"dy": (2, 768), "x": (2, 3072), "W0": (768, 3072), "A": (8, 3072), "B": (768, 8)}
    dy, x, W0, A, B = (rng.standard_normal(shape).astype(np.float32) / 8 for shape in shapes.values())
    adapter = SoRA(A, np.ones(8, np.float32), B, 2.0)
    assert np.isfinite(linear_bound(x, W0, None, adapter, precision=FP16)).all()
    grads = linear_backward_bound(dy, x, W0, adapter, precision=FP16)
    assert all(np.isfinite(np.asarray(bound)).all() for bound in grads)


def rounded_up(found: Any, value: Any) -> bool:
    """Whether a bound is this value, inflated by 2⁻²⁰ and rounded a few times in float64."""
    return bool(np.all((value <= found) & (found <= value * (1 + 2.0**-19))))


# Roundings, matrix products and stored results on the longest way, with in = 5, out = 3, r = 2 and four rows.
PATHS = {
    "y": (2 * 5 + 2 + 4, 2, 6),
    "dx": (2 * 3 + 2 + 3, 2, 5),
    "dA": (3 + 4 + 3, 2, 4),
    "dg": (5 + 3 + 4 + 2, 3, 5),
    "dB": (5 + 4 + 3, 2, 4),
    "dW0": (4, 1, 1),
    "db": (3, 0, 1),
}
BRANCH = ("y", "dx", "dA", "dg", "dB")  # what dropout adds three roundings and two stored results to


@pytest.mark.bounded("SORA-BOUND-1", "SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-5", "SORA-BOUND-6")
@pytest.mark.parametrize("precision", [precision_of(np.ones(1, np.float32)), BF16, BF16.stored()], ids=lambda p: p.name)
@pytest.mark.parametrize("dropout", [False, True])
def test_bounds_have_the_roundings_of_the_clause(precision: Precision, dropout: bool) -> None:
    """Small integers, so that S is exact and underflow nothing: the bound is K/(1 − K)·S, K as the clause adds it."""
    dy, x, W0, A, B = (np.full(shape, 2.0, np.float32) for shape in ((4, 3), (4, 5), (3, 5), (2, 5), (3, 2)))
    adapter, keep = SoRA(A, np.ones(2, np.float32), B, 1.0), np.ones((4, 5), bool) if dropout else None
    y, cache = sora_linear_forward(x, W0, None, adapter)
    S = {"y": y, **sora_linear_backward(dy, cache, dW0=True, db=True)._asdict()}
    bounds = linear_backward_bound(dy, x, W0, adapter, keep=keep, precision=precision)._asdict()
    bounds["y"] = linear_bound(x, W0, None, adapter, keep=keep, precision=precision)

    def wanted(roundings: int, products: int, stored: int) -> float:
        K = roundings * precision.unit + 2 * products * precision.unit_in + stored * precision.unit_out
        return K / (1 - K)

    for name, (roundings, products, stored) in PATHS.items():
        drops = dropout and name in BRANCH
        assert rounded_up(bounds[name] / S[name], wanted(roundings + 3 * drops, products, stored + 2 * drops)), name
    last = (1 + precision.unit) * (1 + precision.unit_out) - 1
    assert rounded_up(merge_bound(W0, adapter, precision=precision), wanted(2 + 4, 1, 4) * 8 + last * 2)


@pytest.mark.bounded("SORA-BOUND-3", "SORA-BOUND-4", "SORA-BOUND-6")
def test_bounds_of_merging_in_coarse_arithmetic_are_those_of_the_clauses() -> None:
    """float16, whose u² and spacing are seen; and a precision that stores in as little as it computes in."""
    W0, x = np.full((1, 1), 2.0, np.float16), np.ones((1, 1), np.float16)
    adapter, u, spacing = SoRA(x, x[0], x, 1.0), 2.0**-11, 2.0**-24
    gamma_5, operand = 5 * u / (1 - 5 * u), 4 * spacing
    lost = 2 * operand + operand**2 + 2 * spacing + 2 * spacing  # B·A of two operands that each lose; the product; s
    error = gamma_5 + (1 + gamma_5) * (lost + operand)
    assert rounded_up(merge_bound(W0, adapter), 2 * u + error)
    first = u * (2 + 1 + error) + spacing
    assert rounded_up(unmerge_bound(W0, adapter), first + u * (2 + first) + spacing)
    plain = linear_backward_bound(x, x, W0, adapter).db
    assert plain is not None
    assert rounded_up(plain, spacing + operand)  # one row is a sum of one term

    coarse = Precision("coarse", unit=2.0**-4, spacing=0.0, largest=1e9, unit_out=2.0**-4)
    K, last = 5 * 2.0**-4 + 4 * 2.0**-4, (1 + 2.0**-4) ** 2 - 1
    change = K / (1 - K)
    assert rounded_up(merge_bound(W0, adapter, precision=coarse), change + last * 2)
    first = last * (2 + 1 + change)
    assert rounded_up(unmerge_bound(W0, adapter, precision=coarse), first + last * (2 + first))
    stored = linear_backward_bound(x, x, W0, adapter, precision=coarse).db
    assert stored == 2.0**-4 / (1 - 2.0**-4) * (1 + 2.0**-20)
    flushed = Precision("flushed", unit=2.0**-4, spacing=2.0**-9, largest=1e9, spacing_out=2.0**-8)
    error = (1 + 1 / 3) * (2.0**-8 + 4 * 2.0**-9)  # K = 4·2⁻⁴, and nothing to multiply
    first = 2.0**-4 * error + 3 * 2.0**-9
    found = unmerge_bound(0 * W0, SoRA(x[:0], x[0, :0], x[:, :0], 1.0), precision=flushed)
    assert rounded_up(found, first + 2.0**-4 * first + 3 * 2.0**-9)


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-5")
@pytest.mark.parametrize(("gate", "s", "G"), [(1.0, 1.0, 1.0), (4.0, 1.0, 4.0), (0.5, 1.0, 1.0), (1.0, 4.0, 4.0)])
def test_underflow_is_carried_through_both_products_as_worked_out_by_hand(gate: float, s: float, G: float) -> None:
    """x = 0, A = B = 1, G the gate times s, at least 1, and every operand loses G·ε, every sum G·2·spacing.

    x A loses G·ε·G, its product with B that and G·ε, y G·ε, and the frozen path nothing but what two losses make.
    """
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    operand, sums = G * (FP16.spacing_in + 4 * FP16.spacing), G * 2 * FP16.spacing
    relative = (7 * FP16.unit + 4 * FP16.unit_in) / (1 - (7 * FP16.unit + 4 * FP16.unit_in))
    found = linear_bound(zero, zero, None, SoRA(one, gate * one[0], one, s), precision=FP16).item()
    frozen = operand**2 + sums
    z = operand * G + operand**2 + sums
    branch = (z + operand) * (1 + operand) + sums
    assert rounded_up(found, (1 + relative) * (frozen + branch + operand))


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-5")
@pytest.mark.parametrize(("x", "W0"), [(1.0, 2.0), (2.0, 1.0)])
def test_underflow_and_overflow_of_one_product_are_worked_out_to_the_last_bit(x: float, W0: float) -> None:
    """in = 2 and no adapter: K = 8·2⁻⁴, so K/(1 − K) = 1; every number is dyadic, and the limits are met exactly."""
    spacing, spacing_in, spacing_out = 2.0**-8, 2.0**-4, 2.0**-5
    loss = spacing_in + spacing_out + 4 * spacing
    lost = 2 * (loss * W0 + x * loss + loss * loss) + 2 * (2 * spacing + spacing_out)
    product, operand = 2 * (2 * x * W0 + lost), 2 * (max(x, W0) + loss)
    lost += (2 * spacing + spacing_out) * (2 * x * W0)  # what an s might have lost
    rows, weight = np.full((3, 2), x), np.full((1, 2), W0)

    def bound(largest: float, largest_in: float) -> Any:
        tight = Precision("tight", 2.0**-4, spacing, largest, 0.0, spacing_in, largest_in, 0.0, spacing_out)
        return linear_bound(rows, weight, None, None, precision=tight)

    assert (bound(product, operand) == (1 + 2.0**-20) * (2 * x * W0 + 2 * (lost + loss))).all()
    for limits in ((np.nextafter(product, 0), operand), (product, np.nextafter(operand, 0))):
        with pytest.raises(SoRAError, match="may overflow tight"):
            bound(*limits)


@pytest.mark.exact("SORA-BOUND-2")
def test_the_factor_of_dropout_has_to_be_a_number_of_the_precision() -> None:
    """1/(1 − p) at most the largest number; 1 − p no subnormal one, which would be rounded by up to half of it."""
    zero, keep = np.zeros((1, 1)), np.ones((1, 1), bool)
    small = Precision("small", unit=2.0**-9, spacing=0.0, largest=4.0)
    assert linear_bound(zero, zero, None, None, keep=keep, p=0.75, precision=small) == 0
    with pytest.raises(SoRAError, match=r"^an intermediate number may overflow small, or is NaN: expected smaller"):
        linear_bound(zero, zero, None, None, keep=keep, p=0.76, precision=small)
    half = precision_of(np.ones(1, np.float16))
    assert linear_bound(zero, zero, None, None, keep=keep, p=1 - 2.0**-14, precision=half) > 0
    below = 2.0**-14 * (1 - 2.0**-10)
    sentence = rf"^1 − p is {below}: expected at least 6\.1.*e-05, below which float16 may lose half of it$"
    with pytest.raises(SoRAError, match=sentence):
        linear_bound(zero, zero, None, None, keep=keep, p=1 - below, precision=half)
    with pytest.raises(SoRAError, match=sentence):
        linear_backward_bound(zero, zero, zero, None, keep=keep, p=1 - below, precision=half)
    assert linear_bound(zero, zero, None, None, p=1 - below, precision=half) > 0  # no dropout, no such factor


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-5")
def test_results_stored_in_fp16_and_the_factor_of_dropout_have_to_be_its_normal_numbers() -> None:
    """Accumulated in float32, 1 − p and 70,000 are numbers; stored in fp16 the one is subnormal, the other is none."""
    one, keep = np.ones((1, 1), np.float32), np.ones((1, 1), bool)
    pure = FP16.stored()
    assert linear_bound(one, one, None, None, keep=keep, p=1 - 2.0**-14, precision=pure) > 0
    with pytest.raises(SoRAError, match=r"^1 − p is .*: expected at least 6\.1.*e-05, below which fp16, stored"):
        linear_bound(one, one, None, None, keep=keep, p=1 - 2.0**-15, precision=pure)
    assert linear_bound(one, one, None, None, keep=keep, p=1 - 2.0**-15, precision=FP16) > 0
    assert linear_bound(350 * one, 200 * one, None, None, precision=FP16) > 0
    with pytest.raises(SoRAError, match="may overflow fp16, stored"):
        linear_bound(350 * one, 200 * one, None, None, precision=pure)


@pytest.mark.exact("SORA-BOUND-4")
def test_what_one_component_loses_does_not_widen_the_bound_of_another() -> None:
    x, W0, dy = np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)
    A, g, B = np.array([[1.0], [50.0]], np.float32), np.ones(2, np.float32), np.array([[0.5, 50.0]], np.float32)
    both = linear_backward_bound(dy, x, W0, SoRA(A, g, B, 1.0), precision=FP16).dg
    first = linear_backward_bound(dy, x, W0, SoRA(A[:1], g[:1], B[:, :1], 1.0), precision=FP16).dg
    assert both is not None
    assert first is not None
    assert first[0] == both[0] < both[1]


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-4")
def test_an_operand_that_overflows_is_refused_though_its_products_do_not() -> None:
    """x/(1 − p) leaves float32 while A is tiny: the product of the two would fit, and there is no such number."""
    x, W0, A = (np.full((1, 1), value, np.float32) for value in (1e30, 1e-30, 1e-30))
    adapter, keep, p = (
        SoRA(A, np.ones(1, np.float32), np.ones((1, 1), np.float32), 1.0),
        np.ones((1, 1), bool),
        1 - 2.0**-40,
    )
    for bound in (
        lambda: linear_bound(x, W0, None, adapter, keep=keep, p=p),
        lambda: linear_backward_bound(W0, x, W0, adapter, keep=keep, p=p),
    ):
        with pytest.raises(SoRAError, match="may overflow float32"):
            bound()


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-4")
def test_an_adapter_of_rank_zero_is_refused_no_more_than_none() -> None:
    """x just below float32's largest number, which an s of 3 would exceed; the bounds are those without an adapter."""
    x, W0, dy = (np.full((1, 1), value, np.float32) for value in (3e38, 1e-10, 1e-10))
    empty = SoRA(x[:0], x[0, :0], x[:, :0], 3.0)
    assert linear_bound(x, W0, None, empty) == linear_bound(x, W0, None, None)
    found, plain = (linear_backward_bound(dy, x, W0, adapter) for adapter in (empty, None))
    assert rounded_up(found.dx, plain.dx)
    assert (found.dW0, found.db) == (plain.dW0, plain.db)


@pytest.mark.exact("SORA-BOUND-5")
def test_each_precision_refuses_what_it_cannot_hold() -> None:
    """70,000 fits float32 and bf16, and no fp16 product can take it; so many roundings of 2⁻⁸ leave no bound at all."""
    x, W0 = np.full((1, 1), 7e4, np.float32), np.ones((1, 1), np.float32)
    assert linear_bound(x, W0, None, None, precision=BF16).shape == (1, 1)
    with pytest.raises(SoRAError, match="may overflow fp16"):
        linear_bound(x, W0, None, None, precision=FP16)
    one = SoRA(W0, W0[0], W0, 1.0)
    for coarse in (Precision("coarse", unit=1 / 7, spacing=0.0, largest=1e30), BF16.stored()):
        coarse = dataclasses.replace(coarse, unit_in=4 * coarse.unit_in, unit_out=40 * coarse.unit_out)
        with pytest.raises(SoRAError, match=r"relative errors add up to 1.*: expected less than 1"):
            linear_bound(W0, W0, None, one, precision=coarse)


@pytest.mark.exact("SORA-BOUND-1")
def test_gamma_is_the_fraction_and_refuses_nu_of_one_and_more() -> None:
    assert gamma(3, 0.125) == 0.6  # 0.375/0.625
    assert gamma(0, 2.0**-53) == 0
    for n, u in ((2, 0.5), (3, 0.5), (2**24, 2.0**-24)):
        with pytest.raises(SoRAError, match=r"relative errors add up to .*: expected less than 1"):
            gamma(n, u)
