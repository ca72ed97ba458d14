"""A run in progress: its directory, and what is in memory of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref import TrainState
from sora_ref.preconditions import require
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config
from sora_ref.run.data import Task
from sora_ref.run.loggers import Loggers
from sora_ref.run.setup import Setup
from sora_ref.run.text import Encoded
from sora_ref.storage.files import write_bytes
from sora_ref.storage.logs import append_lines


@dataclass(frozen=True)
class Run:
    """A run directory with what is in memory of it.

    data: the splits that are used, by name.  base: sha256 of the base model's weights.  quiet: show no progress bar.
    """

    out: Path
    setup: Setup
    task: Task
    data: dict[str, Encoded]
    base: str
    quiet: bool
    loggers: Loggers | None = None

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.setup.config

    @property
    def selection(self) -> str:
        """The split that generalization is measured on: the first whose name begins with "validation"."""
        return next(split for split in self.data if split.startswith("validation"))

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl, and pass on."""
        append_lines(self.out / "metrics.jsonl", [record])
        if self.loggers is not None:
            self.loggers.log(record)

    def log_gates(self, step: int, gates: Mapping[str, np.ndarray]) -> None:
        """Append the value of every gate, by module, to gates.jsonl."""
        values = {module: g.tolist() for module, g in gates.items()}
        append_lines(self.out / "gates.jsonl", [{"step": step, "gates": values}])

    def save(self, state: TrainState, position: Position) -> None:
        """Write the checkpoint of this position; SoRAError, and the last one stays, where a parameter is no number."""
        trained = ckpt.trained_of(self.setup, state, position, self.base, moments=True)
        for name, value in trained.params.items():
            finite = np.isfinite(value).all()
            require(bool(finite), f"{self.out}: {name} is not finite at step {position.step}: lower train.lr")
        ckpt.save(self.out, trained)

    def keep(self, file: Path, state: TrainState, position: Position) -> None:
        """Write the parameters alone into a file of their own: those of the best evaluation, or of a stage's end."""
        trained = ckpt.trained_of(self.setup, state, position, self.base, moments=False)
        write_bytes(file, ckpt.checkpoint_bytes(trained))
