"""NumPy's LayerNorm, attention and folded linear map beside the specification's, over shapes.

What has no derived bound in the specification gets one here, to first order, in the manner of `ulp_operations`: sums of
n numbers in any order meet n roundings, exp is right to K ulps, and every rounding is at most u of what cancels there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulp_operations import EPS, K

from sora_ref import SoRA, sora_linear_backward, sora_linear_forward
from sora_ref.bounds import linear_backward_bound, linear_bound
from sora_ref.kernels.numpy import attention
from sora_ref.kernels.numpy.folded import fold
from sora_ref.kernels.numpy.table import KERNELS as SET
from sora_ref.models import layers

Floats = npt.NDArray[Any]
KERNELS: Any = SET.training
FORWARD_KERNELS: Any = SET.evaluation
DTYPES = ("float32", "float64")
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1e-3, 1.0, 8.0])


def unit(dtype: str) -> float:
    return float(np.finfo(dtype).eps) / 2


def normal(rng: np.random.Generator, dtype: str, *shape: int, size: float = 1.0) -> Floats:
    """Read-only, so that a kernel that writes into its arguments fails."""
    x: Floats = (size * rng.standard_normal(shape)).astype(dtype)
    x.flags.writeable = False
    return x


def wide(x: Floats) -> Floats:
    """In extended precision, which on most machines has 11 bits more than float64."""
    return x.astype(np.longdouble)


# --- LayerNorm -----------------------------------------------------------------------------------------------------


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, leading=st.sampled_from([(), (1,), (0,), (3, 5)]), d=st.integers(1, 70), size=SIZES)
def test_layer_norm_is_the_specifications(dtype: str, seed: int, leading: tuple[int, ...], d: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, dtype, *leading, d, size=size), normal(rng, dtype, *leading, d)
    weight, bias = normal(rng, dtype, d), normal(rng, dtype, d)
    y, kept = KERNELS["layer_norm_forward"](x, weight, bias, EPS)
    dx, dweight, dbias = KERNELS["layer_norm_backward"](dy, kept)
    assert KERNELS["layer_norm_backward"](dy, kept, parameters=False)[1:] == (None, None)
    assert {part.dtype for part in (y, dx, dweight, dbias)} == {np.dtype(dtype)}

    y_, (xhat, rstd, _) = layers.layer_norm_forward(wide(x), wide(weight), wide(bias), EPS)
    dx_, dweight_, dbias_ = layers.layer_norm_backward(wide(dy), layers.LayerNormCache(xhat, rstd, weight))
    u, mean = unit(dtype), d + 2  # a mean: d roundings of its sum, one of 1/d, one of the product
    kappa = (1 + rstd * np.max(np.abs(x), axis=-1, keepdims=True, initial=0)) * (1 + np.abs(xhat))
    D = np.max(np.abs(weight * dy), axis=-1, keepdims=True, initial=0)
    n = max(math.prod(leading), 1)
    assert np.all(np.abs(y - y_) <= u * (mean + 4) * (np.abs(weight) * kappa + np.abs(bias)))
    assert np.all(np.abs(dx - dx_) <= u * (5 * mean + 12) * rstd * D * kappa)
    axes = tuple(range(len(leading)))
    assert np.all(np.abs(dweight - dweight_) <= u * (mean + n + 3) * np.sum(np.abs(dy) * kappa, axis=axes))
    assert np.all(np.abs(dbias - dbias_) <= u * n * np.sum(np.abs(dy), axis=axes))


# --- attention -----------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw: Any) -> dict[str, Any]:
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    b, t = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, t), min_size=b, max_size=b))
    return {
        "rng": np.random.default_rng(draw(SEEDS)),
        "heads": heads,
        "shape": (b, t, heads * width),
        "mask": np.arange(t) < np.array(lengths, int)[:, None] if draw(st.booleans()) else np.ones((b, t), bool),
        "p": draw(st.sampled_from([0.0, 0.3])),
        "size": draw(SIZES),
        "block": draw(st.sampled_from([1, 20, 10**6])),
    }


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", DTYPES)
@given(case=attentions())
def test_attention_is_the_specifications(dtype: str, case: dict[str, Any]) -> None:
    rng, heads, (b, t, d), p = case["rng"], case["heads"], case["shape"], case["p"]
    q, k, v, dy = (normal(rng, dtype, b, t, d, size=case["size"]) for _ in range(4))
    keep = rng.random((b, heads, t, t)) >= p if p else None
    bias = layers.attention_bias(case["mask"], np.dtype(dtype))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", case["block"])
        y, kept = KERNELS["attention_forward"](q, k, v, heads, bias, keep, p)
        dq, dk, dv = KERNELS["attention_backward"](dy, kept)
        value, nothing = FORWARD_KERNELS["attention_forward"](q, k, v, heads, bias, keep, p)
    assert nothing is None
    assert value.tobytes() == y.tobytes()
    assert {part.dtype for part in (y, dq, dk, dv)} == {np.dtype(dtype)}

    y_, cache = layers.attention_forward(wide(q), wide(k), wide(v), heads, wide(bias), keep, p)
    expected = layers.attention_backward(wide(dy), cache)
    u, c = unit(dtype), d // heads
    qh, kh, vh, dyh = (np.abs(x).reshape(b, t, heads, c).swapaxes(1, 2) for x in (q, k, v, dy))
    seen = np.isfinite(bias)
    scores = np.where(seen, qh @ kh.mT, 0) / math.sqrt(c)
    A = 1 + np.max(scores, axis=-1, keepdims=True, initial=0)  # of a query
    most = np.max(A, axis=-2, keepdims=True, initial=1)
    P, drop = cache.probabilities, 1 / (1 - p)
    # P/(1 − p): the scores c + 3 roundings, twice; exp, also in the sum, 4K; the sum t; the quotient, and dropout's 3.
    share = u * (2 * (c + 3) + 4 * K + t + 4)
    grown = drop * (dyh @ vh.mT)
    inner = np.sum(P * grown, axis=-1, keepdims=True)
    ds = P * (grown + inner) / math.sqrt(c)  # its error: that of P three times, and the sums over c and t
    slope = 3 * share + u * (2 * c + 2 * t + 8)

    def heads_first(x: Floats) -> Floats:
        return x.reshape(b, t, heads, c).swapaxes(1, 2)

    def close(found: Floats, right: Floats, size: Floats, factor: float) -> None:
        assert np.all(np.abs(heads_first(found) - heads_first(right)) <= factor * size)

    close(y, y_, A * (drop * P @ vh), share + u * (t + 2))
    close(dv, expected[2], most * (drop * P.mT @ dyh), share + u * (t + 2))
    close(dq, expected[0], A * (ds @ kh), slope + u * (t + 2))
    close(dk, expected[1], most * (ds.mT @ qh), slope + u * (t + 2))


def test_attention_of_a_query_that_sees_nothing_is_zero_and_so_are_its_gradients() -> None:
    q, k, v, dy = (normal(np.random.default_rng(0), "float32", 2, 3, 4) for _ in range(4))
    mask = np.array([[True, True, False], [False, False, False]])
    y, kept = KERNELS["attention_forward"](q, k, v, 2, layers.attention_bias(mask, np.float32))
    assert np.all(y[1] == 0)
    for grad in KERNELS["attention_backward"](dy, kept):
        assert np.all(grad[1] == 0)
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(("b", "heads", "t"), [(3, 2, 4), (1, 5, 300), (0, 2, 3), (7, 12, 64), (2, 3, 1)])
def test_blocks_of_attention_cover_every_head_once_and_are_no_larger_than_they_must_be(
    b: int, heads: int, t: int
) -> None:
    seen = np.zeros((b, heads), int)
    for sequences, some in attention.blocks(b, heads, t):
        seen[sequences, some] += 1
        part = seen[sequences, some].size
        assert part * t * t <= max(attention.BLOCK, t * t)
    assert np.all(seen == 1)


# --- the folded linear map -----------------------------------------------------------------------------------------


@st.composite
def linears(draw: Any) -> tuple[int, tuple[int, ...], int, int, int, float, bool]:
    leading = draw(st.sampled_from([(), (1,), (0,), (2, 3), (9,)]))
    in_, out, r = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 4))
    return draw(SEEDS), leading, in_, out, r, draw(st.sampled_from([0.0, 1.0, 2.0, 0.3])), draw(st.booleans())


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4")
@pytest.mark.parametrize("dtype", DTYPES)
@given(problem=linears())
def test_the_folded_map_and_its_gradients_are_inside_the_derived_bounds(dtype: str, problem: Any) -> None:
    seed, leading, in_, out, r, s, with_bias = problem
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, dtype, *leading, in_), normal(rng, dtype, *leading, out)
    W0, b = normal(rng, dtype, out, in_), normal(rng, dtype, out) if with_bias else None
    g = normal(rng, dtype, r) * (rng.random(r) < 0.7).astype(dtype)
    adapter = SoRA(normal(rng, dtype, r, in_), g, normal(rng, dtype, out, r), s)
    kernels = fold({"m": (W0, adapter)}, refuse, refuse)
    y, cache = kernels["sora_linear_forward"](x, W0, b, SoRA(*adapter))
    grads: Any = kernels["sora_linear_backward"](dy, cache, dW0=True, db=True)
    assert {part.dtype for part in (y, *grads)} == {np.dtype(dtype)}

    exact = SoRA(wide(adapter.A), wide(g), wide(adapter.B), np.longdouble(s))
    y_, kept = exact_forward(wide(x), wide(W0), None if b is None else wide(b), exact)
    assert np.all(np.abs(y - y_) <= linear_bound(x, W0, b, adapter))
    bounds = linear_backward_bound(dy, x, W0, adapter)
    for name, right in exact_gradients(dy, kept).items():
        assert np.all(np.abs(getattr(grads, name) - right) <= getattr(bounds, name)), name
    closed = g == 0
    assert np.all(grads.dA[closed] == 0)
    assert np.all(grads.dB[:, closed] == 0)


def exact_forward(x: Floats, W0: Floats, b: Floats | None, adapter: SoRA) -> tuple[Floats, Any]:
    """The specification's formula in extended precision."""
    A, g, B, s = adapter
    rows = x.reshape(math.prod(x.shape[:-1]), W0.shape[1])
    y = rows @ W0.T + s * ((rows @ A.T) * g) @ B.T + (0 if b is None else b)
    return y.reshape(*x.shape[:-1], W0.shape[0]), (x, rows, W0, adapter)


