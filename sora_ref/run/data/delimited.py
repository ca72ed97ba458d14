"""Tables of text with named columns, from TSV, CSV and JSONL files in UTF-8.

* TSV has no quoting: a tab ends a field, a line feed (or CR LF) a row, as in GLUE's files.
* CSV is quoted as RFC 4180 says; a field may span lines.
* JSONL has one object a line; a number counts as it is spelled, ``true`` and ``false`` as those words.

A line with nothing on it is passed over. Every fault is one sentence that names the file and the line.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sora_ref.errors import SoRAError
from sora_ref.run.data.task import Example, Kind

Format = Literal["tsv", "csv", "jsonl"]


class Record(NamedTuple):
    """One row: the line it starts on (from 1) and its values by column."""

    line: int
    values: Mapping[str, object]


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
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Read the named columns of a file into examples, and return them with the label names in class order.

    ``format`` goes by the suffix when it is None. Without a ``header`` the columns of TSV and CSV are called "1", "2",
    … from the left. Without ``id`` an example is called ``FILE:LINE``. Without ``label`` every label is None. Without
    ``labels`` the names are those found, sorted (as numbers when all are whole numbers); for regression there are
    none.

    Raises `SoRAError` for a file that cannot be read or is not UTF-8, an unknown format or column, a column named
    twice, a row of another width, malformed CSV or JSON, a blank text or label, a label outside ``labels``, a
    regression label that is not a finite number, an id used twice, and a file without rows.
    """
    path = Path(path)
    found: list[tuple[int, Example, str | None]] = []
    lines_by_id: dict[str, int] = {}
    for record in _records(path, format or _format_of(path), header):
        name = f"{path.name}:{record.line}" if id is None else _filled(path, record, id)
        if name in lines_by_id:
            raise SoRAError(
                f"{path}, line {record.line}: the id {name!r} is that of line {lines_by_id[name]} too; expected "
                f"every id once"
            )
        lines_by_id[name] = record.line
        example = Example(
            id=name,
            text=_filled(path, record, text),
            pair=None if pair is None else _filled(path, record, pair),
            label=None,
        )
        found.append((record.line, example, None if label is None else _filled(path, record, label)))
    if not found:
        raise SoRAError(f"{path} has no rows; expected at least one")
    if kind == "regression":
        labels = ()
    elif labels is None:
        labels = _in_class_order({value for _, _, value in found if value is not None})
    examples = tuple(
        Example(example.id, example.text, example.pair, _parse_label(f"{path}, line {line}", value, kind, labels))
        for line, example, value in found
    )
    return examples, labels


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its end) of a UTF-8 file; a byte order mark is dropped.

    Only a line feed ends a line: a lone CR, NEL or U+2028 within a text stays where it is.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise SoRAError(f"{path}, line {number} is not valid UTF-8; expected a UTF-8 text file") from error
                if "\0" in line:
                    raise SoRAError(f"{path}, line {number} has a NUL character; expected a UTF-8 text file")
                yield number, line
    except OSError as error:
        raise SoRAError(f"cannot read {path} ({error.strerror or error}); expected a text file") from error


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of a TSV file, empty lines left out."""
    for number, line in text_lines(path):
        content = line.removesuffix("\n").removesuffix("\r")
        if content:
            yield number, content.split("\t")


def class_index(where: str, value: str, labels: tuple[str, ...]) -> int:
    """Index of a label among ``labels``; a `SoRAError` that begins with ``where`` when it is not one of them."""
    if value not in labels:
        raise SoRAError(f"{where}: the label {value!r} is not in the set; expected one of {', '.join(labels)}")
    return labels.index(value)


def real_number(where: str, value: str) -> float:
    """Regression label; a `SoRAError` that begins with ``where`` unless it is a finite decimal number."""
    try:
        number = math.nan if "_" in value else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SoRAError(f"{where}: the label {value!r} is not a finite number; expected one, such as 2.5")
    return number


def _format_of(path: Path) -> Format:
    for known in get_args(Format):
        if path.suffix.lower() == f".{known}":
            format: Format = known
            return format
    raise SoRAError(f"{path} has the suffix {path.suffix!r}; expected .tsv, .csv or .jsonl, or a format by name")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in text_lines(path)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise SoRAError(f"{path}, line {start}: malformed CSV ({error}); expected RFC 4180 quoting") from error
        if fields is None:
            return
        if fields:
            yield start, fields


def _json_objects(path: Path) -> Iterator[Record]:
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.colno}"
            raise SoRAError(f"{path}, line {number}: malformed JSON ({reason}); expected one object a line") from error
        except RecursionError as error:
            raise SoRAError(f"{path}, line {number}: JSON nested too deeply; expected flat objects") from error
        if not isinstance(value, dict):
            raise SoRAError(f"{path}, line {number}: JSON of type {type(value).__name__}; expected one object a line")
        yield Record(number, value)


def _records(path: Path, format: Format, header: bool) -> Iterator[Record]:
    if format == "jsonl":
        yield from _json_objects(path)
        return
    columns: tuple[str, ...] | None = None
    for line, fields in tsv_rows(path) if format == "tsv" else _csv_rows(path):
        if columns is None:
            columns = tuple(fields) if header else tuple(str(place) for place in range(1, len(fields) + 1))
            twice = [column for column in columns if columns.count(column) > 1]
            if twice:
                raise SoRAError(f"{path}, line {line}: the column {twice[0]!r} occurs twice; expected different names")
            if header:
                continue
        if len(fields) != len(columns):
            raise SoRAError(f"{path}, line {line} has {len(fields)} fields; expected {len(columns)} as in the first")
        yield Record(line, dict(zip(columns, fields, strict=True)))


def _filled(path: Path, record: Record, column: str) -> str:
    """Text of one cell, which must not be blank."""
    where = f"{path}, line {record.line}"
    if column not in record.values:
        raise SoRAError(f"{where}: no column {column!r}; found {', '.join(record.values)}")
    value = record.values[column]
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, str) and not value.strip()):
        raise SoRAError(f"{where}: the column {column!r} is blank; expected text")
    if not isinstance(value, str):
        raise SoRAError(f"{where}: the column {column!r} is a JSON {type(value).__name__}; expected text or a number")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SoRAError(f"{where}: the column {column!r} has half a surrogate pair; expected Unicode text") from error
    return value


def _in_class_order(values: set[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"[+-]?[0-9]+", value) for value in values):
        return tuple(sorted(values, key=lambda value: (int(value), value)))
    return tuple(sorted(values))


def _parse_label(where: str, value: str | None, kind: Kind, labels: tuple[str, ...]) -> int | float | None:
    if value is None:
        return None
    return real_number(where, value) if kind == "regression" else class_index(where, value, labels)
