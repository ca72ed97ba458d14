"""Tasks by name: data sets fetched from the registry, GLUE's folders, and the user's own tables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sora_ref.errors import SoRAError, shown
from sora_ref.run.artefacts import download
from sora_ref.run.data.classes import Labels, relabelled, require_kind
from sora_ref.run.data.delimited import Columns, read_table, table_rows
from sora_ref.run.data.glue import GLUE, glue_files, read_glue
from sora_ref.run.data.hutto import FILES, read_hutto
from sora_ref.run.data.rows import Format
from sora_ref.run.data.table import load_table, require_split, say_unknown
from sora_ref.run.data.tally import Tally
from sora_ref.run.data.task import Example, Kind, Task
from sora_ref.run.say import Say

__all__ = [
    "GLUE",
    "TASK_NAMES",
    "Columns",
    "Example",
    "Format",
    "Kind",
    "Labels",
    "Tally",
    "Task",
    "load_task",
    "read_glue",
    "read_hutto",
    "read_table",
    "table_rows",
    "task_files",
]


TASK_NAMES: tuple[str, ...] = (
    *(name for which in FILES for name in (which, f"{which}-rating")),
    *(f"glue:{task}" for task in GLUE),
    "table",
)


def load_task(
    name: str,
    *,
    path: Path | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    files: Mapping[str, Path] = MappingProxyType({}),
    labels: tuple[str, ...] | None = None,
    kind: Kind = "classification",
    header: bool = True,
    skip_bad_rows: bool = False,
    run: Labels | None = None,
    split: str | None = None,
    say: Say | None = None,
) -> Task:
    """Load the task `name`, one of `TASK_NAMES`.

    The rated sentences (`movies`, `movies-rating`, …) are fetched unless `path` is a folder of them, and split by
    `seed`; `glue:…` is read from the folder `path`; `table` takes `files` by split, `columns` and the other
    arguments, see `load_table`.  With `run`, labels are by the class names of that run, see `relabelled`, and those
    it does not know are said.  With `split` only that one is returned.  `say` receives progress and counts.

    Raises `SoRAError` for an unknown name, a missing argument of the task, an unknown split, and the faults of its
    reader.
    """
    say = say or (lambda line: None)
    if name not in TASK_NAMES:
        close = difflib.get_close_matches(name, TASK_NAMES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SoRAError(f"unknown task {shown(name)}{hint}: expected one of {', '.join(TASK_NAMES)}")
    if name == "table":
        return load_table(files, columns, labels, kind, header, seed, skip_bad_rows, run, split, say)
    if skip_bad_rows:
        raise SoRAError(f"task.skip_bad_rows (--skip-bad-rows) is of the task table: expected it unset for {name}")
    if name.startswith("glue:"):
        if path is None:
            raise SoRAError(
                f"the task {name} has no folder: expected task.path (--data FOLDER) to be GLUE's folder or the task's"
            )
        task = read_glue(path, name.removeprefix("glue:"), say=say)
    else:
        which = name.removesuffix("-rating")
        folder = download("hutto2014", say=say) if path is None else path
        task = read_hutto(folder, which, "classification" if which == name else "regression", seed, say=say)
    if split is not None:
        require_split(name, split, task.splits)
        task = replace(task, splits={split: task.splits[split]})
    return task if run is None else _as_in(task, run, say)


def _as_in(task: Task, run: Labels, say: Say) -> Task:
    require_kind(f"the task {task.name}", task.kind, run)
    splits = {}
    for name, examples in task.splits.items():
        splits[name], unknown = relabelled(f"{task.name}, split {name},", examples, task.labels, run)
        say_unknown(f"{task.name}, split {name}", unknown, say)
    return replace(task, splits=splits, labels=run.names, metrics=run.metrics)


def task_files(name: str, *, path: Path | None, files: Mapping[str, Path], say: Say | None = None) -> dict[str, Path]:
    """The files that `load_task` reads for the same arguments: a table's by split, others by their names."""
    if name == "table":
        return dict(files)
    if name.startswith("glue:"):
        task = name.removeprefix("glue:")
        return {} if path is None or task not in GLUE else {found.name: found for found in glue_files(path, task)}
    which = name.removesuffix("-rating")
    if which not in FILES:
        return {}
    return {FILES[which]: (download("hutto2014", say=say) if path is None else path) / FILES[which]}
