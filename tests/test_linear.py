"""SORA-LINEAR: the map against a loop, and its gradients by affineness; exact in every space."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    LinearCase,
    Space,
    all_equal,
    array_of,
    dropouts,
    exact,
    gamma,
    inner,
    keys,
    linear_cases,
    loop_forward,
    unit_roundoff,
)

from sora_ref import SoRA, SoRAError, sora_linear_backward, sora_linear_forward
from sora_ref.linear import LinearCache, LinearGrads

NAMES = ("x", "W0", "b", "A", "g", "B")


def forward(xp: Space, case: LinearCase, keep: Any = None, p: Any = 0) -> tuple[Any, LinearCache]:
    b = None if case.b is None else xp.asarray(case.b)
    return sora_linear_forward(
        xp.asarray(case.x),
        xp.asarray(case.W0),
        b,
        xp.adapter(case.A, case.g, case.B, case.s),
        keep=None if keep is None else xp.asarray(keep, "bool"),
        p=xp.number(p),
    )


def gradients(xp: Space, case: LinearCase, dy: Any, keep: Any = None, p: Any = 0, **ask: Any) -> LinearGrads:
    return sora_linear_backward(xp.asarray(dy), forward(xp, case, keep, p)[1], dW0=True, db=True, **ask)


def _one(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    return keys.map(lambda key: np.random.default_rng(key).random(shape) < 0.6)


@pytest.mark.exact("SORA-LINEAR-5")
@given(linear_cases(), keys)
def test_arguments_stay_and_equal_arguments_give_equal_bits(xp: Space, case: LinearCase, key: int) -> None:
    """Another layer is used in between; the first results are looked at after it."""
    given = case._replace(
        x=xp.asarray(case.x), W0=xp.asarray(case.W0), b=None if case.b is None else xp.asarray(case.b)
    )
    adapter = xp.adapter(case.A, case.g, case.B, case.s)
    dy = xp.asarray(np.random.default_rng(key).integers(-4, 5, (*case.x.shape[:-1], len(case.W0))))
    before = [xp.to_numpy(part).copy() for part in (given.x, given.W0, *adapter[:3], dy)]

    def once() -> list[Any]:
        y, cache = sora_linear_forward(given.x, given.W0, given.b, adapter)
        return [y, *(grad for grad in sora_linear_backward(dy, cache, dW0=True, db=True) if grad is not None)]

    first = once()
    kept = [xp.to_numpy(part).copy() for part in first]
    gradients(xp, case._replace(W0=case.W0 + 1, A=case.A - 1), xp.to_numpy(dy))
    again = once()
    for results in (first, again):
        assert all(np.array_equal(xp.to_numpy(part), was) for part, was in zip(results, kept, strict=True))
    after = (given.x, given.W0, *adapter[:3], dy)
    assert all(np.array_equal(xp.to_numpy(part), was) for part, was in zip(after, before, strict=True))


@pytest.mark.exact("SORA-LINEAR-1")
@given(linear_cases())
def test_forward_equals_the_elementwise_loop(xp: Space, case: LinearCase) -> None:
    y, _ = forward(xp, case)
    assert all_equal(xp.fractions(y), loop_forward(*case))


@pytest.mark.exact("SORA-LINEAR-1")
@given(st.data(), linear_cases(), dropouts)
def test_dropout_is_inverted_and_touches_the_branch_only(
    xp: Space, data: st.DataObject, case: LinearCase, p: Fraction
) -> None:
    keep = data.draw(masks(case.x.shape))
    y, _ = forward(xp, case, keep, p)
    assert all_equal(xp.fractions(y), loop_forward(*case, keep=keep, p=p))
    frozen, _ = forward(xp, case._replace(g=exact(np.zeros(case.g.shape))), keep, p)
    assert all_equal(xp.fractions(frozen), loop_forward(*case._replace(s=Fraction(0))))


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3")
@given(st.data(), linear_cases())
def test_mask_without_a_probability_is_not_scaled(floats: Space, data: st.DataObject, case: LinearCase) -> None:
    """p = 0 is a float, so the exact space has no default."""
    keep = data.draw(masks(case.x.shape))
    given_x, W0, mask = floats.asarray(case.x), floats.asarray(case.W0), floats.asarray(keep, "bool")
    adapter = floats.adapter(case.A, case.g, case.B, case.s)
    y, cache = sora_linear_forward(given_x, W0, None, adapter, keep=mask)
    assert all_equal(floats.fractions(y), loop_forward(*case._replace(b=None), keep=keep))
    dx, named = (sora_linear_backward(y, kept).dx for kept in (cache, cache._replace(p=0.0)))
    assert all_equal(floats.fractions(dx), floats.fractions(named))


@pytest.mark.exact("SORA-LINEAR-3")
@given(st.data(), linear_cases(), st.booleans(), dropouts)
def test_gradients_are_exact_directional_derivatives(
    xp: Space, data: st.DataObject, case: LinearCase, drops: bool, p: Fraction
) -> None:
    """y is affine in each argument, so ⟨dy, f(θ + V) − f(θ)⟩ *is* ⟨dθ, V⟩; V lives in one tensor at a time."""
    keep = data.draw(masks(case.x.shape)) if drops else None
    dy = data.draw(array_of((*case.x.shape[:-1], case.W0.shape[0])))
    grads = gradients(xp, case, dy, keep, p if drops else 0)
    before = loop_forward(*case, keep=keep, p=p if drops else 0)
    for name in NAMES:
        theta = getattr(case, name)
        if theta is None:
            continue
        V = data.draw(array_of(theta.shape))
        after = loop_forward(*case._replace(**{name: theta + V}), keep=keep, p=p if drops else 0)
        assert inner(dy, after - before) == inner(xp.fractions(getattr(grads, f"d{name}")), V), name
    assert grads.dx is not None
    assert tuple(grads.dx.shape) == case.x.shape


@pytest.mark.bounded("SORA-LINEAR-3")
@given(linear_cases(), keys)
def test_float64_gradients_lie_within_gamma_of_the_exact_vjp(floats: Space, case: LinearCase, key: int) -> None:
    """First the projection of all gradients on one random direction, then each tensor by its name.

    Every product in a gradient meets at most n + in + out + r + 6 roundings (sums over n, in, out and r, and one for
    each of s, 1/(1−p), g, A or B, dy, and adding the two paths), whatever the order: |error| ≤ γ·(the same sum of
    magnitudes).  ⟨dθ, V⟩ itself is formed exactly.
    """
    rng = np.random.default_rng(key)
    fields: dict[str, Any] = {name: rng.standard_normal(np.shape(getattr(case, name))) for name in NAMES if name != "b"}
    wild = case._replace(b=None, **fields)
    dy = rng.standard_normal((*case.x.shape[:-1], case.W0.shape[0]))
    grads = gradients(floats, wild, dy)
    (out, in_), n = case.W0.shape, dy.size // case.W0.shape[0]
    limit = gamma(n + in_ + out + len(case.g) + 6, unit_roundoff(np.float64))
    size = wild._replace(s=abs(wild.s), **{name: np.abs(t) for name, t in fields.items()})
    before, size_before = loop_forward(*wild), loop_forward(*size)
    error, room = Fraction(0), Fraction(0)
    for name in fields:
        V = rng.standard_normal(fields[name].shape)
        after = loop_forward(*wild._replace(**_one(name, exact(fields[name]) + exact(V))))
        size_after = loop_forward(*size._replace(**_one(name, exact(np.abs(fields[name])) + exact(np.abs(V)))))
        found = inner(floats.fractions(getattr(grads, f"d{name}")), exact(V))
        difference = found - inner(exact(dy), after - before)
        allowed = limit * inner(exact(np.abs(dy)), size_after - size_before)
        error, room = error + difference, room + allowed
        assert abs(difference) <= allowed, name
    assert abs(error) <= room


@pytest.mark.exact("SORA-LINEAR-4")
@given(st.data(), linear_cases())
def test_closed_gate_has_zero_row_and_column_but_its_own_gradient(
    xp: Space, data: st.DataObject, case: LinearCase
) -> None:
    dy = data.draw(array_of((*case.x.shape[:-1], case.W0.shape[0])))
    grads = gradients(xp, case, dy)
    dA, dB, dg = (xp.fractions(t) for t in (grads.dA, grads.dB, grads.dg))
    for i in set(range(len(case.g))) - set(case.open):
        assert all(value == 0 for value in (*dA[i, :], *dB[:, i]))
        opened = case.g.copy()
        opened[i] = Fraction(1)
        slope = inner(dy, loop_forward(*case._replace(g=opened)) - loop_forward(*case))
        assert dg[i] == slope


@pytest.mark.exact("SORA-LINEAR-4")
def test_closed_gate_keeps_a_nonzero_gradient(xp: Space) -> None:
    one = exact([[1]])
    case = LinearCase(one, one, None, one, exact([0]), 3 * one, Fraction(2))
    grads = gradients(xp, case, exact([[5]]))
    assert [xp.fractions(t).ravel().tolist() for t in (grads.dA, grads.dB, grads.dg)] == [[0], [0], [30]]


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3")
@given(linear_cases())
def test_plain_linear_layer_has_no_branch(xp: Space, case: LinearCase) -> None:
    b = None if case.b is None else xp.asarray(case.b)
    y, cache = sora_linear_forward(xp.asarray(case.x), xp.asarray(case.W0), b, None)
    assert all_equal(xp.fractions(y), loop_forward(*case._replace(s=Fraction(0))))
    grads = sora_linear_backward(y, cache)
    assert (grads.dA, grads.dg, grads.dB, grads.dW0, grads.db) == (None,) * 5
    assert all_equal(xp.fractions(grads.dx), loop_forward(xp.fractions(y), case.W0.T, None, *no_branch(case)))


def no_branch(case: LinearCase) -> tuple[Any, ...]:
    (out, in_) = case.W0.shape
    return np.empty((0, out), object), np.empty(0, object), np.empty((in_, 0), object), 1


@pytest.mark.exact("SORA-LINEAR-3")
def test_gradients_come_only_where_asked_for(xp: Space) -> None:
    one = exact([[1]])
    case = LinearCase(one, one, exact([1]), one, exact([1]), one, Fraction(1))
    y, cache = forward(xp, case)
    assert sora_linear_backward(y, cache, dx=False).dx is None
    quiet = sora_linear_backward(y, cache)
    assert quiet.dW0 is None
    assert quiet.db is None
    assert quiet.dx is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_the_arguments_is_the_dtype_of_every_result(floats: Space, dtype: str) -> None:
    x, W0, b = (floats.asarray(np.ones(shape), dtype) for shape in ((2, 3), (4, 3), (4,)))
    adapter = floats.adapter(np.ones((2, 3)), np.ones(2), np.ones((4, 2)), 0.1, dtype)
    keep = floats.asarray(np.ones((2, 3)), "bool")
    y, cache = sora_linear_forward(x, W0, b, adapter, keep=keep, p=0.1)
    grads = sora_linear_backward(y, cache, dW0=True, db=True)
    assert {str(floats.to_numpy(t).dtype) for t in (y, *grads)} == {dtype}


def test_float64_scalar_does_not_promote_float32_arrays() -> None:
    """DESIGN §2: a stray np.float64 would promote f32 arrays; it is rounded to their dtype, or it is refused."""
    one = np.ones((1, 1), np.float32)
    try:
        y, _ = sora_linear_forward(one, one, None, SoRA(one, one[0], one, np.float64(0.5)))
    except SoRAError:
        return
    assert y.dtype == np.float32


ONES: dict[str, Any] = {"x": (2, 3), "W0": (4, 3), "b": (4,), "A": (2, 3), "g": (2,), "B": (4, 2), "keep": (2, 3)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"W0": (4, 3, 1)}, r"W0 has 3 dimensions: expected 2, \(out, in\)"),
        ({"x": (2, 5)}, r"x has shape \(2, 5\): expected \(\.\.\., 3\)"),
        ({"x": ()}, r"x has shape \(\): expected \(\.\.\., 3\)"),
        ({"b": (3,)}, r"b has shape \(3,\): expected \(4,\)"),
        ({"A": (3, 2)}, r"A has shape \(3, 2\): expected \(2, 3\)"),
        ({"B": (2, 4)}, r"B has shape \(2, 4\): expected \(4, 2\)"),
        ({"g": (2, 1)}, r"g has shape \(2, 1\): expected one dimension, \(r,\)"),
        ({"keep": (3,)}, r"keep has shape \(3,\): expected \(2, 3\)"),
        ({"keep dtype": "int64"}, r"keep has dtype .*int64.*: expected a boolean mask"),
        ({"A dtype": "float32"}, r"mixed dtypes \(x .*float64, .*A .*float32.*\): expected one dtype"),
        ({"b dtype": "float32"}, r"mixed dtypes .*: expected one dtype"),
        ({"s": float("nan")}, r"scale s is nan: expected a finite number"),
        ({"s": float("inf")}, r"scale s is inf: expected a finite number"),
        ({"p": 1.0}, r"dropout probability p is 1\.0: expected 0 <= p < 1"),
        ({"p": -0.5}, r"dropout probability p is -0\.5: expected 0 <= p < 1"),
        ({"p": float("nan")}, r"dropout probability p is nan: expected 0 <= p < 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(floats: Space, change: dict[str, Any], sentence: str) -> None:
    a = {
        name: floats.asarray(
            np.ones(change.get(name, shape)),
            change.get(f"{name} dtype", "bool" if name == "keep" else "float64"),
        )
        for name, shape in ONES.items()
    }
    adapter = SoRA(a["A"], a["g"], a["B"], change.get("s", 1.0))
    with pytest.raises(SoRAError, match=sentence):
        sora_linear_forward(a["x"], a["W0"], a["b"], adapter, keep=a["keep"], p=change.get("p", 0.5))


@pytest.mark.parametrize(("names", "odd"), [(names, odd) for names in (NAMES, NAMES[:3]) for odd in names])
def test_mixed_dtypes_are_refused_by_the_name_and_dtype_of_each(
    floats: Space, names: tuple[str, ...], odd: str
) -> None:
    dtypes = {name: "float32" if name == odd else "float64" for name in names}
    a = {name: floats.asarray(np.ones(ONES[name]), dtype) for name, dtype in dtypes.items()}
    adapter = SoRA(a["A"], a["g"], a["B"], 1.0) if "A" in names else None
    listed = ", ".join(rf"{name} \S*{dtype}" for name, dtype in dtypes.items())
    with pytest.raises(SoRAError, match=rf"^mixed dtypes \({listed}\): expected one dtype for all$"):
        sora_linear_forward(a["x"], a["W0"], a["b"], adapter)


def test_backward_refuses_a_dy_that_does_not_fit(floats: Space) -> None:
    x, W0 = floats.asarray(np.ones((2, 3))), floats.asarray(np.ones((4, 3)))
    _, cache = sora_linear_forward(x, W0, None, None)
    with pytest.raises(SoRAError, match=r"dy has shape \(2, 3\): expected \(2, 4\)"):
        sora_linear_backward(x, cache)
    with pytest.raises(SoRAError, match=r"mixed dtypes \(dy .*float32, x .*float64\)"):
        sora_linear_backward(floats.asarray(np.ones((2, 4)), "float32"), cache)
