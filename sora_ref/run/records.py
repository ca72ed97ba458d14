"""The lines of a run's two logs, metrics.jsonl and gates.jsonl, as they are read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sora_ref.errors import printable
from sora_ref.preconditions import require
from sora_ref.storage.documents import Whole
from sora_ref.storage.logs import json_lines, keep_lines, line_of


class TrainRecord(Struct, frozen=True, tag_field="kind", tag="train"):
    """A log of training: the mean loss since the last one, the rates and the clipped norm of its last step."""

    step: Whole
    stage: Whole
    loss: float
    lr: float
    gate_lr: float
    strength: float
    norm: float | None
    gates_at_zero: Whole
    gates: Whole


class ValidationRecord(Struct, frozen=True, tag_field="kind", tag="validation"):
    """The scores of a validation split stand beside these, each under its metric's name."""

    step: Whole
    stage: Whole
    split: str


class Measured(Struct, frozen=True):
    """A stage's `Performance`; None is a score that is undefined."""

    nonzero: Whole
    memorization: float | None
    generalization: float | None


class StageRecord(Struct, frozen=True, tag_field="kind", tag="stage"):
    """The end of a stage of the sparsifying scheduler."""

    step: Whole
    stage: Whole
    strength: float
    performance: Measured
    memorization_percent: float | None
    generalization_percent: float | None


class GateRecord(Struct, frozen=True):
    """Every gate's value, by module."""

    step: Whole
    gates: dict[str, list[float]]


Record = TrainRecord | ValidationRecord | StageRecord


def cut_logs(out: Path, last_step: int) -> None:
    """Drop what was logged after `last_step`; SoRAError, naming file and line, where a log is damaged.

    Each log is read once, a line at a time, and neither is cut where the first is damaged.
    """
    keep_lines(out / "gates.jsonl", last_step, GateRecord, _alike(out))
    stages = list[int]()

    def see(number: int, record: Any) -> None:
        if type(record) is StageRecord:
            stages.append(record.stage)

    path = out / "metrics.jsonl"
    keep_lines(path, last_step, Record, see)
    _require_stages(path, stages)


def stage_records(out: Path) -> list[dict[str, Any]]:
    """The stages that are finished, in order, as they were logged; SoRAError where one is missing or damaged."""
    path = out / "metrics.jsonl"
    read = json_lines(path, Record, "the metrics of a run")
    found = [record for _, _, record in read if type(record) is StageRecord]
    _require_stages(path, [record.stage for record in found])
    return [msgspec.to_builtins(record) for record in found]


def gate_history(out: Path, most: int = 500) -> list[dict[str, Any]]:
    """The gates over training, with the first and the last record and at most twice `most` evenly between.

    SoRAError where a line is damaged or has other gates than the first.
    """
    alike, found, every, last = _alike(out), list[GateRecord](), 1, None
    for number, _, record in json_lines(out / "gates.jsonl", GateRecord, "the gates of a run"):
        alike(number, record)
        last = record
        if (number - 1) % every == 0:
            found.append(record)
        if len(found) > 2 * most:
            found, every = found[::2], 2 * every
    if last is not None and found[-1] is not last:
        found.append(last)
    return [msgspec.structs.asdict(record) for record in found]


def _alike(out: Path) -> Callable[[int, GateRecord], None]:
    """Called with the lines of gates.jsonl: SoRAError for one that has other gates than the first."""
    first: dict[str, int] | None = None

    def see(number: int, record: GateRecord) -> None:
        nonlocal first
        sizes = {name: len(values) for name, values in record.gates.items()}
        first = sizes if first is None else first
        where = line_of(out / "gates.jsonl", number)
        require(sizes == first, f"{where}: other gates than in line 1: expected the same in each")

    return see


def _require_stages(path: Path, numbers: list[int]) -> None:
    sound = numbers == list(range(len(numbers)))
    require(sound, f"{printable(str(path))}: has the stages {numbers[:20]}: expected each of them once, in order")
