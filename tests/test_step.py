"""SORA-STEP-1 to -8: one training step, clause by clause."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space, all_equal, array_of, dyadics, exact, gamma, keys, unit_roundoff

from sora_ref import (
    ADAMW_XI,
    GATE_RULES,
    PAPER,
    RELEASED,
    SGD,
    SPEC,
    AdamW,
    Ops,
    Rates,
    Recipe,
    SoRAError,
    TrainState,
    combine_microbatches,
    initial_state,
    training_step,
)
from sora_ref.gradients import clip_by_global_norm
from sora_ref.ops import Update
from sora_ref.optim import Optimiser
from sora_ref.step import RECIPES

PLAIN = Recipe(optimiser=SGD(), gate_rule=PAPER, decayed=lambda name: name.endswith("A"))
U = unit_roundoff(np.float64)


# --- SORA-STEP-2 ---------------------------------------------------------------------------------------------------


@pytest.mark.exact("SORA-STEP-2")
@given(array_of((6, 2)), st.lists(st.integers(0, 6), max_size=4).map(sorted), st.permutations(range(6)))
def test_microbatch_split_does_not_matter(xp: Space, rows: Any, cuts: list[int], order: list[int]) -> None:
    """Over any partition into microbatches, of any sizes, in any order, the gradient is the mean over examples."""
    parts = np.split(rows[np.array(order)], cuts)
    summed = [{"w": xp.asarray([sum(part[:, k], Fraction(0)) for k in range(2)])} for part in parts]
    found = combine_microbatches(summed, 8)  # eight, so that the division is exact in binary too
    assert all_equal(xp.fractions(found["w"]), [sum(rows[:, k], Fraction(0)) / 8 for k in range(2)])


@pytest.mark.exact("SORA-STEP-2")
def test_microbatches_are_weighted_by_their_examples_not_averaged() -> None:
    found = combine_microbatches([{"w": exact([1])}, {"w": exact([4 + 4])}], 3)  # one example of 1, two of 4
    assert found["w"][0] == 3


@pytest.mark.parametrize(
    ("summed", "examples", "sentence"),
    [
        ([], 1, r"^no microbatches: expected at least one$"),
        ([{"w": 1}], 0, r"0 examples in the optimiser batch: expected at least 1"),
        ([{"w": 1}, {"v": 1}], 2, r"^microbatches differ in the parameters they have gradients of$"),
    ],
)
def test_microbatches_that_do_not_fit_are_refused(summed: Any, examples: int, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        combine_microbatches(summed, examples)


# --- SORA-STEP-3 and -4 --------------------------------------------------------------------------------------------


def sample(xp: Space) -> tuple[TrainState, dict[str, Any]]:
    params = {"m.sora_A": [[1.0, 2.0]], "m.sora_g": [3.0, -1.0], "n.sora_g": [0.0, 2.0], "head.bias": [4.0]}
    grads = {"m.sora_A": [[1.0, 2.0]], "m.sora_g": [2.0, 4.0], "n.sora_g": [4.0, 2.0], "head.bias": [2.0]}
    state = initial_state({name: xp.asarray(value) for name, value in params.items()})
    return state, {name: xp.asarray(value) for name, value in grads.items()}


@pytest.mark.exact("SORA-STEP-4")
@pytest.mark.parametrize(
    ("limit", "eps", "factor"), [(3.5, 0.0, 0.5), (7.0, 0.0, 1.0), (8.0, 0.0, 1.0), (4.0, 1.0, 0.5)]
)
def test_clip_scales_every_gradient_gates_included(floats: Space, limit: float, eps: float, factor: float) -> None:
    _, grads = sample(floats)  # norm² = 1 + 4 + 4 + 16 + 16 + 4 + 4 = 49
    clipped, norm = clip_by_global_norm(grads, limit, eps)
    assert floats.to_numpy(norm).item() == 7
    for name, grad in grads.items():
        assert all_equal(floats.to_numpy(clipped[name]), factor * floats.to_numpy(grad)), name


@pytest.mark.exact("SORA-STEP-4")
def test_clip_eps_is_the_recipes_and_zero_by_default(floats: Space) -> None:
    state, grads = sample(floats)  # of norm 7: 2 over 7 + 1 is a quarter
    clipped, _ = clip_by_global_norm(grads, 7.0)
    assert all(all_equal(floats.to_numpy(clipped[name]), floats.to_numpy(grad)) for name, grad in grads.items())
    new, _ = training_step(state, grads, Rates(1.0, 1.0, 0.0), Recipe(SGD(), PAPER, clip=2.0, clip_eps=1.0))
    for name, grad in grads.items():
        moved = floats.to_numpy(state.params[name]) - floats.to_numpy(new.params[name])
        assert all_equal(moved, floats.to_numpy(grad) / 4), name


@pytest.mark.exact("SORA-STEP-4")
def test_clipped_gates_move_by_the_clipped_gradient_and_norm_is_that_before_clipping(floats: Space) -> None:
    state, grads = sample(floats)
    new, norm = training_step(state, grads, Rates(1.0, 0.5, 0.0), Recipe(SGD(), PAPER, clip=3.5))
    assert norm is not None
    assert floats.to_numpy(norm).item() == 7
    assert floats.to_numpy(new.params["m.sora_g"]).tolist() == [2.5, -2.0]  # 3 − ½·½·2, −1 − ½·½·4
    assert floats.to_numpy(new.params["head.bias"]).tolist() == [3.0]  # 4 − 1·½·2
    _, unclipped = training_step(state, grads, Rates(1.0, 0.5, 0.0), Recipe(SGD(), PAPER))
    assert unclipped is None


@pytest.mark.exact("SORA-STEP-3")
@pytest.mark.bounded("SORA-STEP-4")
def test_released_l1_is_normalised_by_all_gates_and_lies_inside_the_clipped_gradient(floats: Space) -> None:
    """sgn gives (1, −1) and (0, 1), times 4/4 gates; the norm of what is clipped is √(1+4+9+9+16+9+4) = √52."""
    state, grads = sample(floats)
    rule = PAPER.replace(loss_l1=4.0)
    for clip in (None, 1e3):
        new, norm = training_step(state, grads, Rates(0.0, 1.0, 0.0), Recipe(SGD(), rule, clip=clip))
        assert floats.to_numpy(new.params["m.sora_g"]).tolist() == [0.0, -4.0]  # 3 − (2 + 1), −1 − (4 − 1)
        assert floats.to_numpy(new.params["n.sora_g"]).tolist() == [-4.0, -1.0]  # sgn 0 = 0
    assert norm is not None
    # squares and sums are integers, so exact: the root alone rounds
    assert abs(Fraction(floats.to_numpy(norm).item()) ** 2 - 52) <= 52 * (2 * U + U * U)


@pytest.mark.exact("SORA-STEP-3")
def test_released_rule_takes_modules_without_components(floats: Space) -> None:
    """Rank 0 is legal, so there may be no gate to normalise by."""
    state = initial_state({"m.sora_g": floats.asarray(np.zeros(0)), "head.bias": floats.asarray([1.0])})
    grads = {"m.sora_g": floats.asarray(np.zeros(0)), "head.bias": floats.asarray([1.0])}
    new, _ = training_step(state, grads, Rates(0.5, 0.5, 0.1), Recipe(SGD(), RELEASED))
    assert floats.to_numpy(new.params["head.bias"]).tolist() == [0.5]


@pytest.mark.bounded("SORA-STEP-4")
@given(keys, st.sampled_from(["float32", "float64"]))
def test_clipped_norm_is_at_most_the_limit_up_to_rounding(floats: Space, key: int, dtype: str) -> None:
    """Norm and factor are formed in float64 (n squares and sums, root, division), cast once and multiplied once."""
    rng = np.random.default_rng(key)
    shapes = {"a": (3, 2), "b.sora_g": (4,), "c": (0,)}
    grads = {name: rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4) for name, shape in shapes.items()}
    clipped, norm = clip_by_global_norm({name: floats.asarray(v, dtype) for name, v in grads.items()}, 0.1)
    total = sum(Fraction(float(v)) ** 2 for t in clipped.values() for v in floats.to_numpy(t).ravel())
    room = (1 + 2 * gamma(10, U) + 2 * gamma(2, unit_roundoff(dtype))) ** 2
    assert total <= Fraction(0.1) ** 2 * room
    assert str(floats.to_numpy(norm).dtype) == "float64"
    assert {str(floats.to_numpy(t).dtype) for t in clipped.values()} == {dtype}


@pytest.mark.exact("SORA-STEP-4")
def test_clip_never_turns_nan_into_a_number(floats: Space) -> None:
    clipped, norm = clip_by_global_norm({"a": floats.asarray([np.nan, 1.0]), "b": floats.asarray([1.0])}, 0.1)
    assert np.isnan(floats.to_numpy(norm))
    assert all(np.isnan(floats.to_numpy(t)).all() for t in clipped.values())


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_clip_that_is_none_is_refused(floats: Space, limit: float) -> None:
    with pytest.raises(SoRAError, match=r"clip is .*: expected"):
        clip_by_global_norm({"a": floats.asarray([1.0])}, limit)


@pytest.mark.exact("SORA-STEP-4", "SORA-OPT-2")
def test_every_rule_has_a_recipe_of_its_name_and_the_released_one_alone_departs() -> None:
    assert {name: recipe.gate_rule for name, recipe in RECIPES.items()} == GATE_RULES
    others = {name: (recipe.optimiser, recipe.clip_eps) for name, recipe in RECIPES.items()}
    assert others.pop("released") == (AdamW(eps_on="raw", decays="after"), 1e-6)
    assert others.pop("paper") == (SGD(), 0.0)
    assert set(others.values()) == {(AdamW(), 0.0)}


# --- SORA-STEP-5 to -8 ---------------------------------------------------------------------------------------------


@pytest.mark.exact("SORA-STEP-8")
def test_first_step_has_t_one_and_t_advances(floats: Space) -> None:
    """Bias correction makes AdamW's first step lr·G/(|G| + ε), here ½; with t = 0 or 2 it would not be."""
    state = initial_state({"w": floats.asarray([0.0])})
    assert state.t == 0
    recipe = Recipe(AdamW(betas=(0.0, 0.75), eps=1.0))
    new, _ = training_step(state, {"w": floats.asarray([1.0])}, Rates(1.0, 9.0, 0.0), recipe)
    assert (new.t, floats.to_numpy(new.params["w"]).item()) == (1, -0.5)
    again, _ = training_step(new, {"w": floats.asarray([1.0])}, Rates(0.0, 9.0, 0.0), recipe)
    assert again.t == 2
    assert floats.to_numpy(state.params["w"]).item() == 0


