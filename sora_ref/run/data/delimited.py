"""Tables of text with named columns, made into examples.

Every fault is one sentence that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.run.data.labels import (
    class_indices,
    in_class_order,
    not_a_class,
    not_a_number,
    parsed_number,
)
from sora_ref.run.data.rows import Fault, Format, cells, format_of, place, too_long
from sora_ref.run.data.tally import Tally
from sora_ref.run.data.task import Example, Kind


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a user's table; None where it has no such column."""

    text: str
    pair: str | None = None
    label: str | None = None
    id: str | None = None


class TableRow(NamedTuple):
    """One sound row: the line it starts on, and its cells, none of them blank; id is `FILE:LINE` without a column."""

    line: int
    id: str
    text: str
    pair: str | None
    label: str | None


def table_rows(
    path: Path,
    columns: Columns,
    *,
    format: Format | None = None,
    header: bool = True,
    stream: BinaryIO | None = None,
    skipped: Tally | None = None,
) -> Iterator[TableRow]:
    """Yield the rows of a file, or of an open `stream` that `path` names, one at a time; see `rows.cells`.

    `format` goes by the suffix when it is None.  A row that is not sound (a `Fault`, a blank cell, one too long) is
    raised as a `SoRAError`; with `skipped` it is passed over and tallied there.  Ids are not compared: that would
    take memory.
    """
    path = Path(path)
    places = (columns.text, columns.pair, columns.label, columns.id)
    named = [column for column in places if column is not None]
    at = [None if column is None else named.index(column) for column in places]
    pair_at, label_at, id_at = at[1:]
    short = path.name
    for line, found in cells(path, named, format or format_of(path), header=header, stream=stream):
        if not isinstance(found, Fault):
            for cell in found:
                if not cell or cell.isspace():
                    column = next(name for name, cell in zip(named, found, strict=True) if not cell.strip())
                    found = Fault(f"the column {shown(column)} is blank: expected text")
                    break
                if fault := too_long(cell):
                    found = fault
                    break
        if isinstance(found, Fault):
            if skipped is None:
                raise SoRAError(f"{place(path, line)}: {found.reason}")
            skipped.add(f"line {line}: {found.reason}")
            continue
        yield TableRow(
            line,
            f"{short}:{line}" if id_at is None else found[id_at],
            found[0],
            None if pair_at is None else found[pair_at],
            None if label_at is None else found[label_at],
        )


def read_table(
    path: Path,
    *,
    text: str,
    pair: str | None = None,
    label: str | None = None,
    id: str | None = None,
    format: Format | None = None,
    labels: tuple[str, ...] | None = None,
    kind: Kind = "classification",
    header: bool = True,
    stream: BinaryIO | None = None,
    skipped: Tally | None = None,
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Read the named columns of a file into examples, and return them with the label names in class order.

    `format`, `header`, `stream` and the examples' ids are as for `table_rows`.  Without `label` every label is
    None.  Without `labels` the names are those found, sorted (as numbers when all are whole numbers); for regression
    there are none.  With `skipped`, a row with a fault (an id used before and a label that is none included) is
    passed over and tallied there.

    Raises `SoRAError` for what `table_rows` raises, a label outside `labels`, a regression label that is not a finite
    number, an id used twice, `labels` with a name twice, and a file without rows.
    """
    path = Path(path)
    columns = Columns(text, pair, label, id)
    known = None if labels is None or kind == "regression" else class_indices(labels)
    met: dict[str, int] = {}  # labels in order of appearance, where they make the classes
    lines_by_id: dict[str, int] = {}
    ids: list[str] = []
    texts: list[str] = []
    pairs: list[str | None] = []
    values: list[int | float | None] = []
    for row in table_rows(path, columns, format=format, header=header, stream=stream, skipped=skipped):
        fault, value = None, None
        if id is not None and row.id in lines_by_id:
            fault = f"the id {shown(row.id)} is that of line {lines_by_id[row.id]} too: expected every id once"
        elif row.label is not None:
            value, fault = _label(row.label, kind, known, met)
        if fault is not None:
            if skipped is None:
                raise SoRAError(f"{place(path, row.line)}: {fault}")
            skipped.add(f"line {row.line}: {fault}")
            continue
        if id is not None:
            lines_by_id[row.id] = row.line
        ids.append(row.id)
        texts.append(row.text)
        pairs.append(row.pair)
        values.append(value)
    if not ids:
        rows = "rows" if skipped is None or not skipped.count else f"rows left, skipped {skipped.words()}"
        raise SoRAError(f"{printable(str(path))} has no {rows}: expected at least one")
    if kind == "regression":
        names: tuple[str, ...] = ()
    elif known is not None:
        names = tuple(known)
    else:
        names = in_class_order(met)
        rank = {met[name]: index for index, name in enumerate(names)}
        values = [None if value is None else rank[int(value)] for value in values]
    return tuple(map(Example, ids, texts, pairs, values)), names


def _label(
    value: str, kind: Kind, known: dict[str, int] | None, met: dict[str, int]
) -> tuple[int | float | None, str | None]:
    """What a label is, or why it is none: a number, the index of a known class, or of its name among those `met`."""
    if kind == "regression":
        number = parsed_number(value)
        return number, None if number is not None else not_a_number(value)
    if known is None:
        return met.setdefault(value, len(met)), None
    return known.get(value), None if value in known else not_a_class(value, known)
