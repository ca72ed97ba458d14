"""Rows out of TSV, CSV and JSONL files in UTF-8, one at a time, so that memory does not grow with the file.

* TSV has no quoting: a tab ends a field, a line feed (or CR LF) a row, as in GLUE's files.
* CSV is quoted as RFC 4180 says; a field may span lines and be as long as the file, a text up to `LONGEST_TEXT`.
* JSONL has one object a line; a number counts as it is spelled, `true` and `false` as those words.

A line with nothing on it is passed over.  What is wrong with one row is a `Fault` in its place, for the caller to raise
or to count; what is wrong with the file (no such column, CSV quoting gone astray) is raised.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.run.data.labels import some
from sora_ref.storage.regular import open_regular

Format = Literal["tsv", "csv", "jsonl"]
Lines = Iterator[tuple[int, "str | Fault"]]
Fields = Iterator[tuple[int, "Sequence[str] | Fault"]]

LONGEST_TEXT = 1_000_000  # characters: the tokeniser's time and memory grow with all of them, used or cut off
_BLOCK = 10_000  # fields of CSV read at a time
_LONGEST = 2**31 - 1  # characters of a CSV field that the csv module can be told of on every machine


class Fault(NamedTuple):
    """What is wrong with a row, and what was expected."""

    reason: str


def too_long(text: str) -> Fault | None:
    """The fault of a text of more characters than `LONGEST_TEXT`."""
    if len(text) <= LONGEST_TEXT:
        return None
    return Fault(f"a text of {len(text):,} characters: expected at most {LONGEST_TEXT:,}")


def place(path: Path, line: int) -> str:
    """How a sentence begins that is about a line of a file."""
    return f"{printable(str(path))}, line {line}"


def format_of(path: Path) -> Format:
    """The format by a file's suffix; `SoRAError` where it is none that is known."""
    for known in get_args(Format):
        if path.suffix.lower() == f".{known}":
            format: Format = known
            return format
    name = printable(str(path))
    raise SoRAError(
        f"{name} has the suffix {shown(path.suffix)}: expected .tsv, .csv or .jsonl, or a format (--format)"
    )


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its end) of a UTF-8 file; a byte order mark is dropped.

    Only a line feed ends a line: a lone CR, NEL or U+2028 within a text stays where it is.  Raises `SoRAError` for what
    is no regular file, for bytes that are no UTF-8 and for a NUL character.
    """
    return _sound(path, _lines(path, None))


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of a TSV file, empty lines left out; raises what `text_lines` raises."""
    return ((line, list(fields)) for line, fields in _tsv(text_lines(path)) if not isinstance(fields, Fault))


def cells(
    path: Path, columns: Sequence[str], format: Format, *, header: bool = True, stream: BinaryIO | None = None
) -> Fields:
    """Yield (line number, the cells of these columns), or a `Fault`, for every row of a file, or of an open `stream`.

    Without a `header` the columns of TSV and CSV are called "1", "2", … from the left.  The line is the one on which
    the row starts, from 1.  Cells of JSON that have no text (null) are empty.

    Raises `SoRAError` for a file that cannot be read or is no regular file, an unknown column of TSV and CSV, a column
    named twice in the header, and malformed CSV.
    """
    lines = _lines(path, stream)
    if format == "jsonl":
        return _json_cells(lines, columns)
    if format == "tsv":
        return _selected(path, _tsv(lines), columns, header)
    rows = _csv(path, lines, _LONGEST if stream is not None else _longest_field(path))
    return _selected(path, rows, columns, header)


def texts_of_lines(path: Path, stream: BinaryIO, *, pairs: bool) -> Fields:
    """Yield (line number, [text], or [text, pair] split at the tab) of every line, or a `Fault`."""
    for number, line in _lines(path, stream):
        if isinstance(line, Fault):
            yield number, line
            continue
        text = line.removesuffix("\n").removesuffix("\r")
        parts = text.split("\t") if pairs else [text]
        yield number, parts if len(parts) == 1 + pairs else Fault(_no_pair(len(parts)))


def _no_pair(parts: int) -> str:
    return f"{parts - 1} tabs: expected one, between the two texts of a pair"


def _sound(path: Path, lines: Lines) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if isinstance(line, Fault):
            raise SoRAError(f"{place(path, number)}: {line.reason}")
        yield number, line


