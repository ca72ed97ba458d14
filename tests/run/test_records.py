"""A run's logs are believed only as far as their types go, and are looked at before the work, not after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora_ref.errors import SoRAError
from sora_ref.run.records import cut_logs, gate_history, stage_records
from sora_ref.run.summary import read_summary

TRAIN = {
    "step": 2, "kind": "train", "stage": 0, "loss": 0.5, "lr": 0.1, "gate_lr": 0.1, "strength": 0.0, "norm": None,
    "gates_at_zero": 0, "gates": 3,
}  # fmt: skip
STAGE = {
    "step": 4, "kind": "stage", "stage": 0, "strength": 0.0,
    "performance": {"nonzero": 3, "memorization": 1, "generalization": None},
    "memorization_percent": 100.0, "generalization_percent": None,
}  # fmt: skip
VALIDATION = {"step": 4, "kind": "validation", "stage": 0, "split": "validation", "accuracy": 0.5}
GATES = {"step": 2, "gates": {"a": [0.5, -0.0], "b": [1]}}
SUMMARY: dict[str, Any] = {
    "task": "t", "steps": 3, "seconds": 1, "scores": {"test": {"accuracy": None}}, "stages": [], "null": None,
    "counts": dict.fromkeys(
        ("kept", "components", "retained", "total", "with_gates", "with_head", "released"), 1
    ),
}  # fmt: skip


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


@pytest.mark.parametrize(
    "line",
    [
        "", "[]", "3", "{", "[" * 5000, '"\\ud800"', {}, TRAIN | {"step": "2"}, TRAIN | {"step": None},
        TRAIN | {"step": -1}, TRAIN | {"step": 10**900}, STAGE | {"stage": 10**900},
        TRAIN | {"kind": "\x1b[2J"}, TRAIN | {"kind": 3}, TRAIN | {"loss": None}, {"step": 2, "kind": "train"},
        STAGE | {"performance": None}, STAGE | {"performance": {"nonzero": 3}}, STAGE | {"stage": 1.5},
        STAGE | {"strength": "0"}, VALIDATION | {"split": None},
    ],
)  # fmt: skip
def test_a_damaged_line_of_metrics_is_refused_by_its_number(tmp_path: Path, line: Any) -> None:
    path = write(tmp_path / "metrics.jsonl", TRAIN, VALIDATION, line, STAGE)
    for act in (lambda: stage_records(tmp_path), lambda: cut_logs(tmp_path, 99)):
        with pytest.raises(SoRAError, match=r"metrics\.jsonl, line 3: .*: expected ") as refused:
            act()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 600
    assert path.read_text().count("\n") == 4, "and stays as it is"


@pytest.mark.parametrize(
    "line",
    [
        "", "[]", {}, {"step": 2}, {"step": "2", "gates": {}}, {"step": 2, "gates": []}, {"step": 2, "gates": {"a": 1}},
        {"step": 2, "gates": {"a": [None, 1], "b": [1]}}, {"step": 2, "gates": {"a": ["x", 1], "b": [1]}},
        {"step": 2, "gates": {"a": [1, 2]}}, {"step": 2, "gates": {"a": [1, 2], "b": [1, 2]}},
        {"step": 2, "gates": {"a": [1, 2], "c": [1]}},
    ],
)  # fmt: skip
def test_a_damaged_line_of_gates_is_refused_before_any_training(tmp_path: Path, line: Any) -> None:
    write(tmp_path / "gates.jsonl", GATES, line)
    for act in (lambda: gate_history(tmp_path), lambda: cut_logs(tmp_path, 99)):
        with pytest.raises(SoRAError, match=r"gates\.jsonl, line 2: .*: expected "):
            act()


@pytest.mark.parametrize("stages", [[1], [0, 0], [0, 2], [1, 0]])
def test_stages_that_are_missing_doubled_or_out_of_order_are_refused(tmp_path: Path, stages: list[int]) -> None:
    write(tmp_path / "metrics.jsonl", *(STAGE | {"stage": stage} for stage in stages))
    with pytest.raises(SoRAError, match=r"metrics\.jsonl: has the stages \[.*\]: expected each of them once, in order"):
        stage_records(tmp_path)


def test_what_was_logged_comes_back_and_lines_that_stay_keep_their_bytes(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.jsonl", TRAIN, VALIDATION, STAGE, STAGE | {"step": 9, "stage": 1})
    gates = write(tmp_path / "gates.jsonl", GATES, GATES | {"step": 9})
    assert stage_records(tmp_path) == [STAGE, STAGE | {"step": 9, "stage": 1}]
    assert gate_history(tmp_path) == [GATES, GATES | {"step": 9}]
    first = [path.read_bytes().splitlines(keepends=True) for path in (metrics, gates)]
    cut_logs(tmp_path, 4)
    assert metrics.read_bytes() == b"".join(first[0][:3])
    assert gates.read_bytes() == first[1][0]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 16, 17, 100, 1001])
def test_long_history_of_gates_is_thinned_evenly_with_its_ends(tmp_path: Path, length: int) -> None:
    write(tmp_path / "gates.jsonl", *(GATES | {"step": 10 * k} for k in range(length)))
    steps = [record["step"] for record in gate_history(tmp_path, most=4)]
    assert steps[0] == 0
    assert steps[-1] == 10 * (length - 1)
    assert len(steps) <= 9
    assert len(set(np.diff(steps[:-1]))) <= 1
    assert length > 8 or len(steps) == length


def test_neither_log_is_cut_where_the_gates_are_damaged(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.jsonl", TRAIN, TRAIN | {"step": 9})
    write(tmp_path / "gates.jsonl", GATES, "{")
    before = metrics.read_bytes()
    with pytest.raises(SoRAError, match=r"gates\.jsonl, line 2"):
        cut_logs(tmp_path, 4)
    assert metrics.read_bytes() == before


def test_a_log_of_which_nothing_is_dropped_is_not_written_again(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", TRAIN, STAGE)
    before = path.stat()
    cut_logs(tmp_path, 99)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_log_is_no_record(tmp_path: Path) -> None:
    cut_logs(tmp_path, 3)
    assert (stage_records(tmp_path), gate_history(tmp_path), list(tmp_path.iterdir())) == ([], [], [])


@pytest.mark.parametrize(
    "change",
    [
        {"task": None}, {"steps": "3"}, {"seconds": []}, {"scores": {"test": 1}}, {"scores": {"test": {"f1": "x"}}},
        {"counts": {}}, {"counts": None}, {"null": {}}, {"null": 1}, {"stages": {}}, {"stages": [{}]}, {"stages": [1]},
        {"device_memory": "much"}, {"survivors": 3},
    ],
)  # fmt: skip
def test_a_summary_that_could_not_be_printed_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(SUMMARY | change))
    with pytest.raises(SoRAError) as refused:
        read_summary(tmp_path)
    assert str(refused.value).startswith(f"{path}: {next(iter(change))}")
    assert str(refused.value).endswith(": expected the summary of a run")


def test_a_summary_may_hold_more_than_is_printed(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY | {"more": [1]}))
    assert read_summary(tmp_path) == SUMMARY | {"more": [1]}
