"""What each method adds, trains and watches."""

from __future__ import annotations

import numpy as np
import pytest

from sora_ref import initial_adapter
from sora_ref.methods import HEAD, LORA, METHODS, SORA, Branch, Method
from sora_ref.names import adapter_names, is_adapter, is_gate, module_of

MODULE, SHAPE = "encoder.0.dense", (5, 4)
BRANCH = Branch(seed=7, r=3, alpha=6.0, gate=None, dtype="float64")


def test_table_has_every_method_by_its_name() -> None:
    assert list(METHODS) == ["head", "lora", "sora"]
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("method", [LORA, SORA], ids=lambda method: method.name)
def test_what_is_added_is_a_branch_of_the_module_trained_or_frozen_and_never_both(method: Method) -> None:
    assert method.add is not None
    trained, frozen = method.add(MODULE, SHAPE, BRANCH)
    assert sorted([*trained, *frozen]) == sorted(adapter_names(MODULE))
    assert {array.dtype for array in [*trained.values(), *frozen.values()]} == {np.dtype(np.float64)}


def test_sora_trains_the_initial_adapter() -> None:
    assert SORA.add is not None
    trained, frozen = SORA.add(MODULE, SHAPE, BRANCH)
    expected = initial_adapter(7, MODULE, *SHAPE, 3, 6.0, dtype="float64")
    names = adapter_names(MODULE)
    assert frozen == {}
    for name, array in zip(names, (expected.A, expected.g, expected.B), strict=True):
        np.testing.assert_array_equal(trained[name], array)
    constant = SORA.add(MODULE, SHAPE, BRANCH._replace(gate=0.5)).trained[names.g]
    np.testing.assert_array_equal(constant, np.full(3, 0.5))


def test_lora_begins_as_sora_does_and_its_gates_stay_at_one() -> None:
    assert LORA.add is not None
    assert SORA.add is not None
    lora, sora, names = LORA.add(MODULE, SHAPE, BRANCH), SORA.add(MODULE, SHAPE, BRANCH), adapter_names(MODULE)
    assert set(lora.trained) == {names.A, names.B}
    np.testing.assert_array_equal(lora.trained[names.A], sora.trained[names.A])
    np.testing.assert_array_equal(lora.frozen[names.g], np.ones(3))


def test_head_adds_nothing() -> None:
    assert HEAD.add is None
    assert HEAD.pictures == ()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gates_are_watched_in_the_order_of_the_modules_where_they_can_close(method: Method) -> None:
    modules = ["b", "a"]
    watched = method.watched(modules)
    assert bool(watched) == (method.survivors is not None) == ("gates" in method.pictures)
    assert all(is_adapter(name) and is_gate(name) for name in watched)
    assert [module_of(name) for name in watched] in ([], modules)


@pytest.mark.parametrize(("alpha", "r", "scale"), [(6.0, 3, 2.0), (6.0, 0, 6.0)])
def test_scale_is_alpha_over_r(alpha: float, r: int, scale: float) -> None:
    assert BRANCH._replace(alpha=alpha, r=r).scale == scale
