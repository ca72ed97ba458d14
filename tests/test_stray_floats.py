"""No float gets through the exact backend: every function, every argument.

`backends.get("exact")` promises that a float which strays into an exact array is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from strategies import exact

from sora_ref import (
    PAPER,
    RELEASED,
    SGD,
    Rates,
    Recipe,
    SoRA,
    absorb_gate,
    combine_microbatches,
    delta,
    gate_update,
    initial_state,
    kept_components,
    kkt_distance,
    l1_value,
    merge,
    prune,
    released_threshold,
    soft_threshold,
    sora_linear_backward,
    sora_linear_forward,
    training_step,
    unmerge,
    zero_moments,
)
from sora_ref.backends import get
from sora_ref.backends.exact_backend import Rational
from sora_ref.linear import LinearCache
from sora_ref.prox import prox_kkt_distance, released_penalty
from sora_ref.pruning import MergedLinear


def test_operators_of_the_rationals_give_rationals_and_leave_their_operands_what_they_are() -> None:
    third, plain = Rational(1, 3), Fraction(2)
    from_the_left = (third + plain, third - 1, third * plain, third / 2, third**2, third + 0, third * 1)
    from_the_right = (plain + third, 1 - third, plain * third, plain / third)
    assert {type(result) for result in (*from_the_left, *from_the_right, -third, +third, abs(third))} == {Rational}
    assert type(plain) is Fraction
    assert (third, plain) == (Rational(1, 3), Fraction(2))


def look_through(found: Any) -> None:
    """TypeError where a float stands anywhere in a result: in its arrays, numbers, tuples and mappings."""
    if isinstance(found, Mapping):
        found = tuple(found.values())
    if isinstance(found, tuple):
        for part in found:
            look_through(part)
    elif found is not None:
        get("exact").to_host(np.asarray(found, object))


def whole_step(A: Any, g: Any, dA: Any, dg: Any, lr: Any, gate_lr: Any, lam: Any, w: Any, l1: Any) -> Any:
    state, grads = initial_state({"m.sora_A": A, "m.sora_g": g}), {"m.sora_A": dA, "m.sora_g": dg}
    recipe = Recipe(SGD(weight_decay=w), PAPER.replace(loss_l1=l1), decayed=lambda name: True)
    return training_step(state, grads, Rates(lr, gate_lr, lam), recipe)


def backward(dy: Any, x: Any, h: Any, z: Any, W0: Any, A: Any, g: Any, B: Any, s: Any, p: Any) -> Any:
    cache = LinearCache(x, h, z, W0, SoRA(A, g, B, s), np.ones((2, 2), bool), p, (2,))
    return sora_linear_backward(dy, cache, dW0=True, db=True)


def forward(x: Any, W0: Any, b: Any, A: Any, g: Any, B: Any, s: Any, p: Any) -> Any:
    return sora_linear_forward(x, W0, b, SoRA(A, g, B, s), keep=np.ones((2, 2), bool), p=p)[0]


CALLS: dict[str, Callable[..., Any]] = {
    "sora_linear_forward": forward,
    "sora_linear_backward": backward,
    "kept_components": lambda g: kept_components(g),
    "prune": lambda A, g, B, s: prune(SoRA(A, g, B, s), (1,)),
    "absorb_gate into A": lambda A, g, B, s: absorb_gate(SoRA(A, g, B, s), into="A"),
    "absorb_gate into B": lambda A, g, B, s: absorb_gate(SoRA(A, g, B, s), into="B"),
    "absorb_gate and s": lambda A, g, B, s: absorb_gate(SoRA(A, g, B, s), scale=True),
    "delta": lambda A, g, B, s: delta(SoRA(A, g, B, s)),
    "merge": lambda W0, A, g, B, s: merge(W0, SoRA(A, g, B, s)),
    "unmerge": lambda W0, A, g, B, s: unmerge(MergedLinear(W0, SoRA(A, g, B, s), None)),
    "soft_threshold": lambda g, xi: soft_threshold(g, xi),
    "soft_threshold in a metric": lambda g, amounts: soft_threshold(g, amounts),
    "released_threshold": lambda g, xi: released_threshold(g, xi),
    "released_penalty": lambda g, xi: released_penalty(g, xi),
    "l1_value": lambda g, lam: l1_value([g], lam),
    "kkt_distance": lambda g, dg, lam: kkt_distance(g, dg, lam),
    "prox_kkt_distance": lambda g, dg, lam: prox_kkt_distance(g, dg, lam),
    "SGD": lambda g, dg, lr, w: SGD(weight_decay=w).update(g, dg, zero_moments(g), 1, lr),
    "gate_update by paper": lambda g, dg, lr, lam: gate_update(PAPER, g, dg, zero_moments(g), 1, lr, lam),
    "gate_update as released": lambda g, dg, lr, xi: gate_update(
        RELEASED.replace(descend=SGD()), g, dg, zero_moments(g), 1, lr, xi
    ),
    "combine_microbatches": lambda dg, g, examples: combine_microbatches([{"w": dg}, {"w": g}], examples),
    "training_step": whole_step,
}
ARRAYS = {"x": 2, "h": 2, "z": 2, "W0": 2, "A": 2, "B": 2, "dy": 2, "dA": 2, "b": 1, "g": 1, "dg": 1, "amounts": 1}
NUMBERS = {"p": (1, 4), "examples": (3, 1)}


def rational_arguments(call: Callable[..., Any]) -> dict[str, Any]:
    """What this function takes, all of it rational; a threshold lies below every gate."""
    out: dict[str, Any] = {}
    for name in inspect.signature(call).parameters:
        if name in ARRAYS:
            values = np.random.default_rng(len(out)).integers(1, 9, (2,) * ARRAYS[name])
            out[name] = exact(values) / 7
        else:
            out[name] = Rational(*NUMBERS.get(name, (1, 8)))
    return out


PLACES = [(name, place) for name, call in CALLS.items() for place in inspect.signature(call).parameters]
ONLY_ITS_SIGN = ("kkt_distance", "g")


@pytest.mark.exact
@pytest.mark.parametrize("name", CALLS)
def test_rational_arguments_give_rational_results(name: str) -> None:
    look_through(CALLS[name](**rational_arguments(CALLS[name])))


@pytest.mark.exact
@pytest.mark.parametrize(("name", "argument"), [place for place in PLACES if place != ONLY_ITS_SIGN])
def test_one_float_in_any_argument_is_an_error(name: str, argument: str) -> None:
    """At the operation where it meets a rational, or at the latest where the result comes back to the host."""
    for kind in (float, np.float64) if argument in ARRAYS else (float,):
        arguments = rational_arguments(CALLS[name])
        if argument in ARRAYS:
            arguments[argument].flat[-1] = kind(arguments[argument].flat[-1])
        else:
            arguments[argument] = kind(arguments[argument])
        with pytest.raises(TypeError):
            look_through(CALLS[name](**arguments))


@pytest.mark.exact
def test_a_float_that_is_only_compared_leaves_no_trace() -> None:
    """The limit of the law above: a float may decide a branch, but its value enters no result."""
    look_through(soft_threshold(exact([Fraction(1, 4)]), 0.5))
    look_through(kkt_distance(np.array([0.125], object), exact([1]), 1))
