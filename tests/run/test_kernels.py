"""Which operations a run goes through, and what its evaluations leave out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import make_case
from tiny_run import last, make_config, make_keys, run_once

from sora_ref.backends.numpy_kernels import FORWARD_KERNELS, KERNELS, linear
from sora_ref.models import MODEL_SPEC, bert_forward, bert_states, classifier_forward, classifier_logits
from sora_ref.run.setup import Labels, Setup, initial_params, make_setup
from sora_ref.run.workers import keep_freed_memory, worker_pool

LABELS = Labels("classification", ("bad", "good"), ("accuracy",))
OPERATIONS = sorted(KERNELS)


def setup_of(keys: Mapping[str, Any], **changes: Any) -> Setup:
    return make_setup(make_config(keys, **changes), LABELS)


def test_a_run_uses_the_backends_kernels_unless_it_asks_for_the_reference(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    setup = setup_of(keys)
    assert {name: getattr(setup.ops, name) for name in KERNELS} == KERNELS
    assert {name: getattr(setup.forward_ops, name) for name in FORWARD_KERNELS} == FORWARD_KERNELS
    folded = setup.folded(setup.ops, initial_params(setup))
    assert folded.sora_linear_forward is not MODEL_SPEC.sora_linear_forward
    plain = setup_of(keys, kernels="reference")
    assert plain.ops == plain.forward_ops == plain.folded(plain.ops, initial_params(plain)) == MODEL_SPEC


@pytest.mark.parametrize("name", [*OPERATIONS, "fold"])
def test_a_run_on_reference_kernels_never_calls_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("the backend's kernel")

    if name == "fold":
        monkeypatch.setattr(linear, "_folded_weight", refuse)
    else:
        monkeypatch.setitem(KERNELS, name, refuse)
    keys = make_keys(tmp_path)
    run_once(tmp_path / "run", keys, kernels="reference", train__epochs=1)
    with pytest.raises(AssertionError, match="the backend's kernel"):
        run_once(tmp_path / "other", keys, train__epochs=1, adapter__dropout=0.0)


@pytest.mark.exact
@pytest.mark.parametrize("head", ["cls", "mean"])
def test_an_evaluation_computes_what_the_forward_does(head: Any) -> None:
    case = make_case(3, head=head, lengths=(5, 2))
    hidden, _ = bert_forward(case.model.bert, case.params, case.batch, scales=case.scales)
    assert np.array_equal(bert_states(case.model.bert, case.params, case.batch, scales=case.scales), hidden)
    logits, _ = classifier_forward(case.model, case.params, case.batch, scales=case.scales)
    assert np.array_equal(classifier_logits(case.model, case.params, case.batch, scales=case.scales), logits)


@pytest.mark.measured
def test_folding_moves_a_trained_gradient_by_roundings_alone(tmp_path: Path) -> None:
    """The same small run with and without the kernels: float64, so that what is left is rounding."""
    options: dict[str, Any] = {"dtype": "float64", "train__epochs": 1, "adapter__dropout": 0.0}
    keys = make_keys(tmp_path)
    run_once(tmp_path / "fast", keys, **options)
    run_once(tmp_path / "slow", keys, kernels="reference", **options)
    fast, slow = (last(tmp_path / run).params for run in ("fast", "slow"))
    assert fast.keys() == slow.keys()
    largest = max(float(np.max(np.abs(fast[name] - slow[name]))) for name in fast)
    assert 0 < largest <= 1e-9


def test_a_pool_maps_in_order_over_as_many_threads_as_it_is_told() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(item: int) -> int:
        meeting.wait()
        return item

    with worker_pool(3) as each:
        assert list(each(meet, range(3))) == [0, 1, 2]


def test_freed_memory_is_kept_where_the_library_can() -> None:
    assert keep_freed_memory() in (True, False)
