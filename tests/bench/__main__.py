"""`make bench`: sora_ref against PyTorch, and against its build of before, on the same work, by turns, in one run.

Every figure is a median of so many runs, each side in processes of its own; a ratio is ours over theirs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from facts import load, machine
from parts import PARTS
from report import Row, draw, table, to_json

REPETITIONS = 9


def main() -> None:
    """Measure, print, and write bench.json, bench.md and bench.png."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    asked = parser.parse_args()
    unknown = sorted(set(asked.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {unknown[0]}: expected some of {', '.join(PARTS)}")
    facts, rows = machine(), list[Row]()
    facts["repetitions"] = asked.repetitions
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.parts or PARTS:
        for row in PARTS[name](asked.repetitions):
            print("  ".join(filter(None, row.words())), flush=True)
            rows.append(row)
            write(asked.out, rows, facts)
    missed = [row.name for row in rows if row.met is False]
    print(f"{asked.out}/bench.json: {len(rows)} results, targets missed in {len(missed)}", file=sys.stderr)


def write(out: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """All that is known so far, so that a run that is interrupted has what it measured."""
    facts["load at the end"] = load()
    (out / "bench.json").write_text(to_json(rows, facts), encoding="utf-8")
    (out / "bench.md").write_text(table(rows), encoding="utf-8")
    versions = f"PyTorch {facts['versions']['torch']}"
    draw(out / "bench.png", rows, f"ours over {versions}, {facts['processor']} ({facts['instructions']})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("make bench: interrupted; what was measured is written", file=sys.stderr)
        sys.exit(130)
    except RuntimeError as error:
        print(f"make bench: {error}", file=sys.stderr)
        sys.exit(1)
