"""Layers: every backward against the complex-step derivative of its forward; the laws of each forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space, unit_roundoff
from tiny_bert import Named, check_vjp

from sora_ref.bounds import gamma
from sora_ref.models import layers

Floats = npt.NDArray[Any]
Layer = tuple[Callable[[Named], Any], Callable[[Any, Named], Named]]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5))
SEEDS = st.integers(0, 2**32 - 1)
F64 = float(unit_roundoff("float64"))


def norm_of(p: Named) -> Any:
    return layers.layer_norm_forward(p["x"], p["weight"], p["bias"], 1e-3)


def attention_of(mask: Floats, keep: Floats | None = None) -> Callable[[Named], Any]:
    def forward(p: Named) -> Any:
        bias = layers.attention_bias(mask, p["q"].dtype)
        return layers.attention_forward(p["q"], p["k"], p["v"], 2, bias, keep, 0.25)

    return forward


def check_layer(rng: np.random.Generator, p: Named, forward: Callable[[Named], Any], backward: Any) -> None:
    """⟨dy, forward⟩ is a scalar function; its gradient is what backward says."""
    dy = rng.standard_normal(forward(p)[0].shape)

    def gradients(at: Named) -> Named:
        dtype = next(iter(at.values())).dtype
        given = backward(dy.astype(dtype), forward(at)[1])
        return dict(zip(at, given if isinstance(given, tuple) else (given,), strict=True))

    check_vjp(lambda at: np.sum(dy * forward(at)[0]), gradients, p, rng)


@pytest.mark.measured
@given(seed=SEEDS, leading=SHAPES, d=st.integers(2, 6))
def test_layer_norm_backward_is_the_derivative(seed: int, leading: tuple[int, int], d: int) -> None:
    rng = np.random.default_rng(seed)
    p = {"x": rng.standard_normal((*leading, d)), "weight": rng.standard_normal(d), "bias": rng.standard_normal(d)}
    check_layer(rng, p, norm_of, layers.layer_norm_backward)


@pytest.mark.exact
@given(seed=SEEDS, leading=SHAPES)
def test_norms_backwards_leave_out_the_parameters_only_when_told_to(seed: int, leading: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.standard_normal((*leading, 4)), rng.standard_normal(4), rng.standard_normal(4)
    y, cache = layers.layer_norm_forward(x, weight, bias, 1e-12)
    whole, part = (layers.layer_norm_backward(y, cache, parameters=asked) for asked in (True, False))
    assert part[1:] == (None, None)
    assert np.array_equal(whole[0], part[0])
    y, of_rms = layers.rms_norm_forward(x, weight, 1e-12)
    dx, dweight = layers.rms_norm_backward(y, of_rms, parameters=False)
    assert dweight is None
    assert np.array_equal(dx, layers.rms_norm_backward(y, of_rms)[0])


@pytest.mark.measured
@given(seed=SEEDS, leading=SHAPES, d=st.integers(1, 6))
def test_rms_norm_backward_is_the_derivative(seed: int, leading: tuple[int, int], d: int) -> None:
    rng = np.random.default_rng(seed)
    p = {"x": rng.standard_normal((*leading, d)), "weight": rng.standard_normal(d)}
    check_layer(rng, p, lambda at: layers.rms_norm_forward(at["x"], at["weight"], 1e-3), layers.rms_norm_backward)


@pytest.mark.measured
@given(seed=SEEDS, leading=SHAPES)
def test_pointwise_backwards_are_the_derivatives(seed: int, leading: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    p = {"x": 2 * rng.standard_normal(leading)}
    check_layer(rng, p, lambda at: layers.gelu_forward(at["x"]), layers.gelu_backward)
    check_layer(rng, p, lambda at: layers.silu_forward(at["x"]), layers.silu_backward)
    check_layer(rng, p, lambda at: layers.tanh_forward(at["x"]), layers.tanh_backward)
    check_layer(rng, p, lambda at: layers.relu_forward(at["x"]), layers.relu_backward)


@pytest.mark.exact
def test_relu_keeps_what_is_positive_and_makes_no_number_of_nan(floats: Space) -> None:
    x = floats.asarray([-1.0, -0.0, 0.0, 2.0, math.nan, math.inf, -math.inf])
    y, cut = layers.relu_forward(x)
    np.testing.assert_array_equal(floats.to_numpy(y), [0, 0, 0, 2, math.nan, math.inf, 0])
    dx = layers.relu_backward(floats.asarray([3.0] * 7), cut)
    assert floats.to_numpy(dx).tolist() == [0, 0, 0, 3, 3, 3, 0]


@pytest.mark.measured
@given(seed=SEEDS, b=st.integers(1, 3), t=st.integers(1, 5), dropped=st.booleans())
def test_attention_backward_is_the_derivative(seed: int, b: int, t: int, dropped: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = np.arange(t) < rng.integers(0, t + 1, (b, 1))
    keep = rng.random((b, 2, t, t)) < 0.75 if dropped else None
    p = {name: rng.standard_normal((b, t, 6)) for name in "qkv"}
    check_layer(rng, p, attention_of(mask, keep), layers.attention_backward)


@pytest.mark.measured
@given(seed=SEEDS, rows=st.integers(1, 6), shape=SHAPES)
def test_embedding_backward_is_the_derivative(seed: int, rows: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rows, shape)
    p = {"table": rng.standard_normal((rows, 3))}
    check_layer(rng, p, lambda at: layers.embedding_forward(at["table"], ids), layers.embedding_backward)


@pytest.mark.exact
def test_embedding_sums_the_gradients_of_repeated_ids(floats: Space) -> None:
    ids = floats.asarray([[2, 0, 2], [2, 2, 1]], "int64")
    table = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    y, cache = layers.embedding_forward(floats.asarray(table), ids)
    assert floats.to_numpy(y).tolist() == [[table[2], table[0], table[2]], [table[2], table[2], table[1]]]
    dy = floats.asarray([[[1.0, 0.5], [2.0, 0.25], [4.0, 8.0]], [[16.0, 32.0], [64.0, 128.0], [-1.0, -2.0]]])
    dtable = floats.to_numpy(layers.embedding_backward(dy, cache))
    assert dtable.tolist() == [[2.0, 0.25], [-1.0, -2.0], [1.0 + 4 + 16 + 64, 0.5 + 8 + 32 + 128], [0.0, 0.0]]


@pytest.mark.exact
def test_dropout_is_its_own_adjoint_and_keeps_the_expected_value(xp: Space) -> None:
    keep = [True, False, True, False]
    x, dy = xp.asarray([1.0, 2.0, -3.0, 4.0]), xp.asarray([5.0, -6.0, 7.0, 8.0])
    p: Any = Fraction(1, 2) if xp.exact else 0.5

    def drop(v: Any, mask: list[bool]) -> Floats:
        return xp.to_numpy(layers.dropout_forward(v, xp.asarray(mask, "bool"), p))

    assert np.sum(drop(x, keep) * xp.to_numpy(dy)) == np.sum(drop(dy, keep) * xp.to_numpy(x)) == 2 * (5 - 21)
    both = drop(x, keep) * (1 - p) + drop(x, [not k for k in keep]) * p
    assert both.tolist() == xp.to_numpy(x).tolist()
    assert layers.dropout_forward(x, None, p) is x


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_rows_sum_to_one_within_gamma(floats: Space, dtype: str) -> None:
    n = 37
    scores = 20 * np.random.default_rng(0).standard_normal((50, n))
    rows = floats.to_numpy(layers.softmax(floats.asarray(scores, dtype)))
    assert np.all(rows >= 0)
    # e_i/T rounds once, T is a sum of n terms: n roundings on every path; fsum adds one, in float64
    assert max(abs(math.fsum(row) - 1) for row in rows) <= gamma(n + 1, float(unit_roundoff(dtype)))


@pytest.mark.exact
def test_softmax_is_shift_invariant_bitwise_on_dyadic_scores(floats: Space) -> None:
    scores = np.random.default_rng(1).integers(-900, 900, (20, 7)) / 128
    shifted = scores + np.arange(-10, 10)[:, None] / 4
    a, b = (floats.to_numpy(layers.softmax(floats.asarray(s))) for s in (scores, shifted))
    assert a.tobytes() == b.tobytes()


@pytest.mark.measured
def test_softmax_against_exact_exponentials() -> None:
    scores = np.random.default_rng(2).standard_normal((6, 5)) * 3
    found = layers.softmax(scores)
    with localcontext() as context:
        context.prec = 40
        for row, given in zip(found.tolist(), scores.tolist(), strict=True):
            e = [Decimal(s).exp() for s in given]
            for p, value in zip(row, e, strict=True):
                exact = value / sum(e)
                # s − top rounds once: |s − top|·u in exp; exp within 1 ulp, 2u; n sums; one division
                span = max(given) - min(given)
                assert abs(Decimal(p) - exact) <= exact * Decimal(2 * (span + 2 + 5 + 1) * F64)


@pytest.mark.exact
@pytest.mark.parametrize("top", [1e4, -1e4, 1e300, -1e300, 0.0])
@pytest.mark.parametrize("rest", [1e4, -1e4, -1e300, -math.inf])
def test_softmax_of_extreme_scores_is_a_distribution(floats: Space, top: float, rest: float) -> None:
    row = floats.to_numpy(layers.softmax(floats.asarray([[top, rest, top, rest]])))[0]
    assert row.sum() == 1
    assert (row[0], row[1]) == (row[2], row[3])
    if top != rest:
        assert row.max() == 0.5


@pytest.mark.exact
def test_softmax_of_nothing_but_minus_infinity_is_zero(floats: Space) -> None:
    rows = floats.to_numpy(layers.softmax(floats.asarray([[-math.inf] * 3, [0.0, -math.inf, -math.inf]])))
    assert rows.tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.exact
def test_a_fully_masked_query_gives_zeros_and_no_gradient(floats: Space) -> None:
    rng = np.random.default_rng(3)
    q, k, v, dy = (floats.asarray(rng.standard_normal((2, 4, 6)) * 1e3) for _ in range(4))
    mask = floats.asarray([[False] * 4, [True, True, False, False]], "bool")
    y, cache = layers.attention_forward(q, k, v, 3, layers.attention_bias(mask, q.dtype))
    grads = [floats.to_numpy(g) for g in layers.attention_backward(dy, cache)]
    y = floats.to_numpy(y)
    assert not np.any(y[0])
    assert np.all(np.isfinite(y[1]))
    assert np.any(y[1])
    assert not any(np.any(g[0]) for g in grads)
    assert not any(np.any(g[1, 2:]) for g in grads[1:]), "padding keys and values have no gradient"
    assert np.any(grads[2][1, :2])


@pytest.mark.exact
def test_attention_averages_the_values_when_all_scores_are_equal(floats: Space) -> None:
    v = np.random.default_rng(4).integers(-64, 64, (1, 4, 6)) / 8
    flat, mask = floats.asarray(np.zeros((1, 4, 6))), floats.asarray([[True] * 4], "bool")
    y, _ = layers.attention_forward(flat, flat, floats.asarray(v), 2, layers.attention_bias(mask, flat.dtype))
    assert floats.to_numpy(y).tolist() == np.broadcast_to(v.mean(axis=1, keepdims=True), v.shape).tolist()


@pytest.mark.exact
def test_attention_masked_without_a_probability_is_not_scaled(floats: Space) -> None:
    """Equal scores and four keys: every probability is 1/4, exactly, or 0 where it is not kept."""
    rng = np.random.default_rng(10)
    v, keep = rng.integers(-64, 64, (1, 4, 3)) / 8, rng.random((1, 1, 4, 4)) < 0.5
    flat = floats.asarray(np.zeros((1, 4, 3)))
    bias = layers.attention_bias(floats.asarray([[True] * 4], "bool"), flat.dtype)
    y, cache = layers.attention_forward(flat, flat, floats.asarray(v), 1, bias, floats.asarray(keep, "bool"))
    assert floats.to_numpy(y).tolist() == (keep[0] / 4 @ v).tolist()
    dv = floats.to_numpy(layers.attention_backward(y, cache)[2])
    assert dv.tolist() == (keep[0].mT / 4 @ floats.to_numpy(y)).tolist()
    assert cache.p == 0


@pytest.mark.bounded
def test_attention_heads_do_not_see_each_other(floats: Space) -> None:
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, 3, 6)) for _ in range(3))
    bias = layers.attention_bias(floats.asarray([[True] * 3], "bool"), floats.asarray([0.0]).dtype)

    def attend(heads: int, *parts: Floats) -> Floats:
        q, k, v = map(floats.asarray, parts)
        return floats.to_numpy(layers.attention_forward(q, k, v, heads, bias)[0])

    together = attend(2, q, k, v)
    for own in (slice(0, 3), slice(3, 6)):
        alone = attend(1, *(np.ascontiguousarray(part[..., own]) for part in (q, k, v)))
        # |context| <= max|v|; scores of three terms of size S, then exp, sum and product: roundings on one path
        S = 3 * np.max(np.abs(q)) * np.max(np.abs(k))
        assert np.max(np.abs(together[..., own] - alone)) <= 2 * gamma(3 + 3 + 8, F64) * (1 + S) * np.max(np.abs(v))


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_against_exact_arithmetic_within_its_bound(floats: Space, dtype: str, offset: float) -> None:
    rng, d, eps, u = np.random.default_rng(6), 7, 2.0**-20, float(unit_roundoff(dtype))
    x, w, b = ((rng.standard_normal(s) + o).astype(dtype) for s, o in (((5, d), offset), ((d,), 0.0), ((d,), 0.0)))
    given_x, given_w, given_b = (floats.asarray(t, dtype) for t in (x, w, b))
    y, _ = layers.layer_norm_forward(given_x, given_w, given_b, eps)
    for row, found in zip(x, floats.to_numpy(y), strict=True):
        values = [Fraction(float(v)) for v in row]
        mean = sum(values, Fraction()) / d
        c = [v - mean for v in values]
        var = sum((v * v for v in c), Fraction()) / d + Fraction(eps)
        with localcontext() as context:
            context.prec = 50
            root = (Decimal(var.numerator) / var.denominator).sqrt()
            xhat = np.array([float(Decimal(v.numerator) / v.denominator / root) for v in c])
        exact = xhat * w + b
        wide, rstd = np.array([abs(float(v)) for v in c]), 1 / float(root)
        E = 2 * u * wide + gamma(d, u) * np.mean(np.abs(row.astype(float)))  # of the centred value
        dvar = 2 * np.mean(wide * E) + np.mean(E * E) + gamma(d + 2, u) * np.mean((wide + E) ** 2)
        relative = dvar * rstd**2 / 2 + 3 * u  # of rstd, to first order
        bound = np.abs(w) * (E * rstd + np.abs(xhat) * (relative + 2 * u)) + u * np.abs(exact) + 4 * F64
        assert np.all(np.abs(found - exact) <= 1.1 * bound)  # 1.1: terms of second order, and float64's own


@pytest.mark.exact
def test_layer_norm_ignores_shift_and_scale_bitwise_on_dyadic_rows(floats: Space) -> None:
    x = np.random.default_rng(7).integers(-500, 500, (6, 8)) / 64
    w, b = (floats.asarray(np.random.default_rng(k).standard_normal(8)) for k in (8, 9))

    def norm(v: Floats) -> bytes:
        return floats.to_numpy(layers.layer_norm_forward(floats.asarray(v), w, b, 0.0)[0]).tobytes()

    assert norm(x) == norm(x + 3.25) == norm(4 * x) == norm(x / 16 - 1)


@pytest.mark.exact
def test_layer_norm_of_a_constant_row_is_the_bias_and_finite(floats: Space) -> None:
    x, w, b = ([[3.0] * 4, [0.0] * 4], [2.0, -1.0, 0.5, 4.0], [1.0, 2.0, 3.0, 4.0])
    y, cache = layers.layer_norm_forward(floats.asarray(x), floats.asarray(w), floats.asarray(b), 1e-12)
    assert floats.to_numpy(y).tolist() == [b, b]
    assert all(np.all(np.isfinite(floats.to_numpy(g))) for g in layers.layer_norm_backward(y, cache))


@pytest.mark.exact
def test_layer_norm_uses_the_population_variance_with_eps_inside_the_root() -> None:
    y, _ = layers.layer_norm_forward(np.array([[-2.0, 2.0]]), np.ones(2), np.zeros(2), 12.0)
    assert y.tolist() == [[-0.5, 0.5]]  # 2/√(4 + 12)


def exact_gelu(x: float) -> float:
    return x * 0.5 * math.erfc(-x * math.sqrt(0.5))


GELU_POINTS = np.concatenate([np.linspace(-8, 8, 401), [1e-300, -1e-20, 37.0, -37.0, 1e4, -1e4, 0.0]])


@pytest.mark.bounded
def test_gelu_is_x_times_the_normal_distribution(floats: Space) -> None:
    found = floats.to_numpy(layers.gelu_forward(floats.asarray(GELU_POINTS))[0])
    exact = np.array([exact_gelu(x) for x in GELU_POINTS])
    # erf: 3.3u (Cephes' stated 3.7e-16) + 1u of its argument; 2u for the sum of up to 2; halved; product, oracle 3u
    assert np.all(np.abs(found - exact) <= 8 * F64 * np.abs(GELU_POINTS))


@pytest.mark.bounded
def test_gelu_derivative_is_cdf_plus_x_times_density(floats: Space) -> None:
    found = floats.to_numpy(layers.gelu_forward(floats.asarray(GELU_POINTS))[1])
    for x, value in zip(GELU_POINTS.tolist(), found, strict=True):
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        exact = 0.5 * math.erfc(-x * math.sqrt(0.5)) + x * density
        size = abs(x) * density
        # exp's argument x²/2 rounds once on each side: x²/2·u; exp, constant, two products, sum: 6u a side
        assert abs(value - exact) <= 2 * F64 * (4 + size * (x * x / 2 + 6) + abs(exact))


@pytest.mark.bounded
def test_silu_is_x_times_the_logistic_function_and_its_derivative_the_quotients(floats: Space) -> None:
    y, derivative = (floats.to_numpy(part) for part in layers.silu_forward(floats.asarray(GELU_POINTS)))
    # tanh: 4 ulp, so 8u, of at most 1; its sum, the half and the product 2u, the oracle 4u; the derivative has σ twice
    sigmoid = np.array([1 / (1 + math.exp(-x)) for x in np.clip(GELU_POINTS, -700, None)])
    size = np.abs(GELU_POINTS)
    assert np.all(np.abs(y - GELU_POINTS * sigmoid) <= 14 * F64 * size)
    exact = sigmoid + GELU_POINTS * sigmoid * (1 - sigmoid)
    assert np.all(np.abs(derivative - exact) <= 14 * F64 * (1 + 3 * size))


@pytest.mark.exact
def test_silu_of_huge_numbers_is_the_number_or_zero(floats: Space) -> None:
    x = [1e300, 800.0, 0.0, -800.0, -1e300]
    y, derivative = (floats.to_numpy(part) for part in layers.silu_forward(floats.asarray(x)))
    assert y.tolist() == [1e300, 800, 0, 0, 0]
    assert derivative.tolist() == [1, 1, 0.5, 0, 0]


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rms_norm_divides_by_the_root_mean_square(floats: Space, dtype: str) -> None:
    rng, d, eps, u = np.random.default_rng(11), 7, 2.0**-20, float(unit_roundoff(dtype))
    x, w = rng.standard_normal((5, d)).astype(dtype), rng.standard_normal(d).astype(dtype)
    found = floats.to_numpy(layers.rms_norm_forward(floats.asarray(x, dtype), floats.asarray(w, dtype), eps)[0])
    for row, y in zip(x, found, strict=True):
        square = sum((Fraction(float(v)) ** 2 for v in row), Fraction()) / d + Fraction(eps)
        exact = [
            float(Fraction(float(a)) * Fraction(float(v))) / math.sqrt(square) for a, v in zip(w, row, strict=True)
        ]
        # the mean of squares, all positive: d + 1 roundings, ε 2, which the root halves; root, quotient, two products
        assert np.all(np.abs(y - exact) <= (gamma(d + 3, u) / 2 + gamma(4, u) + 4 * F64) * np.abs(exact))


@pytest.mark.exact
def test_rms_norm_of_a_row_of_zeros_is_zero_and_it_ignores_the_scale_of_dyadic_rows(floats: Space) -> None:
    rng = np.random.default_rng(12)
    x, w = rng.integers(-500, 500, (6, 8)) / 64, rng.standard_normal(8)

    def norm(v: Floats, eps: float) -> Floats:
        return floats.to_numpy(layers.rms_norm_forward(floats.asarray(v), floats.asarray(w), eps)[0])

    assert not np.any(norm(np.zeros((2, 8)), 1e-12))
    assert norm(x, 0.0).tolist() == norm(4 * x, 0.0).tolist() == norm(x / 16, 0.0).tolist()


@pytest.mark.exact
def test_rms_norm_has_its_eps_inside_the_root_and_takes_no_mean_away() -> None:
    y, _ = layers.rms_norm_forward(np.array([[2.0, 2.0]]), np.ones(2), 12.0)
    assert y.tolist() == [[0.5, 0.5]]  # 2/√(4 + 12)


def test_layers_return_the_dtype_they_are_given(floats: Space) -> None:
    x = floats.asarray(np.ones((1, 2, 4)), "float32")
    w = floats.asarray(np.ones(4), "float32")
    mask = floats.asarray([[True, False]], "bool")
    outs = [
        layers.gelu_forward(x)[0],
        layers.gelu_forward(x)[1],
        *layers.silu_forward(x),
        layers.tanh_forward(x)[0],
        layers.softmax(x),
        layers.rms_norm_forward(x, w, 1e-12)[0],
        layers.layer_norm_forward(x, w, w, 1e-12)[0],
        layers.attention_forward(x, x, x, 2, layers.attention_bias(mask, x.dtype))[0],
        layers.dropout_forward(x, floats.asarray(np.ones((1, 2, 4)), "bool"), 0.3),
    ]
    assert {out.dtype for out in outs} == {x.dtype}
