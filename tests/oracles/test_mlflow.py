"""A run in MLflow, read back with its own client from its own database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tiny_run import EPOCH, make_keys, run_once

from sora_ref.run.interrupt import Interrupted
from sora_ref.run.loggers import values_of


def history(run: Path) -> tuple[dict[str, list[tuple[int, float]]], Any]:
    known = json.loads((run / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=known["tracking_uri"])
    found = client.get_run(known["run_id"])
    points = {name: client.get_metric_history(known["run_id"], name) for name in found.data.metrics}
    return {name: [(point.step, point.value) for point in values] for name, values in points.items()}, found


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in values_of(record).items():
            found.setdefault(name, []).append((record["step"], value))
    return found


@pytest.mark.filterwarnings("ignore")  # of the libraries that MLflow imports
def test_mlflow_has_every_step_once_with_the_parameters_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    keys = make_keys(tmp_path / "own") | {"train.loggers": ["mlflow"], "train.log_every": 1}
    run = tmp_path / "run"

    from sora_ref.run.active import Run

    save = Run.save

    def stop_at_nine(self: Run, state: Any, position: Any) -> None:
        if position.step == 9:
            raise Interrupted("stopped between two checkpoints")
        save(self, state, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", stop_at_nine)
        with pytest.raises(Interrupted):
            run_once(run, keys)
    points, stopped = history(run)
    assert stopped.info.status == "KILLED"
    assert {step for step, _ in points["train/loss"]} == set(range(1, 10))  # beyond the checkpoint of step 6

    run_once(run, keys, resume=True)
    points, done = history(run)
    assert done.info.run_id == stopped.info.run_id
    assert done.info.status == "FINISHED"
    assert points == logged(run)
    assert [step for step, _ in points["validation/accuracy"]] == [EPOCH, 2 * EPOCH]
    assert done.data.params["train.batch"] == "8"
    assert done.data.params["gate.rule"] == "adamw-xi"
    assert (run / "mlflow.db").is_file()
