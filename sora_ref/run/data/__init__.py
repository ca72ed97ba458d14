"""Tasks by name: data sets fetched from the registry, GLUE's folders, and the user's own tables."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sora_ref.errors import SoRAError
from sora_ref.run.data.delimited import Format, read_table
from sora_ref.run.data.glue import GLUE, read_glue
from sora_ref.run.data.hutto import FILES, read_hutto
from sora_ref.run.data.task import Example, Kind, Task
from sora_ref.run.fetch import fetch

__all__ = ["TASK_NAMES", "Columns", "Example", "Kind", "Task", "load_task", "read_glue", "read_hutto", "read_table"]

SPLITS = ("train", "validation", "test")

TASK_NAMES: tuple[str, ...] = (
    *(name for which in FILES for name in (which, f"{which}-rating")),
    *(f"glue:{task}" for task in GLUE),
    "table",
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a user's table; None where it has no such column."""

    text: str
    pair: str | None = None
    label: str | None = None
    id: str | None = None


def load_task(
    name: str,
    *,
    path: Path | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    files: Mapping[str, Path] = MappingProxyType({}),
    format: Format | None = None,
    labels: tuple[str, ...] | None = None,
    kind: Kind = "classification",
    header: bool = True,
    say: Callable[[str], None] | None = None,
) -> Task:
    """Load the task ``name``, one of `TASK_NAMES`.

    The rated sentences (``movies``, ``movies-rating``, …) are fetched unless ``path`` is a folder of them, and split by
    ``seed``; ``glue:…`` is read from the folder ``path``; ``table`` takes ``files`` (split → file, the splits being
    train, validation, test), ``columns`` and the arguments of `read_table`, with label names, when not given, those of
    the first split. ``say`` receives progress and counts.

    Raises `SoRAError` for an unknown name, a missing argument of the task, and the faults of its reader.
    """
    if name not in TASK_NAMES:
        close = difflib.get_close_matches(name, TASK_NAMES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SoRAError(f"unknown task {name!r}{hint}; expected one of {', '.join(TASK_NAMES)}")
    if name == "table":
        return _load_table(files, columns, format, labels, kind, header)
    if name.startswith("glue:"):
        if path is None:
            raise SoRAError(f"the task {name} has no folder; expected path to be GLUE's folder or the task's own")
        return read_glue(path, name.removeprefix("glue:"), say=say)
    which = name.removesuffix("-rating")
    folder = fetch("hutto2014", say=say) if path is None else path
    return read_hutto(folder, which, "classification" if which == name else "regression", seed, say=say)


def _load_table(
    files: Mapping[str, Path],
    columns: Columns | None,
    format: Format | None,
    labels: tuple[str, ...] | None,
    kind: Kind,
    header: bool,
) -> Task:
    if columns is None or not files or not set(files) <= set(SPLITS):
        raise SoRAError(
            f"the task table has files for {', '.join(files) or 'no split'} and {'no' if columns is None else 'its'} "
            f"column names; expected a file for one or more of {', '.join(SPLITS)}, and the names of the columns"
        )
    splits = {}
    for split in SPLITS:
        if split in files:
            splits[split], labels = read_table(
                files[split],
                text=columns.text,
                pair=columns.pair,
                label=columns.label,
                id=columns.id,
                format=format,
                labels=labels,
                kind=kind,
                header=header,
            )
    names = labels or ()
    metrics = ("pearson", "spearman") if kind == "regression" else ("accuracy", "f1")[: 2 if len(names) == 2 else 1]
    return Task("table", kind, names, metrics, splits, "The user's own files.")
