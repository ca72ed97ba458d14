"""The task that a configuration names, read from its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sora_ref.errors import shown
from sora_ref.preconditions import require
from sora_ref.run.config import Config, TaskSection
from sora_ref.run.data import TASK_NAMES, Columns, Labels, Task, load_task
from sora_ref.run.say import Say


def read_task(
    config: Config, say: Say | None = None, *, labels: Labels | None = None, split: str | None = None
) -> Task:
    """The task of a configuration, or one split of it; in the terms of a run's `labels` where they are given."""
    task = config.task
    _require_own_keys(task)
    columns = None if task.text is None else Columns(task.text, task.pair, task.label, task.id)
    found = load_task(
        task.name,
        path=None if task.path is None else Path(task.path),
        seed=task.split_seed,
        columns=columns,
        files={name: Path(path) for name, path in task.files.items()},
        labels=None if task.labels is None else tuple(task.labels),
        kind=task.kind,
        header=task.header,
        skip_bad_rows=task.skip_bad_rows,
        run=labels,
        split=split,
        say=say,
    )
    return replace(found, splits={name: examples[: task.limit] for name, examples in found.splits.items()})


def _require_own_keys(task: TaskSection) -> None:
    """SoRAError for a key that the task does not look at: whoever set it means something else."""
    if task.name == "table":
        flag = "task.path (--data FOLDER) is of other tasks than table"
        require(task.path is None, f"{flag}: expected task.files.train (--data FILE)")
        return
    if task.name not in TASK_NAMES:
        return  # said by `load_task`
    for key in ("files", "text", "pair", "label", "id", "labels"):
        flag = f"task.{key}" if key in ("files", "labels") else f"task.{key} (--{key})"
        sentence = f"{flag} is of the task table, and the task is {shown(task.name)}: expected --task table"
        require(not getattr(task, key), sentence)