@pytest.mark.exact("SORA-STEP-6")
@pytest.mark.parametrize("optimiser", [SGD(weight_decay=0.5), AdamW(weight_decay=0.5)])
def test_decay_acts_where_the_caller_says_and_never_on_a_gate(floats: Space, optimiser: Optimiser) -> None:
    names = ("a.sora_A", "a.sora_B", "a.sora_g", "sora_gain.weight", "head.bias", "norm.weight")
    zero = {name: floats.asarray([0.0]) for name in names}
    for spared, expected in (
        ({"head.bias", "norm.weight"}, [6, 6, 8, 6, 8, 8]),
        (set(names), [8, 8, 8, 8, 8, 8]),
        (set(), [6, 6, 8, 6, 6, 6]),
    ):
        state = initial_state({name: floats.asarray([8.0]) for name in names})
        recipe = Recipe(optimiser, ADAMW_XI, decayed=(set(names) - spared).__contains__)
        new, _ = training_step(state, zero, Rates(0.5, 0.5, 0.0), recipe)
        assert [floats.to_numpy(new.params[name]).item() for name in names] == expected


@pytest.mark.exact("SORA-STEP-6")
def test_nothing_is_decayed_by_default_and_an_optimiser_that_decays_has_no_default(floats: Space) -> None:
    zero = {"head.weight": floats.asarray([0.0])}
    new, _ = training_step(initial_state(zero), zero, Rates(0.5, 0.5, 0.0), Recipe())
    assert floats.to_numpy(new.params["head.weight"]).item() == 0
    for optimiser in (SGD(weight_decay=0.5), AdamW(weight_decay=0.5)):
        with pytest.raises(
            SoRAError, match=r"^weight decay is 0\.5 and `decayed` is missing: expected a predicate that"
        ):
            Recipe(optimiser)


