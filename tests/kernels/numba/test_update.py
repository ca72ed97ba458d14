"""The compiled optimiser step beside the specification's: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import SEEDS
from same_bits import same_bits
from update_inputs import RULES, SHAPES, make_update

from sora_ref import ADAMW_XI, SGD, SPEC, AdamW, GateRule, SoRAError
from sora_ref.kernels.numba import update as compiled
from sora_ref.kernels.numba.update import update_parameters
from sora_ref.ops import Update
from sora_ref.optim import Moments


def arrays(update: Update) -> list[np.ndarray]:
    return [update.theta, update.grad, *update.moments]


def check(updates: dict[str, Update], t: int) -> None:
    """The results are the specification's, and what was given is as it was."""
    before = [x.copy() for update in updates.values() for x in arrays(update)]
    with np.errstate(all="ignore"):
        expected, found = SPEC.update_parameters(updates, t), update_parameters(updates, t)
    assert list(found) == list(expected)
    for name, (theta, moments) in expected.items():
        assert same_bits(found[name][0], theta), name
        assert all(same_bits(a, b) for a, b in zip(found[name][1], moments, strict=True)), name
    after = [x for update in updates.values() for x in arrays(update)]
    assert all(same_bits(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.exact("SORA-STEP-6", "SORA-STEP-7")
@given(
    seed=SEEDS,
    kinds=st.lists(st.tuples(st.sampled_from(RULES), SHAPES, st.sampled_from(["float32", "float64"])), max_size=6),
    t=st.sampled_from([1, 2, 1000]),
    lr=st.sampled_from([0.0, 1e-2, 1]),
)
def test_step_of_all_parameters_is_the_specifications_bit_for_bit(seed: int, kinds: list[Any], t: int, lr: Any) -> None:
    rng = np.random.default_rng(seed)
    check({f"p{k}": make_update(rng, *kind, lr=lr) for k, kind in enumerate(kinds)}, t)


@pytest.mark.exact
@pytest.mark.parametrize("rule", [*RULES, SGD(weight_decay=1e-50)], ids=lambda rule: getattr(rule, "name", str(rule)))
def test_every_rule_has_the_specifications_bits_on_whatever_float32_holds(rule: Any) -> None:
    """Any pattern of 32 bits: subnormal numbers, both zeros, infinities and NaN among them."""
    rng = np.random.default_rng(0)
    special = [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, 0.1, -0.1]

    def anything() -> np.ndarray:
        x = rng.integers(-(2**31), 2**31, 4000, dtype=np.int32).view(np.float32)
        x[::3] = rng.choice(np.array(special, np.float32), x[::3].shape)
        x[1::3] = rng.standard_normal(x[1::3].shape)
        return x

    for strength in (0.0, 0.1, 3e38) if isinstance(rule, GateRule) else (0.0,):
        for lr in (0.0, 0.1):
            m, v = anything(), anything()
            for second in (v, np.zeros_like(v)):
                check({"p": Update(anything(), anything(), Moments(m, second), rule, lr, strength, decay=True)}, 3)


@pytest.mark.exact("SORA-PROX-1")
def test_gates_are_zero_exactly_where_the_threshold_reaches_and_that_zero_is_positive() -> None:
    xi = np.float32(0.1)
    edge = np.array([np.nextafter(xi, np.float32(0)), xi, np.nextafter(xi, np.float32(1)), 0], np.float32)
    gates, none = np.concatenate([edge, -edge]), np.zeros(8, np.float32)
    still = Update(gates, none, Moments(none, none), ADAMW_XI, 1e-2, 0.1)
    found, _ = update_parameters({"g": still}, 1)["g"]
    assert (found == 0).tolist() == [True, True, False, True] * 2
    assert not np.any(np.signbit(found[found == 0]))


@pytest.mark.exact
@pytest.mark.parametrize("rule", [AdamW(weight_decay=0.1), SGD(weight_decay=0.1), ADAMW_XI])
def test_what_is_read_only_or_lies_otherwise_in_memory_is_compiled_for_once(rule: Any) -> None:
    rng = np.random.default_rng(0)

    def step(make: Any) -> None:
        theta, grad, m, v = (make(rng.random((6, 4), np.float32)) for _ in range(4))
        check({"p": Update(theta, grad, Moments(m, v), rule, 0.1, decay=True)}, 2)

    def read_only(x: np.ndarray) -> np.ndarray:
        x.flags.writeable = False
        return x

    def misaligned(x: np.ndarray) -> np.ndarray:
        return np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)

    kernels: list[Any] = [compiled._adamw, compiled._sgd, compiled._threshold]
    step(np.copy)
    known = [len(kernel.signatures) for kernel in kernels]
    for make in (read_only, misaligned, np.transpose, lambda x: x[::2], lambda x: x[:, ::-1], np.asfortranarray):
        step(make)
    assert [len(kernel.signatures) for kernel in kernels] == known


@pytest.mark.exact
def test_a_rule_of_other_parts_and_what_is_refused_are_the_specifications() -> None:
    rng = np.random.default_rng(0)
    own = ADAMW_XI.replace(threshold=lambda x, amount: x * 0 + amount)
    check({"a": make_update(rng, AdamW(), (3,), "float32"), "g": make_update(rng, own, (4,), "float32")}, 1)
    short = make_update(rng, SGD(), (3,), "float32", grad=np.zeros(2, np.float32))
    with pytest.raises(SoRAError, match="gradient has shape"):
        update_parameters({"a": short}, 1)
    theta, grad, m, v = (rng.random(3).astype(">f4") for _ in range(4))  # the other order of bytes
    check({"a": Update(theta, grad, Moments(m, v), AdamW(), 0.1)}, 1)
