"""SORA-INIT and SORA-NULL: initial values, randomness by key, and the null model."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref import SoRAError, generator, initial_adapter, soft_threshold, survival_probability
from sora_ref.init import initial_dense

KINDS = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
MODULES = [f"encoder.layer.{i}.{kind}" for i in range(48) for kind in (*KINDS, "intermediate.dense", "output.dense")]


def draws(seed: int, purpose: str, *path: str | int) -> list[float]:
    return [float(v) for v in generator(seed, purpose, *path).standard_normal(4)]


@pytest.mark.exact("SORA-INIT-1")
def test_equal_keys_give_equal_draws_and_unequal_ones_unequal_draws() -> None:
    made: list[tuple[Any, ...]] = [
        (0, "a"), (1, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 0),
        (0, "a", 1, 0), (0, "a", 0, 1), (2**40, "a"), (0, "a", "0"),
    ]  # fmt: skip
    assert all(draws(*key) == draws(*key) for key in made)
    assert all(draws(*p) != draws(*q) for p, q in combinations(made, 2))


@pytest.mark.exact("SORA-INIT-1")
def test_draws_do_not_depend_on_what_was_drawn_before_nor_on_the_global_seed() -> None:
    lone = draws(7, "dropout", 3, "site")
    generator(7, "dropout", 2, "site").random(1000)
    np.random.seed(5)
    assert draws(7, "dropout", 3, "site") == lone


@pytest.mark.exact("SORA-INIT-1")
def test_words_whose_checksums_collide_are_still_different_purposes() -> None:
    """ "plumless" and "buckeroo" share their CRC-32; the draws of two modules may not."""
    assert draws(0, "adapter", "plumless") != draws(0, "adapter", "buckeroo")
    assert draws(0, "adapter", "") != draws(0, "adapter", 0)


@pytest.mark.exact("SORA-INIT-1")
def test_modules_of_a_large_bert_all_start_differently() -> None:
    firsts = {float(initial_adapter(0, module, 1, 1, 1, 1.0, dtype="float64").A.item()) for module in MODULES}
    assert len(firsts) == len(MODULES)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(SoRAError, match=r"seed is -1: expected 0 or more"):
        generator(-1, "a")


@pytest.mark.exact("SORA-INIT-2", "SORA-LINEAR-2")
@given(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["float32", "float64"]))
def test_adapter_has_kaiming_bounds_zero_b_and_scale_alpha_over_r(out: int, in_: int, r: int, dtype: str) -> None:
    adapter = initial_adapter(0, "m", out, in_, r, 16.0, dtype=dtype)
    assert (adapter.A.shape, adapter.g.shape, adapter.B.shape) == ((r, in_), (r,), (out, r))
    assert {str(t.dtype) for t in adapter[:3]} == {dtype}
    assert not adapter.B.any()
    assert adapter.s == 16.0 / max(r, 1)
    # a = √5 gives √(6/((1 + 5)·in)) = 1/√in; rounding to the dtype may reach the bound's own rounding
    assert (np.abs(adapter.A) <= np.dtype(dtype).type(1 / math.sqrt(max(in_, 1)))).all()


@pytest.mark.exact("SORA-INIT-1", "SORA-INIT-2")
def test_initial_values_are_the_draws_of_their_documented_keys() -> None:
    """Whoever knows the keys can make the same numbers; a seed gives the same run in every version."""
    adapter = initial_adapter(3, "query", 2, 4, 5, 1.0, dtype="float64")
    assert np.array_equal(adapter.A, generator(3, "adapter", "query", "A").uniform(-0.5, 0.5, (5, 4)))
    assert np.array_equal(adapter.g, generator(3, "adapter", "query", "g").standard_normal(5))
    weight, bias = initial_dense(3, "classifier", 2, 4, dtype="float64")
    assert np.array_equal(weight, 0.02 * generator(3, "head", "classifier").standard_normal((2, 4)))
    assert not bias.any()
    assert generator(0, "adapter", "query", "A").random(2).tolist() == [0.35829741474894994, 0.743522974525832]


@pytest.mark.measured("SORA-INIT-2")
def test_a_fills_its_range_evenly_and_gates_are_standard_normal() -> None:
    """Hoeffding: with n draws a share is off by more than √(log(2/δ)/2n) with probability at most δ, here 1e-9."""
    adapter = initial_adapter(0, "m", 2, 100, 2000, 1.0)
    scaled = np.sort(adapter.A.ravel() * 10)
    off = math.sqrt(math.log(2e9) / (2 * scaled.size))
    assert np.abs(np.searchsorted(scaled, np.linspace(-1, 1, 21)) / scaled.size - np.linspace(0, 1, 21)).max() <= off
    g = initial_adapter(0, "m", 1, 1, 200_000, 1.0).g
    off = math.sqrt(math.log(2e9) / (2 * g.size))
    for point in (-2.0, -1.0, 0.0, 0.5, 1.5):
        assert abs(np.mean(g <= point) - math.erfc(-point / math.sqrt(2)) / 2) <= off


@pytest.mark.exact("SORA-INIT-1", "SORA-INIT-2")
def test_a_does_not_change_with_the_gate_or_the_other_modules() -> None:
    a, b = (initial_adapter(3, "m", 2, 3, 4, 1.0, gate=gate) for gate in (None, 1.0))
    assert (a.A == b.A).all()
    assert b.g.tolist() == [1.0] * 4
    assert (initial_adapter(3, "n", 2, 3, 4, 1.0).A != a.A).all()
    assert not set(a.A.ravel().tolist()) & set(a.g.tolist())


@pytest.mark.exact("SORA-INIT-1")
def test_a_and_g_are_drawn_from_children_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def recording(seed: int, purpose: str, *path: str | int) -> np.random.Generator:
        seen.append((seed, purpose, *path))
        return generator(seed, purpose, *path)

    monkeypatch.setattr("sora_ref.init.generator", recording)
    initial_adapter(3, "m", 2, 3, 4, 1.0)
    initial_dense(3, "m", 2, 3)
    assert len(seen) == len(set(seen)) == 3


@pytest.mark.exact("SORA-INIT-2")
def test_float32_values_are_the_float64_ones_rounded_once() -> None:
    wide, narrow = (initial_adapter(3, "m", 2, 3, 4, 1.0, dtype=dtype) for dtype in ("float64", "float32"))
    assert (wide.A.astype("float32") == narrow.A).all()
    assert (wide.g.astype("float32") == narrow.g).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"out": -1}, r"m: sizes out=-1, in=3, r=4: expected 0 or more"),
        ({"in_": -1}, r"m: sizes out=2, in=-1, r=4: expected 0 or more"),
        ({"r": -1}, r"m: sizes out=2, in=3, r=-1: expected 0 or more"),
        ({"alpha": float("inf")}, r"alpha is inf: expected a finite number"),
        ({"gate": float("nan")}, r"initial gate is nan: expected a finite number"),
    ],
)
def test_adapter_that_cannot_be_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    settings: dict[str, Any] = {"out": 2, "in_": 3, "r": 4, "alpha": 1.0, **arguments}
    with pytest.raises(SoRAError, match=sentence):
        initial_adapter(0, "m", **settings)


@pytest.mark.measured
def test_new_head_has_small_weights_and_no_bias() -> None:
    weight, bias = initial_dense(0, "classifier", 50, 60)
    assert (weight.shape, bias.shape, str(weight.dtype), str(bias.dtype)) == ((50, 60), (50,), "float32", "float32")
    assert not bias.any()
    # χ² with n degrees of freedom lies within n·(1 ± 2√(2x/n) ± 2x/n), x = log 1e9 (Laurent & Massart 2000)
    n, x = 3000, math.log(1e9)
    room = 2 * math.sqrt(x / n) + 2 * x / n
    assert abs(float(np.mean((weight.astype("float64") / 0.02) ** 2)) - 1) <= room


@pytest.mark.measured("SORA-NULL-1")
@pytest.mark.parametrize("xi", [0.0, 0.01, 0.02])
def test_null_model_is_the_share_of_gates_that_outlive_the_thresholds(xi: float) -> None:
    """200,000 gates, 50 steps, no gradient: by Hoeffding the share is off by more than `off` once in 1e9."""
    count, steps = 200_000, 50
    g = generator(0, "null").standard_normal(count)
    for _ in range(steps):
        g = soft_threshold(g, xi)
    off = math.sqrt(math.log(2e9) / (2 * count))
    assert abs(np.count_nonzero(g) / count - survival_probability(xi * steps)) <= off


@pytest.mark.exact("SORA-NULL-1")
def test_survival_is_certain_without_thresholds_and_refused_for_negative_ones() -> None:
    assert survival_probability(0.0) == 1
    with pytest.raises(SoRAError, match=r"sum of thresholds is -1\.0: expected at least 0"):
        survival_probability(-1.0)