@pytest.mark.exact("SORA-STEP-5", "SORA-STEP-7", "SORA-GATE-2")
@given(array_of((2,)), array_of((2,)), dyadics.map(abs), dyadics.map(abs), dyadics.map(abs))
def test_gates_have_their_own_rate_for_descent_and_threshold_alike(
    xp: Space, g: Any, grad: Any, lr: Fraction, gate_lr: Fraction, lam: Fraction
) -> None:
    params = {"m.sora_g": xp.asarray(g), "m.sora_A": xp.asarray(g)}
    grads = {"m.sora_g": xp.asarray(grad), "m.sora_A": xp.asarray(grad)}
    rates = Rates(xp.number(lr), xp.number(gate_lr), xp.number(lam))
    new, _ = training_step(initial_state(params), grads, rates, PLAIN)
    v = g - gate_lr * grad
    cut = [max(abs(t) - gate_lr * lam, Fraction(0)) * (1 if t > 0 else -1) for t in v]
    assert all_equal(xp.fractions(new.params["m.sora_g"]), cut)
    assert all_equal(xp.fractions(new.params["m.sora_A"]), g - lr * grad)


@pytest.mark.exact("SORA-STEP-6")
def test_rows_and_columns_of_a_closed_gate_keep_moving_by_momentum_and_decay(floats: Space) -> None:
    """SORA-STEP-6: the gradients of A_i and B_i are zero from step 2 on, their moments are not."""
    state = initial_state({"m.sora_A": floats.asarray([1.0]), "m.sora_g": floats.asarray([0.0])})
    recipe = Recipe(AdamW(), ADAMW_XI)
    for grad, moved in ((1.0, True), (0.0, True), (0.0, True)):
        before = floats.to_numpy(state.params["m.sora_A"]).item()
        grads = {"m.sora_A": floats.asarray([grad]), "m.sora_g": floats.asarray([0.0])}
        state, _ = training_step(state, grads, Rates(0.01, 0.01, 1.0), recipe)
        assert (floats.to_numpy(state.params["m.sora_A"]).item() < before) == moved
        assert floats.to_numpy(state.params["m.sora_g"]).item() == 0


