"""SORA-BOUND: any association of s, g, A and B, each sum in any order, lies within the bounds, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from rounding_report import Arguments, Floats, limit, results
from strategies import exact, keys

from sora_ref import SoRAError, absorb_gate, sora_linear_forward
from sora_ref.bounds import linear_backward_bound, linear_bound, merge_bound, precision_of, unmerge_bound

pytestmark = [pytest.mark.filterwarnings(f"ignore:{what}") for what in ("underflow", "overflow", "invalid value")]

# The smallest and the largest binary exponents that are drawn, subnormal numbers among them.
EXPONENTS = {np.float16: (-26, 8), np.float32: (-151, 62), np.float64: (-1080, 480)}


def chains(args: Arguments) -> dict[str, list[Any]]:
    """Every result as a product of matrices, the gate a diagonal one, without s and without the frozen path."""
    dy, x, A, B, g = args.dy, args.x, args.A, args.B, np.diag(args.g)
    return {
        "y": [x, A.T, g, B.T],
        "dx": [dy, B, g, A],
        "dA": [g, B.T, dy.T, x],
        "dB": [dy.T, x, A.T, g],
        "dg": [B.T, dy.T, x, A.T],
        "W merged": [B, g, A],
    }


def associated(factors: Sequence[Any], s: Any, rng: np.random.Generator) -> Any:
    """The product of the matrices and of s, which stands at any place; bracketed, and each sum ordered, at random."""
    chain, place = list(factors), rng.integers(len(factors) + 1)
    length = len(chain[0]) if place == 0 else chain[place - 1].shape[1]
    chain.insert(place, s * np.eye(length, dtype=chain[0].dtype))
    while len(chain) > 1:
        k = rng.integers(len(chain) - 1)
        a, b = chain[k : k + 2]
        terms = (a[:, j, None] * b[j] for j in rng.permutation(len(b)))
        chain[k : k + 2] = [reduce(np.add, terms, np.zeros((len(a), b.shape[1]), a.dtype))]
    return chain[0]


def plus(frozen: Any, branch: Any) -> Any:
    return branch + frozen if frozen.any() else branch  # so that a bound without a frozen path is met too


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-6")
@pytest.mark.parametrize("dtype", EXPONENTS)
@given(key=keys)
def test_any_association_and_order_lies_within_the_bound_or_is_refused(dtype: Any, key: int) -> None:
    """Exponents of each array, and of s, anywhere: s, s·g and every product may underflow, or be refused."""
    rng = np.random.default_rng(key)
    lowest, highest = EXPONENTS[dtype]

    def draw(*shape: int) -> Floats:
        exponents = rng.uniform(lowest, highest) + rng.uniform(0, 3, shape)
        drawn: Floats = (rng.choice([-1, 1], shape) * 2.0**exponents).astype(dtype)
        return drawn

    n, in_, out, r = rng.integers(1, 4, 4)
    W0 = draw(out, in_) * dtype(rng.integers(2))
    args = Arguments(draw(n, out), draw(n, in_), W0, None, draw(r, in_), draw(r), draw(out, r), 0.0)
    args = args._replace(s=2.0 ** rng.uniform(max(lowest - 3, -1074), highest))
    truth, frozen = results(args.exact()), {"y": args.x @ W0.T, "dx": args.dy @ W0, "W merged": W0}
    for name, factors in chains(args).items():
        try:
            bound = exact(limit(name, args, precision_of(args.x)))
        except SoRAError as refusal:
            assert "may overflow" in str(refusal)  # noqa: PT017 - a refusal is as right as a bound that holds
            continue
        for _ in range(3):
            found = associated(factors, dtype(args.s), rng)
            found = np.diagonal(found) if name == "dg" else plus(frozen.get(name, np.zeros(1)), found)
            assert (abs(exact(found) - exact(truth[name])) <= bound).all(), name


# By result, two arrays that meet in a sum, and the axis that is summed over.
SUMS = [
    *(("y", pair) for pair in ("xiA", "ArB")),
    *(("dx", pair) for pair in ("doB", "BrA")),
    *(("dA", pair) for pair in ("Bod", "dnx")),
    *(("dB", pair) for pair in ("dnx", "xiA")),
    *(("dg", pair) for pair in ("Bod", "dnx", "xiA")),
    ("W merged", "BrA"),
]


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-6")
@pytest.mark.parametrize("dtype", EXPONENTS)
@pytest.mark.parametrize(("name", "pair"), SUMS)
def test_what_a_long_sum_loses_to_underflow_may_meet_s_and_the_gates(dtype: Any, name: str, pair: str) -> None:
    """24 products just below ω are lost; s, and a gate outside of the sum, are 64 and come last in some association."""
    first, axis, second = list(pair)
    rng, size = np.random.default_rng(0), {letter: 24 if letter == axis else 1 for letter in "noir"}
    small = 0.7 * float(np.finfo(dtype).smallest_subnormal) ** 0.5
    parts = {
        key: np.full([size[letter] for letter in axes], small if key[0] in (first, second) else 1.0).astype(dtype)
        for key, axes in {"dy": "no", "x": "ni", "A": "ri", "B": "or"}.items()
    }
    gate, W0 = np.full(size["r"], 1 if axis == "r" else 64, dtype), np.zeros((size["o"], size["i"]), dtype)
    args = Arguments(**parts, g=gate, W0=W0, b=None, s=64.0)
    truth, bound = exact(results(args.exact())[name]), exact(limit(name, args, precision_of(args.x)))
    found = [associated(chains(args)[name], dtype(args.s), rng) for _ in range(12)]
    errors = [abs(exact(np.diagonal(one) if name == "dg" else one) - truth) for one in found]
    assert all((error <= bound).all() for error in errors)
    assert any((error == abs(truth)).all() for error in errors), "no association has lost all of it"


@pytest.mark.exact("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-6")
@pytest.mark.parametrize(
    ("place", "values"),
    {
        "s·g": {"g": 1e20, "s": 1e20, "A": 1e-30},
        "s·x": {"x": 1e20, "s": 1e20, "A": 1e-30},
        "g·B": {"g": 1e20, "B": 1e20, "A": 1e-30},
        "s·B": {"s": 1e20, "B": 1e20, "A": 1e-30},
    }.items(),
)
def test_an_operand_that_overflows_in_some_association_is_refused(place: str, values: dict[str, float]) -> None:
    """The result itself is a small number, and so is every number on the way in the order of `sora_linear_forward`."""
    args = arguments(**values)
    assert np.isfinite(sora_linear_forward(args.x, args.W0, None, args.adapter)[0]).all()
    factors = [np.float32(values[name]) for name in place.split("·")]
    assert np.isinf(factors[0] * factors[1])
    with pytest.raises(SoRAError, match="may overflow float32"):
        linear_bound(args.x, args.W0, None, args.adapter)


def arguments(**values: float) -> Arguments:
    """One row, one entry each: 1 where nothing is said, W0 = 0."""
    one = {name: np.full((1, 1), values.get(name, 1.0), np.float32) for name in ("dy", "x", "A", "g", "B")}
    one["W0"] = np.full((1, 1), values.get("W0", 0.0), np.float32)
    return Arguments(**{**one, "g": one["g"][0]}, b=None, s=values.get("s", 1.0))


@pytest.mark.exact("SORA-BOUND-4")
@pytest.mark.parametrize(
    "values",
    [
        {"s": 1e20, "dy": 1e20, "A": 1e-30, "B": 1e-30},
        {"s": 1e20, "x": 1e20, "A": 1e-30, "B": 1e-30},
        {"s": 1e20, "x": 1e10, "dy": 1e10, "A": 1e-30, "B": 1e-30},
    ],
    ids=["s dy", "s x", "s dy x"],  # in ASCII: pytest escapes given ids anew where it runs again in one process
)
def test_an_operand_of_a_gradient_that_overflows_is_refused(values: dict[str, float]) -> None:
    args = arguments(**values)
    with pytest.raises(SoRAError, match="may overflow float32"):
        linear_backward_bound(args.dy, args.x, args.W0, args.adapter)
    within = arguments(**{**values, "s": 1e15})
    assert linear_backward_bound(within.dy, within.x, within.W0, within.adapter).dA is not None


@pytest.mark.exact("SORA-BOUND-3", "SORA-BOUND-6")
def test_a_merge_whose_sum_or_whose_absorbed_gate_overflows_is_refused() -> None:
    large = arguments(W0=2e38, A=2e38)
    absorbed = arguments(g=1e20, B=1e20, A=1e-30)
    assert np.isinf(large.W0 + large.A)
    assert np.isinf(absorb_gate(absorbed.adapter, into="B").B)
    for args in (large, absorbed):
        for bound in (merge_bound, unmerge_bound):
            with pytest.raises(SoRAError, match="may overflow float32"):
                bound(args.W0, args.adapter)