def exact_gradients(dy: Floats, kept: Any) -> dict[str, Floats]:
    x, rows, W0, (A, g, B, s) = kept
    dy = dy.astype(np.longdouble).reshape(len(rows), W0.shape[0])
    v, z = s * dy @ B, rows @ A.T
    return {
        "dx": (dy @ W0 + (v * g) @ A).reshape(x.shape),
        "dA": (v * g).T @ rows,
        "dg": (v * z).sum(axis=0),
        "dB": s * dy.T @ (z * g),
        "dW0": dy.T @ rows,
        "db": dy.sum(axis=0),
    }


def refuse(*args: Any, **options: Any) -> Any:
    raise AssertionError("fell back on the specification")


def test_what_was_not_folded_goes_to_the_specification() -> None:
    rng = np.random.default_rng(3)
    x, W0 = normal(rng, "float32", 2, 4), normal(rng, "float32", 3, 4)
    adapter = SoRA(normal(rng, "float32", 2, 4), normal(rng, "float32", 2), normal(rng, "float32", 3, 2), 2.0)
    kernels = fold({"m": (W0, adapter)}, sora_linear_forward, sora_linear_backward)
    keep = rng.random((2, 4)) < 0.5
    for weights, own, drop, p in (
        (W0.copy(), adapter, None, 0.0),
        (W0, None, None, 0.0),
        (W0, adapter._replace(A=adapter.A.copy()), None, 0.0),
        (W0, adapter._replace(s=3.0), None, 0.0),
        (W0, adapter, keep, 0.5),
    ):
        y, cache = kernels["sora_linear_forward"](x, weights, None, own, keep=drop, p=p)
        y_, cache_ = sora_linear_forward(x, weights, None, own, keep=drop, p=p)
        assert y.tobytes() == y_.tobytes()
        found, expected = kernels["sora_linear_backward"](y, cache), sora_linear_backward(y_, cache_)
        for part, other in zip(found, expected, strict=True):
            assert (part is None) == (other is None)
            assert np.array_equal(part if part is not None else 0, other if other is not None else 0)


def test_folding_writes_into_none_of_its_arrays_and_is_bound_to_their_identity() -> None:
    rng = np.random.default_rng(4)
    W0 = normal(rng, "float32", 3, 4)
    adapter = SoRA(normal(rng, "float32", 2, 4), normal(rng, "float32", 2), normal(rng, "float32", 3, 2), 2.0)
    before = W0.tobytes()
    order: list[str] = []

    def each(function: Any, modules: Any) -> Any:
        order.append("folded")
        return map(function, modules)

    kernels = fold({"m": (W0, adapter)}, refuse, refuse, each)
    kernels["sora_linear_forward"](np.ones((1, 4), np.float32), W0, None, adapter)
    assert order == ["folded"]
    assert W0.tobytes() == before
