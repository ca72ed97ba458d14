"""Which operations a run goes through, and what its evaluations leave out."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numba_here import MISSING
from tiny_bert import make_case
from tiny_run import interrupted, last, make_config, make_keys, outcome, run_once

from sora_ref.errors import SoRAError
from sora_ref.kernels import REFERENCE, Kernels
from sora_ref.kernels.numpy import folded as folding
from sora_ref.kernels.numpy.table import KERNELS as SET
from sora_ref.models import MODEL_SPEC, classifier_forward, classifier_logits
from sora_ref.models.bert import BERT
from sora_ref.run.data import Labels
from sora_ref.run.initial import initial_params
from sora_ref.run.inspect import inspect_path
from sora_ref.run.setup import Setup, make_setup
from sora_ref.run.ship import write_merged, write_peft, write_pruned
from sora_ref.run.trained import load_trained
from sora_ref.run.versions import changed, versions
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
    folded = setup.folded(initial_params(setup), training=True)
    assert folded.sora_linear_forward is not MODEL_SPEC.sora_linear_forward
    plain = setup_of(keys, kernels="reference")
    assert plain.ops == plain.forward_ops == plain.folded(initial_params(plain), training=True) == MODEL_SPEC


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


def test_a_set_whose_library_is_missing_is_one_sentence_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sora_ref.kernels._fault", lambda name: "No such module" if name == "numba" else None)
    keys = make_keys(tmp_path)
    assert setup_of(keys, kernels="backend").kernels is SET
    with pytest.raises(
        SoRAError,
        match=r"^kernels 'numba', which need numba, cannot be loaded \(No such module\): expected an installation "
        r"with it \(pip install 'sora_ref\[fast\]'\), or other kernels \(--kernels numpy\)$",
    ):
        _ = setup_of(keys, kernels="numba").ops
    with pytest.raises(SoRAError, match=r"^backend 'numpy' has no kernels 'cuda': expected one of numba, numpy, ref"):
        _ = setup_of(keys, kernels="cuda").ops


def test_a_trained_model_is_written_in_other_forms_without_any_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(tmp_path / "run", make_keys(tmp_path), train__max_steps=1)
    monkeypatch.setattr("sora_ref.kernels.get", lambda *_: pytest.fail("kernels are loaded"))
    loaded = load_trained(tmp_path / "run")
    write_pruned(loaded, tmp_path / "pruned")
    write_merged(loaded, tmp_path / "merged")
    write_peft(loaded, tmp_path / "peft", "compact")
    inspect_path(tmp_path / "run")


def test_kernels_that_another_backend_has_not_got_give_way_to_its_own(tmp_path: Path) -> None:
    run_once(tmp_path / "run", make_keys(tmp_path), train__max_steps=1)
    for overrides, name in (
        ({}, "numpy"),
        ({"backend": "strict"}, "reference"),
        ({"kernels": "reference"}, "reference"),
    ):
        assert load_trained(tmp_path / "run", overrides=overrides).setup.kernels.name == name
    asked_for = load_trained(tmp_path / "run", overrides={"kernels": "cuda"})
    with pytest.raises(SoRAError, match=r"^backend 'numpy' has no kernels 'cuda'"):
        _ = asked_for.setup.kernels


def test_versions_name_the_kernels_and_their_library_and_a_change_of_them_is_one_line(tmp_path: Path) -> None:
    run_once(tmp_path / "run", make_keys(tmp_path), train__max_steps=1)
    path = tmp_path / "run" / "versions.json"
    stored = json.loads(path.read_text())
    assert stored["kernels"] == "numpy"
    compiled = Kernels(name="numba", libraries=("click",), processor=lambda: "znver3")  # any library will do
    assert changed(path, SET) == []
    assert changed(path, compiled) == ["kernels was numpy and is numba"]
    assert versions(compiled)["click"] == version("click")
    path.write_text(json.dumps(versions(compiled) | {"click": "0.1"}))
    assert changed(path, compiled) == [f"click was 0.1 and is {version('click')}"]
    assert changed(path, SET) == ["kernels was numba and is numpy"]
    path.write_text(json.dumps(versions(compiled)))
    assert changed(path, compiled) == []
    elsewhere = replace(compiled, processor=lambda: "skylake-avx512")
    assert changed(path, elsewhere) == ["processor of the kernels was znver3 and is skylake-avx512"]
    del stored["kernels"]  # as of a run from before there were compiled ones
    path.write_text(json.dumps(stored))
    assert changed(path, SET) == changed(path, REFERENCE) == []
    assert changed(path, compiled) == ["kernels was numpy and is numba"]


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


@pytest.mark.exact
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_run_on_compiled_kernels_has_the_same_bits_with_any_workers_and_after_a_resume(tmp_path: Path) -> None:
    keys = make_keys(tmp_path) | {"kernels": "numba"}
    run_once(tmp_path / "whole", keys, workers=1)
    interrupted(tmp_path / "resumed", keys, workers=1)
    run_once(tmp_path / "resumed", keys, resume=True, workers=3)
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "versions.json").read_text())["kernels"] == "numba"
