"""`make gpu` where there is no GPU: one sentence and a status; and what it carries to a machine without a network."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sora_ref.backends import DeviceError, get
from sora_ref.models.bert import BERT

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", ROOT / "tests" / "gpu" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run: Any = load("run")
bench: Any = load("bench")


def usable() -> bool:
    try:
        get("cupy")
    except (ImportError, DeviceError):
        return False
    return True


@pytest.mark.exact
@pytest.mark.skipif(usable(), reason="there is a GPU here")
def test_without_a_gpu_there_is_one_sentence_and_no_result(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "gpu" / "run.py")],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"make gpu: [^\n]+\n", done.stderr)
    assert re.search(r"has no cupy|no GPU, so nothing was run: backend 'cupy'", done.stderr)


@pytest.mark.exact
def test_why_the_backend_cannot_be_used_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 1, "", "backend 'cupy': there is a driver and no GPU\n")

    monkeypatch.setattr(run.subprocess, "run", says)
    with pytest.raises(
        run.FailedError, match="no GPU, so nothing was run: backend 'cupy': there is a driver and no GPU"
    ):
        run.require_gpu({})


@pytest.mark.exact
def test_packages_that_are_missing_come_from_the_folder_or_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(run, "WHEELS", tmp_path)
    monkeypatch.setattr(run, "SITE", tmp_path / "site")
    monkeypatch.setattr(run, "OWN", {})
    monkeypatch.setattr(run, "CARRIED", {"no_such_module_at_all": "no-such-package-at-all"})
    assert run.main([]) == 1
    assert "no-such-package-at-all cannot be installed from" in capsys.readouterr().err
    monkeypatch.setattr(run, "OWN", {"no_such_module_at_all": "no_such_module_at_all"})
    assert run.main([]) == 1
    assert "has no no_such_module_at_all: expected one with CuPy" in capsys.readouterr().err


@pytest.mark.exact
def test_carried_packages_are_all_that_the_tests_need_beyond_the_machines_own() -> None:
    def imported(path: Path) -> set[str]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        return {name.partition(".")[0] for name in found}

    files = [ROOT / file for file in run.FILES]
    files = [path for file in files for path in (file.glob("test_*.py") if file.is_dir() else [file])]
    support = {path.stem for path in (ROOT / "tests" / "support").glob("*.py")}
    known = {*sys.stdlib_module_names, *run.OWN, *run.CARRIED, *support, "sora_ref"}
    for path in [*files, ROOT / "tests/conftest.py", *(ROOT / "tests/gpu").glob("*.py")]:
        assert imported(path) - known <= {"mpmath", "array_api_strict"}, path  # skipped, by name, where they are absent


@pytest.mark.exact
def test_rows_say_whether_the_target_was_met() -> None:
    assert bench.row("a", 1.0, 1.0) == {"name": "a", "value": 1.0, "target": 1.0, "met": True}
    assert bench.row("a", 1.01, 1.0)["met"] is False
    assert json.dumps(bench.row("a", 3.5)) == '{"name": "a", "value": 3.5, "target": null, "met": null}'


@pytest.mark.exact
def test_launching_is_the_time_of_one_step_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = [0.0], []

    def takes(name: str, seconds: float) -> None:
        done.append(name)
        clock[0] += seconds

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    assert bench.launching(lambda: takes("step", 2.0), lambda: takes("wait", 16.0)) == 2.0
    assert done == ["wait", "step", "wait"]


@pytest.mark.measured
def test_our_step_of_the_benchmark_runs_and_learns() -> None:
    """The benchmark's own half on NumPy, small; PyTorch's half is compared with it by `make oracles`."""
    config = bench.EncoderConfig(50, 8, 2, 2, 12, 16, 2)
    model, backend = bench.Classifier(BERT, config, "mean", 2), get("numpy")
    params, trained = bench.make_params(model)
    given = bench.make_batch(model, 4, 6)
    step, gradients = bench.our_step(model, backend, bench.MODEL_SPEC, params, trained, given)
    before = gradients()
    step()
    assert before.keys() == set(trained)
    assert any(np.any(before[name] != after) for name, after in gradients().items())
    assert bench.distance(before, before) == 0
