"""The optimiser step of all parameters in one launch, and the clipping in two, beside the specification's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulated import MISSING, make_device
from hypothesis import given
from hypothesis import strategies as st
from update_inputs import RULES, SHAPES, make_update

from sora_ref import ADAMW_XI, RELEASED, SGD, SPEC, AdamW, GateRule, SoRAError
from sora_ref.bounds import gamma
from sora_ref.gate import ADAMW_METRIC, ADAMW_METRIC_LITERAL
from sora_ref.kernels.cuda.update import GRADIENT, UPDATE, update_operations
from sora_ref.kernels.step_numbers import step_numbers
from sora_ref.ops import Update
from sora_ref.optim import Moments

Floats = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
DEVICE = make_device()
UPDATES = update_operations(DEVICE)
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
steps = st.sampled_from([1, 2, 1000])


def same_bits(a: Any, b: Any) -> bool:
    """Same shape, dtype and bits; any NaN is as good as another, and so is either zero: clip may keep a −0."""
    x, y = np.asarray(a), np.asarray(b)
    return x.shape == y.shape and x.dtype == y.dtype and bool(np.array_equal(x, y, equal_nan=True))


def check(updates: dict[str, Update], t: int) -> None:
    """The kernel's result is the specification's, bit for bit; and nothing it was given has changed."""
    before = {name: [np.copy(x) for x in (u.theta, u.grad, *u.moments)] for name, u in updates.items()}
    with np.errstate(all="ignore"):
        expected = SPEC.update_parameters(updates, t)
    found = UPDATES["update_parameters"](updates, t)
    assert list(found) == list(expected)
    for name, (theta, moments) in expected.items():
        assert same_bits(found[name][0], theta), name
        assert all(same_bits(a, b) for a, b in zip(found[name][1], moments, strict=True)), name
        assert type(found[name][1]) is Moments
        now = (updates[name].theta, updates[name].grad, *updates[name].moments)
        assert all(same_bits(a, b) for a, b in zip(before[name], now, strict=True))


@pytest.mark.exact("SORA-STEP-6", "SORA-STEP-7")
@given(seeds, dtypes, st.lists(st.tuples(st.sampled_from(RULES), SHAPES), max_size=6), steps)
def test_step_of_all_parameters_is_the_specifications_bit_for_bit(
    seed: int, dtype: str, kinds: list[tuple[Any, tuple[int, ...]]], t: int
) -> None:
    rng = np.random.default_rng(seed)
    DEVICE.cp.launches.clear()
    updates = {f"p{k}": make_update(rng, rule, shape, dtype) for k, (rule, shape) in enumerate(kinds)}
    check(updates, t)
    some = any(update.theta.size for update in updates.values())
    assert [name for name, _ in DEVICE.cp.launches] == (["update_parameters"] if some else [])


@pytest.mark.exact
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "name", str(rule)))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinities_and_what_is_no_number_go_the_specifications_way(rule: Any, dtype: str) -> None:
    values = np.array([0.0, -0.0, 1.0, -1e-30, np.inf, -np.inf, np.nan, 1e30], dtype)
    theta, grad = (x.ravel().copy() for x in np.meshgrid(values, values))
    for v in (np.zeros(64, dtype), np.full(64, np.inf, dtype), np.full(64, 0.5, dtype)):
        for strength in (0.0, 0.5) if isinstance(rule, GateRule) else (0.0,):
            moments = Moments(np.linspace(-1, 1, 64).astype(dtype), v)
            check({"a": Update(theta, grad, moments, rule, 0.1, strength, decay=True)}, 3)


@pytest.mark.exact("SORA-PROX-1")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_are_zero_exactly_where_the_threshold_reaches_and_that_zero_is_positive(dtype: str) -> None:
    xi = 0.1
    at = np.asarray(xi, dtype)
    edge = np.array([np.nextafter(at, 0), at, np.nextafter(at, 1), 0.0], dtype)
    gates = np.concatenate([edge, -edge])
    still = Update(gates, np.zeros(8, dtype), Moments(*np.zeros((2, 8), dtype)), ADAMW_XI, 1e-2, xi)
    found, _ = UPDATES["update_parameters"]({"g": still}, 1)["g"]
    assert (found == 0).tolist() == [True, True, False, True] * 2
    assert not np.any(np.signbit(found[found == 0]))
    assert found[2] == np.nextafter(at, 1) - at == -found[6]


@pytest.mark.exact("SORA-PROX-5")
def test_released_threshold_has_its_dead_zone_and_its_two_points() -> None:
    x = np.array([0.5, -0.5, 0.75, 0.25, 1.0, 1.25], np.float64)
    moments = Moments(*np.zeros((2, 6)))
    found, _ = UPDATES["update_parameters"]({"g": Update(x, np.zeros(6), moments, RELEASED, 0.0, 0.5)}, 1)["g"]
    assert found.tolist() == [0.5, -0.5, 0.0, 0.0, 0.5, 0.75]


@pytest.mark.exact("SORA-GATE-3")
def test_metric_leaves_a_gate_without_a_gradient_and_the_literal_form_annihilates_it() -> None:
    moments = Moments(*np.zeros((2, 3)))
    for rule, left in ((ADAMW_METRIC, True), (ADAMW_METRIC_LITERAL, False)):
        update = Update(np.ones(3), np.zeros(3), moments, rule, 0.1, 0.5)
        found, _ = UPDATES["update_parameters"]({"g": update}, 1)["g"]
        assert np.all(found == (1.0 if left else 0.0))


@pytest.mark.exact
def test_a_rule_of_other_parts_steps_by_itself_beside_the_others() -> None:
    own = ADAMW_XI.replace(threshold=lambda x, amount: x * 0 + amount)
    rng = np.random.default_rng(0)
    updates = {"a": make_update(rng, AdamW(), (3,), "float64"), "g": make_update(rng, own, (4,), "float64")}
    assert [own is None for own in step_numbers(updates, 1).values()] == [False, True]
    check(updates, 1)
    check({"g": updates["g"], "wide": updates["a"], "narrow": make_update(rng, SGD(), (9,), "float32")}, 2)


@pytest.mark.exact
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": math.nan}, "learning rate is nan"),
        ({"grad": np.zeros(4)}, "gradient has shape"),
        ({"grad": np.zeros(3, np.float32)}, "mixed dtypes"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": -1.0, "lr": 0.0}, "strength is -1.0"),
        ({"strength": math.inf}, "strength is inf"),
    ],
)
def test_what_the_specification_refuses_is_refused(change: dict[str, Any], sentence: str) -> None:
    update = make_update(np.random.default_rng(0), ADAMW_XI, (3,), "float64", **change)
    with pytest.raises(SoRAError, match=sentence):
        UPDATES["update_parameters"]({"g": update}, 1)
    with pytest.raises(SoRAError, match="step t is 0"):
        UPDATES["update_parameters"]({"g": make_update(np.random.default_rng(0), SGD(), (3,), "float64")}, 0)


@pytest.mark.exact("SORA-STEP-2")
@given(seeds, dtypes, st.lists(SHAPES, min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([1, 3, 32]))
def test_mean_over_microbatches_is_the_specifications_bit_for_bit(
    seed: int, dtype: str, kinds: list[tuple[int, ...]], microbatches: int, examples: int
) -> None:
    rng = np.random.default_rng(seed)
    summed = [
        {f"p{k}": np.asarray(rng.standard_normal(shape), dtype) for k, shape in enumerate(kinds)}
        for _ in range(microbatches)
    ]
    found = UPDATES["combine_microbatches"](summed, examples)
    for name, expected in SPEC.combine_microbatches(summed, examples).items():
        assert same_bits(found[name], np.asarray(expected, dtype))


@pytest.mark.exact
def test_microbatches_that_do_not_fit_are_refused() -> None:
    one, other, longer = {"a": np.ones(2)}, {"b": np.ones(2)}, {"a": np.ones(3)}
    for summed, examples in (([], 1), ([one], 0), ([one, other], 2), ([one, longer], 2)):
        with pytest.raises(ValueError, match="expected some, with the same gradients"):
            UPDATES["combine_microbatches"](summed, examples)


@pytest.mark.bounded("SORA-STEP-4")
@given(seeds, dtypes, st.lists(SHAPES, min_size=1, max_size=5), st.sampled_from([0.1, 1e6]), st.sampled_from([0, 1e-6]))
def test_clipping_is_the_specifications_up_to_the_order_of_a_sum(
    seed: int, dtype: str, kinds: list[tuple[int, ...]], limit: float, eps: float
) -> None:
    rng = np.random.default_rng(seed)
    grads = {f"p{k}": np.asarray(rng.standard_normal(shape), dtype) for k, shape in enumerate(kinds)}
    expected, right = SPEC.clip_by_global_norm(grads, limit, eps)
    found, norm = UPDATES["clip_by_global_norm"](grads, limit, eps)
    n, u = sum(x.size for x in grads.values()), float(np.finfo(np.float64).eps) / 2
    relative = 2 * gamma(n + 3, u)  # two sums of squares, each with its root, either way from the exact norm
    assert norm.shape == ()
    assert norm.dtype == np.float64
    assert abs(float(norm) - float(right)) <= relative * float(right)
    own = float(np.finfo(dtype).eps) / 2
    for name, clipped in expected.items():
        assert found[name].dtype == dtype
        away = np.abs(found[name].astype(np.float64) - clipped)
        assert np.all(away <= (relative + gamma(4, own)) * np.abs(grads[name].astype(np.float64)) * min(1.0, limit))
        if limit > 1e3:
            assert same_bits(found[name], grads[name])


@pytest.mark.exact("SORA-STEP-4")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_never_hides_what_is_no_number(bad: float) -> None:
    grads = {"a": np.array([bad, 1.0]), "b": np.ones(20)}
    with np.errstate(invalid="ignore"):
        expected, _ = SPEC.clip_by_global_norm(grads, 0.5)
    found, norm = UPDATES["clip_by_global_norm"](grads, 0.5)
    assert np.array_equal(norm, bad, equal_nan=True)
    assert all(same_bits(found[name], clipped) for name, clipped in expected.items())


@pytest.mark.exact
def test_clipping_at_no_positive_number_is_refused() -> None:
    for limit in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"clip is .*: expected a finite number above 0"):
            UPDATES["clip_by_global_norm"]({"a": np.ones(2)}, limit)


@pytest.mark.exact
def test_nothing_depends_on_the_order_in_which_threads_run() -> None:
    rng = np.random.default_rng(0)
    updates = {f"p{k}": make_update(rng, rule, (37,), "float32") for k, rule in enumerate(RULES)}
    grads = {name: update.grad for name, update in updates.items()}
    there, back = UPDATES, update_operations(make_device(backwards=True))
    for one, other in zip(*(k["clip_by_global_norm"](grads, 0.1)[0].values() for k in (there, back)), strict=True):
        assert same_bits(one, other)
    for one, other in zip(*(k["update_parameters"](updates, 5).values() for k in (there, back)), strict=True):
        assert same_bits(one[0], other[0])


@pytest.mark.exact
def test_a_line_of_a_table_is_the_struct_of_the_kernel() -> None:
    """Nothing but fields of 8 bytes, so no compiler pads; the emulated launches check their order."""
    assert UPDATE.itemsize == 8 * len(UPDATE.names or ()) == 8 * 23
    assert GRADIENT.itemsize == 8 * 4
