"""Tables: the user's TSV, CSV and JSONL, GLUE's folders, and the rated sentences of Hutto and Gilbert."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_run import make_rows

from sora_ref.run.data import read_glue, read_hutto, read_table
from sora_ref.run.data.glue import GLUE
from sora_ref.run.data.hutto import FILES as HUTTO
from tests.soak.fuzz import octets, trees
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.ground import Ground

_CELLS = (
    "",
    " ",
    "\0",
    "\x1b[31m",
    "nan",
    "inf",
    "1_0",
    "-",
    "1" * 5_000,
    "x" * 140_000,
    "\u2028",
    "é",
    '"',
    '""',
    "'",
    "1e999",
    "good",
    "GOOD",
    "1.0",
    "1",
    "0x1",
    "\r",
    "a,b",
    "\ufeff",
    "１",
)


def grid(separator: str) -> Callable[[random.Random, bytes], bytes]:
    """Rows of cells changed as rows of cells."""

    def change(rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.3 or len(data) > 20_000:  # which a change below makes 500 times as long
            return octets.damaged(rng, data)
        rows = [line.split(separator) for line in data.decode("utf-8", "replace").split("\n")]
        row = rng.choice(rows)
        match rng.randrange(9):
            case 0 | 1:
                row[rng.randrange(len(row))] = rng.choice(_CELLS)
            case 2:
                row.append(rng.choice(_CELLS))
            case 3:
                del row[rng.randrange(len(row))]
            case 4:
                rows.insert(rng.randrange(len(rows)), list(row))
            case 5:
                rng.shuffle(row)
            case 6:  # a wide header, or many classes
                rows[0] = rows[0] * rng.choice((2, 500)) if rng.random() < 0.9 else [str(k) for k in range(60_000)]
            case 7:
                rows += [[f"{cell}{k}" for cell in row] for k in range(rng.choice((5, 300)))]
            case _:
                rng.shuffle(rows)
        return "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")

    return change


def _jsonl(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    try:
        lines[place] = trees.to_json(trees.changed(rng, json.loads(lines[place])))
    except (ValueError, TypeError, RecursionError):
        lines[place] = octets.damaged(rng, lines[place])
    return b"\n".join(lines)


def _quoted(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tables(ground: Ground) -> Path:
    folder = ground.folder / "formats" / "tables"
    if not folder.exists():
        folder.mkdir(parents=True)
        rows = make_rows("validation")
        cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        (folder / "case.tsv").write_text("".join("\t".join(row) + "\n" for row in cells))
        quoted = [*cells, ["q", 'a "good" film,\nwith a line', "good", "1"]]
        (folder / "case.csv").write_text(_quoted(quoted))
        (folder / "case.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _table(suffix: str, change: Callable[[random.Random, bytes], bytes]) -> Format:
    name = f"case.{suffix}"

    def damage(rng: random.Random, files: Files) -> Files:
        return {name: some(rng, files[name], change)}

    def read(folder: Path) -> Any:
        read_table(folder / name, text="text")
        read_table(folder / name, text="text", label="rating", kind="regression")
        return read_table(folder / name, text="text", label="label", id="name")

    return Format(suffix, _tables, damage, read, slice=1000)


_HEADS = {"dev": "label", "train": "label"}


def _glue(ground: Ground) -> Path:
    """Every task's folder, with a few rows of every file."""
    home = ground.folder / "formats" / "glue"
    for task in GLUE.values():
        folder = home / task.folder
        folder.mkdir(parents=True, exist_ok=True)
        columns = ["index", "#1 ID", "#2 ID", task.text, *([task.pair] if task.pair else []), task.label]
        for split, name in task.files:
            header = list(task.columns or columns)
            rows = [_glue_row(task.codes, header, task.label, k) for k in range(4)]
            heading = [] if task.columns and not split.startswith("test") else [header]
            (folder / name).write_text("".join("\t".join(row) + "\n" for row in [*heading, *rows]))
    return home


def _glue_row(codes: tuple[str, ...], header: list[str], label: str, k: int) -> list[str]:
    value = codes[k % len(codes)] if codes else str(k / 2)
    return [value if column == label else f"{column} {k}" for column in header]


def _damage_glue(rng: random.Random, files: Files) -> Files:
    name = rng.choice(sorted(files))
    return {name: some(rng, files[name], grid("\t")), "TASK": name.partition("/")[0].encode()}


def _read_glue(folder: Path) -> Any:
    chosen = (folder / "TASK").read_text()
    return read_glue(folder, next(name for name, task in GLUE.items() if task.folder == chosen))


def _hutto(ground: Ground) -> Path:
    folder = ground.folder / "formats" / "hutto"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{k}\t{(k % 9) - 4}.{k}\ta sentence number {k // 2}" for k in range(1, 40)]
    (folder / HUTTO["movies"]).write_bytes("\r\n".join(rows).encode())
    return folder


def _damage_hutto(rng: random.Random, files: Files) -> Files:
    return {HUTTO["movies"]: some(rng, files[HUTTO["movies"]], grid("\t"))}


def _read_hutto(folder: Path) -> Any:
    return read_hutto(folder, "movies", "regression", 3), read_hutto(folder, "movies")


FORMATS = (
    _table("tsv", grid("\t")),
    _table("csv", grid(",")),
    _table("jsonl", _jsonl),
    Format("glue", _glue, _damage_glue, _read_glue, slice=1000),
    Format("hutto", _hutto, _damage_hutto, _read_hutto, slice=1000),
)
