"""The lines of a run's two logs, metrics.jsonl and gates.jsonl, as they are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sora_ref.checks import require
from sora_ref.errors import printable
from sora_ref.storage.documents import read_json_lines
from sora_ref.storage.files import keep_lines

_Whole = Annotated[int, Meta(ge=0)]


class TrainRecord(Struct, frozen=True, tag_field="kind", tag="train"):
    """A log of training: the mean loss since the last one, the rates and the clipped norm of its last step."""

    step: _Whole
    stage: _Whole
    loss: float
    lr: float
    gate_lr: float
    strength: float
    norm: float | None
    gates_at_zero: _Whole
    gates: _Whole


class ValidationRecord(Struct, frozen=True, tag_field="kind", tag="validation"):
    """The scores of a validation split stand beside these, each under its metric's name."""

    step: _Whole
    stage: _Whole
    split: str


class Measured(Struct, frozen=True):
    """A stage's `Performance`; None is a score that is undefined."""

    nonzero: _Whole
    memorization: float | None
    generalization: float | None


class StageRecord(Struct, frozen=True, tag_field="kind", tag="stage"):
    """The end of a stage of the sparsifying scheduler."""

    step: _Whole
    stage: _Whole
    strength: float
    performance: Measured
    memorization_percent: float | None
    generalization_percent: float | None


class GateRecord(Struct, frozen=True):
    """Every gate's value, by module."""

    step: _Whole
    gates: dict[str, list[float]]


Record = TrainRecord | ValidationRecord | StageRecord


def cut_logs(out: Path, last_step: int) -> None:
    """Drop what was logged after `last_step`; SoRAError, naming file and line, where what stays is damaged."""
    keep_lines(out / "metrics.jsonl", last_step, Record)
    keep_lines(out / "gates.jsonl", last_step, GateRecord)
    stage_records(out)
    gate_history(out)


def stage_records(out: Path) -> list[dict[str, Any]]:
    """The stages that are finished, in order, as they were logged; SoRAError where one is missing or damaged."""
    path = out / "metrics.jsonl"
    read = read_json_lines(path, Record, "the metrics of a run")
    found = [record for record in read if isinstance(record, StageRecord)]
    numbers = [record.stage for record in found]
    sound = numbers == list(range(len(numbers)))
    require(sound, f"{printable(str(path))}: has the stages {numbers[:20]}: expected each of them once, in order")
    return [msgspec.to_builtins(record) for record in found]


def gate_history(out: Path) -> list[dict[str, Any]]:
    """The gates over training; SoRAError where a line is damaged or has other gates than the first."""
    path = out / "gates.jsonl"
    found = read_json_lines(path, GateRecord, "the gates of a run")
    for number, record in enumerate(found, start=1):
        same = {name: len(values) for name, values in record.gates.items()} == {
            name: len(values) for name, values in found[0].gates.items()
        }
        require(same, f"{printable(str(path))}, line {number}: other gates than in line 1: expected the same in each")
    return [msgspec.structs.asdict(record) for record in found]