def test_step_refuses_gradients_that_do_not_match_the_parameters(floats: Space) -> None:
    state, grads = sample(floats)
    del grads["head.bias"]
    with pytest.raises(SoRAError, match=r"differ in head\.bias: expected one gradient for every parameter"):
        training_step(state, grads, Rates(0.1, 0.1, 0.1), PLAIN)
    with pytest.raises(SoRAError, match="differ in a, b, c, d: expected one gradient"):  # the first four of them
        training_step(state, {**state.params, **dict.fromkeys("abcde", 0)}, Rates(0.1, 0.1, 0.1), PLAIN)


def test_step_goes_through_the_operations_it_is_given(floats: Space) -> None:
    state, grads = sample(floats)
    seen: dict[str, Update] = {}

    def spy(updates: Mapping[str, Update], t: int) -> Any:
        seen.update(updates)
        return SPEC.update_parameters(updates, t)

    ops: Ops = SPEC.replace(update_parameters=spy)
    training_step(state, grads, Rates(0.1, 0.2, 0.3), PLAIN, ops)
    assert seen.keys() == state.params.keys()
    told = {name: (update.rule, update.lr, update.strength, update.decay) for name, update in seen.items()}
    gate, other = (PLAIN.gate_rule, 0.2, 0.3, False), (PLAIN.optimiser, 0.1, 0.0)
    assert told == {"m.sora_A": (*other, True), "m.sora_g": gate, "n.sora_g": gate, "head.bias": (*other, False)}
    with pytest.raises(TypeError):
        SPEC.replace(no_such_operation=spy)  # type: ignore[call-arg]


@pytest.mark.exact("SORA-STEP-3")
def test_zero_control_keeps_the_released_l1_in_the_gradient(floats: Space) -> None:
    state, grads = sample(floats)
    recipe = Recipe(SGD(), PAPER.replace(loss_l1=4.0), gate_gradient="zero")
    new, _ = training_step(state, grads, Rates(1.0, 1.0, 0.0), recipe)
    assert floats.to_numpy(new.params["m.sora_g"]).tolist() == [2.0, 0.0]
    assert floats.to_numpy(new.params["m.sora_A"]).tolist() == [[0.0, 0.0]]


def test_a_step_of_no_parameters_is_refused() -> None:
    with pytest.raises(SoRAError, match=r"^there are no parameters: expected at least one to train$"):
        training_step(initial_state({}), {}, Rates(0.5, 0.5, 0.1), Recipe(clip=1.0))
