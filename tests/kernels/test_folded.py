"""The folded linear maps beside the specification's: inside the bounds of the specification, on random shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import DTYPES, SEEDS, Floats, normal, wide
from numba_here import MISSING

from sora_ref import SoRA, kernels, sora_linear_backward, sora_linear_forward
from sora_ref.bounds import linear_backward_bound, linear_bound
from sora_ref.errors import SoRAError
from sora_ref.kernels import Fold

SETS = ("numpy",) if MISSING else ("numpy", "numba")


def fold_of(name: str) -> Fold:
    fold = kernels.get("numpy", name).fold
    assert fold is not None
    return fold


@st.composite
def linears(draw: Any) -> tuple[int, tuple[int, ...], int, int, int, float, bool]:
    leading = draw(st.sampled_from([(), (1,), (0,), (2, 3), (9,)]))
    in_, out, r = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 4))
    return draw(SEEDS), leading, in_, out, r, draw(st.sampled_from([0.0, 1.0, 2.0, 0.3])), draw(st.booleans())


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETS)
@given(problem=linears())
def test_the_folded_map_and_its_gradients_are_inside_the_derived_bounds(name: str, dtype: str, problem: Any) -> None:
    seed, leading, in_, out, r, s, with_bias = problem
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, dtype, *leading, in_), normal(rng, dtype, *leading, out)
    W0, b = normal(rng, dtype, out, in_), normal(rng, dtype, out) if with_bias else None
    g = normal(rng, dtype, r) * (rng.random(r) < 0.7).astype(dtype)
    adapter = SoRA(normal(rng, dtype, r, in_), g, normal(rng, dtype, out, r), s)
    folded = fold_of(name)({"m": (W0, adapter)}, refuse, refuse)
    y, cache = folded["sora_linear_forward"](x, W0, b, SoRA(*adapter))
    grads: Any = folded["sora_linear_backward"](dy, cache, dW0=True, db=True)
    assert {part.dtype for part in (y, *grads)} == {np.dtype(dtype)}

    exact = SoRA(wide(adapter.A), wide(g), wide(adapter.B), np.longdouble(s))
    y_, kept = exact_forward(wide(x), wide(W0), None if b is None else wide(b), exact)
    assert np.all(np.abs(y - y_) <= linear_bound(x, W0, b, adapter))
    value = fold_of(name)({"m": (W0, adapter)}, refuse, refuse, training=False)["sora_linear_forward"]
    assert np.all(np.abs(value(x, W0, b, adapter)[0] - y_) <= linear_bound(x, W0, b, adapter))
    frozen_input: Any = folded["sora_linear_backward"](dy, cache, dx=False)
    assert frozen_input.dx is None
    bounds = linear_backward_bound(dy, x, W0, adapter)
    for part, right in exact_gradients(dy, kept).items():
        assert np.all(np.abs(getattr(grads, part) - right) <= getattr(bounds, part)), part
        if part in ("dA", "dg", "dB"):
            assert np.all(np.abs(getattr(frozen_input, part) - right) <= getattr(bounds, part)), part
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


@pytest.mark.parametrize("name", SETS)
def test_what_was_not_folded_goes_to_the_specification(name: str) -> None:
    rng = np.random.default_rng(3)
    x, W0 = normal(rng, "float32", 2, 4), normal(rng, "float32", 3, 4)
    adapter = SoRA(normal(rng, "float32", 2, 4), normal(rng, "float32", 2), normal(rng, "float32", 3, 2), 2.0)
    folded = fold_of(name)({"m": (W0, adapter)}, sora_linear_forward, sora_linear_backward)
    keep = rng.random((2, 4)) < 0.5
    for weights, own, drop, p in (
        (W0.copy(), adapter, None, 0.0),
        (W0, None, None, 0.0),
        (W0, adapter._replace(A=adapter.A.copy()), None, 0.0),
        (W0, adapter._replace(s=3.0), None, 0.0),
        (W0, adapter, keep, 0.5),
    ):
        y, cache = folded["sora_linear_forward"](x, weights, None, own, keep=drop, p=p)
        y_, cache_ = sora_linear_forward(x, weights, None, own, keep=drop, p=p)
        assert y.tobytes() == y_.tobytes()
        found, expected = folded["sora_linear_backward"](y, cache), sora_linear_backward(y_, cache_)
        for part, other in zip(found, expected, strict=True):
            assert (part is None) == (other is None)
            assert np.array_equal(part if part is not None else 0, other if other is not None else 0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_folding_writes_into_none_of_its_arrays_and_is_bound_to_their_identity(name: str, training: bool) -> None:
    rng = np.random.default_rng(4)
    W0 = normal(rng, "float32", 3, 4)
    adapter = SoRA(normal(rng, "float32", 2, 4), normal(rng, "float32", 2), normal(rng, "float32", 3, 2), 2.0)
    before = W0.tobytes()
    order: list[str] = []

    def parallel_map(function: Any, modules: Any) -> Any:
        order.append("folded")
        return map(function, modules)

    folded = fold_of(name)({"m": (W0, adapter)}, refuse, refuse, parallel_map, training=training)
    folded["sora_linear_forward"](np.ones((1, 4), np.float32), W0, None, adapter)
    assert order == ["folded"]
    assert W0.tobytes() == before


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_what_does_not_fit_the_weights_is_not_folded(name: str, training: bool) -> None:
    """Compiled code would read beyond its end."""
    rng = np.random.default_rng(5)
    W0, A, g, B = (normal(rng, "float32", *shape) for shape in ((3, 4), (2, 4), (2,), (3, 2)))
    for adapter in (
        SoRA(A[:1], g, B, 2.0),
        SoRA(A[:, :3], g, B, 2.0),
        SoRA(A, g, B[:2], 2.0),
        SoRA(A, g, B[:, :1], 2.0),
    ):
        with pytest.raises(SoRAError, match="has shape"):
            fold_of(name)({"m": (W0, adapter)}, refuse, refuse, training=training)
    adapter = SoRA(A, g, B, 2.0)
    folded = fold_of(name)({"m": (W0, adapter)}, sora_linear_forward, sora_linear_backward, training=training)
    for x, b in (
        (np.ones((2, 4), np.float32), np.ones(9, np.float32)),
        (np.ones((2, 4), np.float32), np.ones(3)),
        (np.ones((2, 4)), None),
    ):
        with pytest.raises(SoRAError):
            folded["sora_linear_forward"](x, W0, b, adapter)


@pytest.mark.parametrize("name", SETS)
def test_what_does_not_fit_a_folded_map_is_refused_as_the_specification_refuses_it(name: str) -> None:
    rng = np.random.default_rng(6)
    W0, A, g, B, x, dy = (normal(rng, "float32", *s) for s in ((3, 4), (2, 4), (2,), (3, 2), (5, 4), (5, 3)))

    def refused(of: dict[str, Any], own: SoRA, x: Floats, b: Floats | None, dy: Floats) -> str:
        with pytest.raises(SoRAError) as raised:
            of["sora_linear_backward"](dy, of["sora_linear_forward"](x, W0, b, own)[1])
        return str(raised.value)

    specified: dict[str, Any] = {
        "sora_linear_forward": sora_linear_forward,
        "sora_linear_backward": sora_linear_backward,
    }
    adapter = SoRA(A, g, B, 2.0)
    for own, rows, b, given_dy in (
        (adapter, x[:, :3], None, dy),
        (adapter, x.reshape(10, 2), None, dy),
        (adapter, x, g, dy),
        (adapter, x, np.ones((5, 3), np.float32), dy),
        (adapter, x, None, dy.reshape(3, 5)),
        (adapter, x, None, dy.reshape(15)),
        (adapter, x, None, dy[:1]),
        (adapter, x, None, dy.astype(np.float64)),
        (adapter, x.astype(np.float64), None, dy),
        (adapter._replace(A=A.astype(np.float64)), x, None, dy),
    ):
        folded: Any = fold_of(name)({"m": (W0, own)}, sora_linear_forward, sora_linear_backward)
        assert refused(folded, own, rows, b, given_dy) == refused(specified, own, rows, b, given_dy)
