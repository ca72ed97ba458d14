"""What is given on the command line to be predicted or scored: texts, lines of standard input, a table.

Its columns are by default those of the run's own task, and pairs go to a model that was trained on pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.preconditions import require
from sora_ref.run.config import Config
from sora_ref.run.data import GLUE, TASK_NAMES, Columns, Example, Labels, Tally, Task, read_table, table_rows
from sora_ref.run.data.classes import relabelled
from sora_ref.run.data.rows import Fault, Format, is_unicode, place, texts_of_lines, too_long
from sora_ref.run.data.table import say_unknown
from sora_ref.run.say import Say

STDIN = Path("stdin")  # how sentences and ids call standard input


class Given(NamedTuple):
    """A table: its file, or `STDIN` with the open stream; the columns that were named, and what to do with bad rows."""

    path: Path
    stream: BinaryIO | None = None
    format: Format | None = None
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    skip_bad_rows: bool = False


def task_columns(config: Config) -> Columns:
    """The columns of the task that a run was trained on, by what its files call them; SoRAError for an unknown task."""
    task = config.task
    require(task.name in TASK_NAMES, f"unknown task {shown(task.name)}: expected one of {', '.join(TASK_NAMES)}")
    if task.name == "table":
        return Columns(task.text or "text", task.pair, task.label, task.id)
    if task.name.startswith("glue:"):
        spec = GLUE[task.name.removeprefix("glue:")]
        return Columns(spec.text, spec.pair, spec.label)
    return Columns("text", None, "label")


def of_pairs(config: Config) -> bool:
    """Whether a run was trained on pairs of texts."""
    return task_columns(config).pair is not None


def examples_of_texts(config: Config, texts: Sequence[str], seconds: Sequence[str]) -> tuple[Example, ...]:
    """Texts as examples, numbered from 0, each with its second text where the run was trained on pairs.

    Raises SoRAError where there are second texts and the run takes none, or not as many as texts and it does.
    """
    pairs = of_pairs(config)
    require(pairs or not seconds, "the run was trained on single texts: expected no second ones (--text2)")
    for text in (*texts, *seconds):
        require(is_unicode(text), "a text is not valid UTF-8: expected Unicode text")
    require(
        not pairs or len(seconds) == len(texts),
        f"the run was trained on pairs of texts, and {len(texts)} came with {len(seconds)} second ones: expected "
        "--text2 TEXT for each (or a table with --pair, or lines of standard input with a tab between the two)",
    )
    return tuple(Example(str(k), text, seconds[k] if pairs else None, None) for k, text in enumerate(texts))


def examples_of_lines(config: Config, stream: BinaryIO, skipped: Tally | None) -> Iterator[Example]:
    """Yield the lines of standard input, in pairs split at a tab where the run was trained on pairs; see `skipped`.

    Raises SoRAError for a line that is blank, too long, no UTF-8 or no pair, unless it is passed over and tallied in
    `skipped`, and where there is no line.
    """
    line = 0
    for line, found in texts_of_lines(STDIN, stream, pairs=of_pairs(config)):
        if not isinstance(found, Fault) and not all(map(str.strip, found)):
            found = Fault("a blank text: expected one on every line")
        if not isinstance(found, Fault):
            found = next((fault for fault in map(too_long, found) if fault), found)
        if not isinstance(found, Fault):
            yield Example(f"{STDIN}:{line}", found[0], found[1] if len(found) > 1 else None, None)
        elif skipped is None:
            raise SoRAError(f"{place(STDIN, line)}: {found.reason}")
        else:
            skipped.add(f"line {line}: {found.reason}")
    require(line > 0, f"{STDIN} has no lines: expected a text on each")


def examples_of_table(config: Config, given: Given, skipped: Tally | None) -> Iterator[Example]:
    """Yield the rows of a table without labels, one at a time.  Ids that occur twice are not looked for.

    Raises SoRAError for what `table_rows` raises, for a pair column where there should be none, and where there is no
    row.
    """
    columns = _columns(config, given)
    rows = table_rows(
        given.path,
        Columns(columns.text, columns.pair, None, given.id),
        format=given.format,
        header=_header(config),
        stream=given.stream,
        skipped=skipped,
    )
    empty = True
    for row in rows:
        empty = False
        yield Example(row.id, row.text, row.pair, None)
    require(
        not empty or bool(skipped and skipped.count), f"{printable(str(given.path))} has no rows: expected at least one"
    )


def task_of_table(config: Config, labels: Labels, given: Given, say: Say) -> Task:
    """A labelled table as a task of one split, its name the file's, in the terms of a run's labels.

    Labels that the run does not know count as wrong, and are said; with `skip_bad_rows` they are skipped with the other
    rows that have a fault.  Raises SoRAError for what `read_table` and `relabelled` raise.
    """
    columns = _columns(config, given)
    skipped = Tally() if given.skip_bad_rows else None
    examples, names = read_table(
        given.path,
        text=columns.text,
        pair=columns.pair,
        label=given.label or columns.label or "label",
        id=given.id,
        format=given.format,
        labels=labels.names if given.skip_bad_rows and labels.kind == "classification" else None,
        kind=labels.kind,
        header=_header(config),
        stream=given.stream,
        skipped=skipped,
    )
    where = printable(str(given.path))
    if labels.kind == "classification":
        examples, unknown = relabelled(where, examples, names, labels)
        say_unknown(where, unknown, say)
    say_skipped(given.path, skipped, say)
    return Task("table", labels.kind, labels.names, labels.metrics, {given.path.name: examples}, "The user's own file.")


def say_skipped(path: Path, skipped: Tally | None, say: Say) -> None:
    """Say how many rows were passed over, and the first of them."""
    if skipped is not None and skipped.count:
        say(f"warning: {printable(str(path))}: rows skipped: {skipped.words()}")


def _columns(config: Config, given: Given) -> Columns:
    own = task_columns(config)
    single = given.pair is None or own.pair is not None
    require(single, "the run was trained on single texts: expected no column of second ones (--pair)")
    return Columns(given.text or own.text, given.pair or own.pair, own.label, None)


def _header(config: Config) -> bool:
    return config.task.header if config.task.name == "table" else True
