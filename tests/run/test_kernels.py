"""Which operations a run goes through, and what its evaluations leave out."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny_bert import make_case
from tiny_run import last, make_config, make_keys, run_once

from sora_ref.kernels.numpy import folded as folding
from sora_ref.kernels.numpy.table import KERNELS as SET
from sora_ref.models import MODEL_SPEC, classifier_forward, classifier_logits
from sora_ref.models.bert import BERT
from sora_ref.run.data import Labels
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import Setup, make_setup
from sora_ref.run.workers import keep_freed_memory, worker_pool

KERNELS: dict[str, Any] = dict(SET.training)
FORWARD_KERNELS: dict[str, Any] = dict(SET.evaluation)
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
        monkeypatch.setattr(folding, "_folded_weight", refuse)
    else:
        monkeypatch.setitem(cast("dict[str, Any]", SET.training), name, refuse)
    keys = make_keys(tmp_path)
    run_once(tmp_path / "run", keys, kernels="reference", train__epochs=1)
    with pytest.raises(AssertionError, match="the backend's kernel"):
        run_once(tmp_path / "other", keys, train__epochs=1, adapter__dropout=0.0)


@pytest.mark.exact
@pytest.mark.parametrize("head", ["cls", "mean"])
def test_an_evaluation_computes_what_the_forward_does(head: Any) -> None:
    case = make_case(3, head=head, lengths=(5, 2))
    hidden, _ = BERT.forward(case.model.config, case.params, case.batch, scales=case.scales)
    assert np.array_equal(BERT.states(case.model.config, case.params, case.batch, scales=case.scales), hidden)
    logits, _ = classifier_forward(case.model, case.params, case.batch, scales=case.scales)
    assert np.array_equal(classifier_logits(case.model, case.params, case.batch, scales=case.scales), logits)


@pytest.mark.measured
def test_folding_moves_a_trained_gradient_by_roundings_alone(tmp_path: Path) -> None:
    """The same small run with and without the kernels, in float64: 13 u apart, measured; the reserve is tenfold."""
    options: dict[str, Any] = {"dtype": "float64", "train__epochs": 1, "adapter__dropout": 0.0}
    keys = make_keys(tmp_path)
    run_once(tmp_path / "fast", keys, **options)
    run_once(tmp_path / "slow", keys, kernels="reference", **options)
    fast, slow = (last(tmp_path / run).params for run in ("fast", "slow"))
    assert fast.keys() == slow.keys()
    largest = max(float(np.max(np.abs(fast[name] - slow[name]))) for name in fast)
    assert 0 < largest <= 128 * 2.0**-53


def test_a_pool_maps_in_order_over_as_many_threads_as_it_is_told() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(item: int) -> int:
        meeting.wait()
        return item

    with worker_pool(3) as parallel_map:
        assert list(parallel_map(meet, range(3))) == [0, 1, 2]


FAULTS = """
import resource, numpy as np
from sora_ref.run.workers import keep_freed_memory
kept = {keep} and keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers = [np.ones(2**19) for _ in range(30)]  # 4 MiB each, as of a forward
    del layers
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept_so_that_the_kernel_need_not_clear_it_again() -> None:
    faults = {}
    for keep in (True, False):
        code = FAULTS.format(keep=keep)
        kept, count = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert kept == str(keep)
        faults[keep] = int(count)
    assert faults[True] < 100 < faults[False]  # of 30,000 pages, where none is huge


def test_where_there_is_no_such_setting_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is False
    monkeypatch.undo()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
