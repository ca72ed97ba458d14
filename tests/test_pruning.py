"""SORA-PRUNE: pruned, absorbed and merged forms equal the unpruned one, exactly."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import (
    LinearCase,
    Space,
    all_equal,
    exact,
    keys,
    linear_cases,
    loop_forward,
)

from sora_ref import (
    LoRA,
    SoRA,
    SoRAError,
    absorb_gate,
    delta,
    kept_components,
    merge,
    prune,
    sora_linear_forward,
    unmerge,
)
from sora_ref.bounds import unmerge_bound
from sora_ref.pruning import MergedLinear

FOLDS = tuple(product(("A", "B"), (False, True)))


def adapter_of(xp: Space, case: LinearCase) -> SoRA:
    return xp.adapter(case.A, case.g, case.B, case.s)


def evaluate(xp: Space, case: LinearCase, adapter: SoRA | None, W0: Any = None) -> Any:
    b = None if case.b is None else xp.asarray(case.b)
    W = xp.asarray(case.W0) if W0 is None else W0
    return xp.fractions(sora_linear_forward(xp.asarray(case.x), W, b, adapter)[0])


def as_sora(xp: Space, lora: LoRA) -> SoRA:
    """A plain LoRA as the SoRA whose gates are all 1; multiplying by 1 is exact."""
    return SoRA(lora.A, xp.asarray(np.ones(lora.A.shape[0])), lora.B, lora.s)


@pytest.mark.exact("SORA-PRUNE-1", "SORA-PRUNE-2", "SORA-PRUNE-3", "SORA-PRUNE-4", "SORA-LINEAR-2")
@given(linear_cases())
def test_pruned_absorbed_and_merged_equal_unpruned(xp: Space, case: LinearCase) -> None:
    expected = loop_forward(*case)
    adapter = adapter_of(xp, case)
    kept = kept_components(adapter.g)
    assert kept == case.open
    pruned = prune(adapter, kept)
    assert (pruned.rank, pruned.s) == (len(kept), adapter.s)
    assert all_equal(evaluate(xp, case, pruned), expected)
    for form in (adapter, pruned):
        for into, scale in FOLDS:
            lora = absorb_gate(form, into=into, scale=scale)  # type: ignore[arg-type]
            assert lora.s == (1 if scale else adapter.s)
            assert all_equal(evaluate(xp, case, as_sora(xp, lora)), expected), (into, scale)
        assert all_equal(evaluate(xp, case, None, merge(xp.asarray(case.W0), form).W), expected)


@pytest.mark.exact("SORA-PRUNE-3")
@given(linear_cases())
def test_absorbing_leaves_the_other_factor_alone(xp: Space, case: LinearCase) -> None:
    for scale, factor in ((False, Fraction(1)), (True, case.s)):
        into_a, into_b = (absorb_gate(adapter_of(xp, case), into=into, scale=scale) for into in ("A", "B"))
        assert all_equal(xp.fractions(into_a.B), case.B)
        assert all_equal(xp.fractions(into_b.A), case.A)
        assert all_equal(xp.fractions(into_a.A), factor * case.g[:, None] * case.A)
        assert all_equal(xp.fractions(into_b.B), factor * case.g * case.B)


@pytest.mark.exact("SORA-PRUNE-3")
def test_gate_is_absorbed_into_b_with_s_kept_unless_said_otherwise(xp: Space) -> None:
    lora = absorb_gate(xp.adapter([[1, 2]], [-3], [[4]], 2))
    assert (xp.fractions(lora.A).tolist(), xp.fractions(lora.B).tolist(), lora.s) == ([[1, 2]], [[-12]], 2)
    with pytest.raises(SoRAError, match=r"into is 'C': expected 'A' or 'B'"):
        absorb_gate(xp.adapter([[1]], [1], [[1]], 1), into="C")  # type: ignore[arg-type]


@pytest.mark.exact("SORA-PRUNE-4")
@given(linear_cases())
def test_delta_is_what_the_branch_adds_to_each_entry(xp: Space, case: LinearCase) -> None:
    out, in_ = case.W0.shape
    unit, none = exact(np.eye(in_)), np.zeros((out, in_))
    expected = loop_forward(unit, none, None, case.A, case.g, case.B, case.s).T
    assert all_equal(xp.fractions(delta(adapter_of(xp, case))), expected)


@pytest.mark.exact("SORA-PRUNE-2")
@given(linear_cases(), keys)
def test_prune_takes_the_components_it_is_given_in_their_order(xp: Space, case: LinearCase, key: int) -> None:
    order = [int(i) for i in np.random.default_rng(key).permutation(len(case.g))][: len(case.g) // 2 + 1]
    pruned = prune(adapter_of(xp, case), order)
    for found, expected in zip(pruned[:3], (case.A[order], case.g[order], case.B[:, order]), strict=True):
        assert all_equal(xp.fractions(found), expected)
        host = xp.to_numpy(found)
        assert host.flags.c_contiguous  # safetensors writes the buffer, not the view


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [([0, 0], r"components \[0, 0\] repeat"), ([2], r"expected indices below 2"), ([-1], r"expected indices below 2")],
)
def test_prune_refuses_components_that_are_none(xp: Space, kept: list[int], sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        prune(xp.adapter([[1], [1]], [1, 1], [[1, 1]], 1), kept)


@pytest.mark.exact("SORA-PRUNE-1")
def test_closed_means_exactly_zero_of_either_sign(floats: Space) -> None:
    assert kept_components(floats.asarray([0.0, -0.0, 5e-324, -1e-300, 1.0])) == (2, 3, 4)
    assert kept_components(floats.asarray([1e-45, 0.0], "float32")) == (0,)
    assert kept_components(floats.asarray(np.zeros(0))) == ()


@pytest.mark.exact("SORA-PRUNE-1")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_that_are_not_finite_are_refused(floats: Space, dtype: str, bad: float) -> None:
    with pytest.raises(SoRAError, match=r"gates \[1\] are not finite: expected finite gates"):
        kept_components(floats.asarray([0.0, bad, 1.0], dtype))


@pytest.mark.exact("SORA-PRUNE-1")
def test_half_precision_gates_that_are_not_finite_are_refused_too() -> None:
    with pytest.raises(SoRAError, match=r"gates \[0\] are not finite"):
        kept_components(np.array([np.nan, 1.0], np.float16))


# --- merging -------------------------------------------------------------------------------------------------------


def pair(xp: Space) -> tuple[Any, SoRA]:
    return xp.asarray([[1, 2], [3, 4], [5, 6]]), xp.adapter([[1, 1]], [2], [[1], [0], [3]], 1)


@pytest.mark.exact("SORA-PRUNE-4")
def test_second_merge_is_refused(xp: Space) -> None:
    W0, adapter = pair(xp)
    with pytest.raises(SoRAError, match=r"query is merged already: expected to be unmerged before"):
        merge(merge(W0, adapter), adapter, name="query")
    with pytest.raises(SoRAError, match=r"^module is merged already"):
        merge(merge(W0, adapter), adapter)


@pytest.mark.exact("SORA-PRUNE-4")
def test_merge_in_training_with_dropout_is_refused(xp: Space) -> None:
    W0, adapter = pair(xp)
    with pytest.raises(SoRAError, match=r"query has dropout 0\.1 in training: expected evaluation mode"):
        merge(W0, adapter, name="query", dropout=0.1, training=True)
    assert isinstance(merge(W0, adapter, dropout=0.1), MergedLinear)
    assert isinstance(merge(W0, adapter, training=True), MergedLinear)


@pytest.mark.exact("SORA-PRUNE-4")
def test_merge_of_a_tied_weight_is_refused(xp: Space) -> None:
    W0, adapter = pair(xp)
    own = xp.asarray(np.ones((3, 2)))
    with pytest.raises(SoRAError, match=r"lm_head shares its weight with embeddings: expected a weight of its own"):
        merge(W0, adapter, name="lm_head", others={"own": own, "embeddings": W0})
    both = r"^module shares its weight with embeddings, lm_head: expected a weight of its own$"
    with pytest.raises(SoRAError, match=both):
        merge(W0, adapter, others={"embeddings": W0, "own": own, "lm_head": W0})
    assert isinstance(merge(W0, adapter, name="lm_head", others={"lm_head": W0, "own": own}), MergedLinear)


@pytest.mark.exact("SORA-PRUNE-4")
@pytest.mark.parametrize("view", [lambda W: W[1:, :], lambda W: W.T, lambda W: W[:, ::-1]])
def test_merge_of_a_weight_that_is_part_of_another_is_refused(view: Any) -> None:
    W0, adapter = np.ones((3, 2)), SoRA(np.ones((1, 2)), np.ones(1), np.ones((3, 1)), 1.0)
    with pytest.raises(SoRAError, match=r"shares its weight with part"):
        merge(W0, adapter, others={"part": view(W0)})


@pytest.mark.parametrize(
    ("W0", "sentence"),
    [
        (np.ones(3), r"q: W0 has 1 dimensions: expected 2"),
        (np.ones((3, 4)), r"A has shape \(1, 2\): expected \(1, 4\)"),
        (np.ones((2, 2)), r"B has shape \(3, 1\): expected \(2, 1\)"),
        (
            np.ones((3, 2), np.float32),
            r"^mixed dtypes \(W0 float32, A float64, g float64, B float64\): expected one dtype for all$",
        ),
    ],
)
def test_merge_refuses_what_does_not_fit(W0: Any, sentence: str) -> None:
    adapter = SoRA(np.ones((1, 2)), np.ones(1), np.ones((3, 1)), 1.0)
    with pytest.raises(SoRAError, match=sentence):
        merge(W0, adapter, name="q")


@pytest.mark.exact("SORA-PRUNE-5")
@pytest.mark.bounded("SORA-PRUNE-5", "SORA-BOUND-3")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(keys)
def test_unmerge_is_bitwise_from_a_kept_base_and_within_its_bound_without(floats: Space, dtype: str, key: int) -> None:
    rng = np.random.default_rng(key)
    r, scale = int(rng.integers(0, 6)), 10.0 ** rng.integers(-4, 5)
    W0 = floats.asarray(rng.standard_normal((3, 4)), dtype)
    A, g, B = rng.standard_normal((r, 4)) * scale, rng.standard_normal(r), rng.standard_normal((3, r))
    adapter = floats.adapter(A, g, B, float(rng.standard_normal()), dtype)
    before = floats.to_numpy(W0)
    assert floats.to_numpy(unmerge(merge(W0, adapter))).tobytes() == before.tobytes()
    lone = merge(W0, adapter, keep_base=False)
    assert lone.W0 is None
    restored = floats.to_numpy(unmerge(lone))
    bound = floats.to_numpy(unmerge_bound(W0, adapter))
    assert (abs(exact(restored) - exact(before)) <= exact(bound)).all()
    assert str(restored.dtype) == dtype


@pytest.mark.exact("SORA-PRUNE-4")
def test_merge_leaves_the_base_untouched_and_weights_contiguous() -> None:
    W0, adapter = pair(Space("numpy", lambda v, dtype="float64": np.array(v, dtype), np.asarray))
    before = W0.copy()
    merged = merge(W0, adapter)
    assert (before == W0).all()
    assert not np.may_share_memory(merged.W, W0)
    assert merged.W.flags.c_contiguous
