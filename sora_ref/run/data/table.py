"""The task `table`: a user's own files, one a split, or one to train on from which a validation split is drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.preconditions import require
from sora_ref.run.data.classes import Labels, relabelled, require_kind
from sora_ref.run.data.delimited import Columns, read_table
from sora_ref.run.data.labels import look_alikes
from sora_ref.run.data.split import hold_out
from sora_ref.run.data.tally import Tally
from sora_ref.run.data.task import Example, Kind, Task
from sora_ref.run.say import Say

SPLITS = ("train", "validation", "test")


def load_table(
    files: Mapping[str, Path],
    columns: Columns | None,
    labels: tuple[str, ...] | None,
    kind: Kind,
    header: bool,
    seed: int,
    skip_bad_rows: bool,
    run: Labels | None,
    split: str | None,
    say: Say,
) -> Task:
    """Read the files by split, train, validation, test; with `split` only what that one needs.

    Class names, when not given, are those of the first split.  Without a file for validation, a tenth of the texts of
    train is held out, see `hold_out`; where there are too few, there is no such split.  With `run`, labels are by its
    class names.  With `skip_bad_rows`, rows with a fault are passed over, counted and said.

    Raises SoRAError for files or columns that are missing, an unknown split, and the faults of `read_table`.
    """
    drawn = "validation" not in files and "train" in files
    if columns is None or columns.label is None or not files or not set(files) <= set(SPLITS):
        raise SoRAError(_missing(files, columns))
    if run is not None:
        require_kind("the task table", kind, run)
    require(
        labels is None or kind == "classification",
        "task.labels names classes: expected none where task.kind is regression",
    )
    if split is not None:
        require_split("table", split, [*files, *(["validation"] if drawn else [])])
    splits: dict[str, tuple[Example, ...]] = {}
    notes: list[str] = []
    names = labels
    for name in [name for name in SPLITS if name in files]:
        if split not in (None, name) and not (drawn and name == "train" and split == "validation"):
            continue
        skipped = Tally() if skip_bad_rows else None
        known = names if run is None else run.names if skip_bad_rows else None
        splits[name], found = read_table(
            files[name],
            text=columns.text,
            pair=columns.pair,
            label=columns.label,
            id=columns.id,
            labels=known,
            kind=kind,
            header=header,
            skipped=skipped,
        )
        if skipped is not None and skipped.count:
            notes.append(f"{name}: rows of {files[name].name} skipped: {skipped.words()}")
        if run is not None and kind == "classification":
            splits[name], unknown = relabelled(printable(str(files[name])), splits[name], found, run)
            say_unknown(printable(str(files[name])), unknown, say)
        names = names or found
    if drawn and "train" in splits:
        notes += _draw_validation(splits, files["train"].name, seed)
    for note in notes:
        say(note)
    for line in look_alikes(names or ()) if run is None else ():
        say(f"warning: {line}")
    if split is not None:
        require_split("table", split, splits)
        splits = {split: splits[split]}
    if run is not None:
        return Task("table", kind, run.names, run.metrics, splits, _SOURCE, tuple(notes))
    names = names or ()
    metrics = ("pearson", "spearman") if kind == "regression" else ("accuracy", "f1")[: 2 if len(names) == 2 else 1]
    return Task("table", kind, names, metrics, splits, _SOURCE, tuple(notes))


_SOURCE = "The user's own files."


def require_split(task: str, split: str, known: Collection[str]) -> None:
    """SoRAError where a task has no such split."""
    require(split in known, f"task {task} has no split {shown(split)}: expected one of {', '.join(known)}")


def say_unknown(where: str, unknown: Tally, say: Say) -> None:
    """Say how many labels a run does not know."""
    if unknown.count:
        say(f"warning: {where}: labels the run does not know, each counted as wrong: {unknown.words()}")


def _draw_validation(splits: dict[str, tuple[Example, ...]], name: str, seed: int) -> list[str]:
    """Hold a validation split out of train; returns what is to be said of it."""
    train, validation = hold_out(splits["train"], seed)
    if not validation:
        return []
    whole = len(splits["train"])
    splits |= {"train": train, "validation": validation}
    return [f"validation: 10 % of {name}, split by text, seed {seed}: {len(validation):,} of {whole:,} rows"]


def _missing(files: Mapping[str, Path], columns: Columns | None) -> str:
    unknown = [split for split in files if split not in SPLITS]
    if unknown:
        return f"task.files has the split {shown(unknown[0])}: expected some of {', '.join(SPLITS)}"
    lacks = [
        *(["task.files.train (--data FILE)"] if not files else []),
        *(["task.text (--text COLUMN)"] if columns is None else []),
        *(["task.label (--label COLUMN)"] if columns is None or columns.label is None else []),
    ]
    words = " and ".join([", ".join(lacks[:-1]), lacks[-1]] if len(lacks) > 1 else lacks)
    return f"the task table lacks {words}: expected a file to train on and the names of its columns of texts and labels"