def _lines(path: Path, stream: BinaryIO | None) -> Lines:
    try:
        with closing(open_regular(path, "a text file") if stream is None else stream) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    yield number, Fault("not valid UTF-8: expected UTF-8 text")
                    continue
                yield number, Fault("a NUL character: expected UTF-8 text") if "\0" in line else line
    except OSError as error:
        name = printable(str(path))
        raise SoRAError(f"{name}: cannot be read ({error.strerror or error}): expected a text file") from error


def _tsv(lines: Iterator[tuple[int, str]] | Lines) -> Fields:
    for number, line in lines:
        if isinstance(line, Fault):
            yield number, line
            continue
        content = line.removesuffix("\n").removesuffix("\r")
        if content:
            yield number, content.split("\t")


def _longest_field(path: Path) -> int:
    """A field is no longer than its file."""
    try:
        return min(path.stat().st_size, _LONGEST)
    except (OSError, ValueError):  # said when the file is opened
        return 0


def _csv(path: Path, lines: Lines, longest: int) -> Fields:
    """Rows of CSV; a line that is no text ends the reading, since it may be part of any field."""
    reader = csv.reader((line for _, line in _sound(path, lines)), strict=True)
    fault: SoRAError | None = None
    ended = False
    while not ended:
        block: list[tuple[int, list[str]]] = []
        held = 0
        with _fields_up_to(longest):
            try:
                while held < _BLOCK and not ended:
                    start = reader.line_num + 1
                    fields = next(reader, None)
                    ended = fields is None
                    if fields:
                        block.append((start, fields))
                        held += len(fields)
            except csv.Error as error:
                fault = SoRAError(f"{place(path, start)}: malformed CSV ({error}): expected RFC 4180 quoting")
            except SoRAError as error:
                fault = error
        yield from block
        if fault is not None:
            raise fault


@contextmanager
def _fields_up_to(longest: int) -> Iterator[None]:
    """The csv module's limit on a field's length, one for the whole process, raised and put back."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, longest))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _selected(path: Path, rows: Fields, columns: Sequence[str], header: bool) -> Fields:
    """The cells of these columns, found by the header, of rows as wide as the first."""
    width: int | None = None
    places: list[int] = []
    for line, fields in rows:
        if width is None:
            if isinstance(fields, Fault):
                raise SoRAError(f"{place(path, line)}: {fields.reason}")
            width = len(fields)
            places = _places(place(path, line), fields if header else [str(n + 1) for n in range(width)], columns)
            if header:
                continue
        if isinstance(fields, Fault):
            yield line, fields
        elif len(fields) != width:
            yield line, Fault(f"{len(fields):,} fields: expected {width:,} as in the first")
        else:
            yield line, [fields[index] for index in places]


def _places(where: str, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the columns stand among the names of a header."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise SoRAError(f"{where}: the column {shown(twice)} occurs twice: expected different names")
    at = {name: index for index, name in enumerate(names)}
    for column in columns:
        if column not in at:
            raise SoRAError(f"{where}: {_no_column(column, names)}")
    return [at[column] for column in columns]


def _no_column(column: str, names: Collection[str]) -> str:
    return f"no column {shown(column)}; found {some(names)}"


def _json_cells(lines: Lines, columns: Sequence[str]) -> Fields:
    for number, line in lines:
        if isinstance(line, Fault):
            yield number, line
        elif line.strip():
            yield number, _json_row(line, columns)


def _json_row(line: str, columns: Sequence[str]) -> Sequence[str] | Fault:
    try:
        found = json.loads(line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return Fault(f"malformed JSON ({error.msg} at character {error.colno}): expected one object a line")
    except RecursionError:
        return Fault("JSON nested too deeply: expected flat objects")
    except _TwiceError as error:
        return Fault(f"the column {error} occurs twice: expected different names")
    if not isinstance(found, dict):
        return Fault(f"JSON of type {type(found).__name__}: expected one object a line")
    row = []
    for column in columns:
        if column not in found:
            return Fault(_no_column(column, found))
        value = _json_text(found[column])
        if value is None:
            return Fault(_no_text(column, found[column]))
        row.append(value)
    return row


class _TwiceError(Exception):
    """A key that stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(shown(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)))
    return found


def _json_text(value: Any) -> str | None:
    """The text of a value; None where it has none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return value if isinstance(value, str) and (value.isascii() or is_unicode(value)) else None


def is_unicode(value: str) -> bool:
    """Whether this is text, without half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_text(column: str, value: Any) -> str:
    if isinstance(value, str):
        return f"the column {shown(column)} has half a surrogate pair: expected Unicode text"
    return f"the column {shown(column)} is a JSON {type(value).__name__}: expected text or a number"
