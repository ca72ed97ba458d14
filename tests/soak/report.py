"""Totals of the campaign: a table for people, JSON for programs, and the inputs that failed, to be looked at."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.result import Result, pattern

_KEPT = 3  # failures of one cause whose files are kept


@dataclass
class Tally:
    """What was seen of one kind of case."""

    cases: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")


class Report:
    """Adds up results; `folder` gets the files of failures, as they come."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.causes: dict[str, list[Result]] = {}
        self.notes: list[str] = []
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def cases(self) -> int:
        """Of all parts."""
        return sum(tally.cases for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        """Of all parts."""
        return sum(tally.failed for tally in self.tallies.values())

    def add(self, result: Result) -> bool:
        """Count a result; whether it is the first of its cause to fail."""
        tally = self.tallies.setdefault((result.part, result.kind), Tally())
        tally.cases += 1
        tally.outcomes["FAILED" if result.fault else pattern(result.outcome)] += 1
        tally.slowest = max(tally.slowest, (result.seconds, result.case))
        tally.largest = max(tally.largest, (result.memory, result.case))
        if not result.fault:
            return False
        tally.failed += 1
        same = self.causes.setdefault(result.cause, [])
        same.append(result)
        if len(same) <= _KEPT:
            self._keep(result)
        return len(same) == 1

    def _keep(self, result: Result) -> None:
        folder = self.folder / result.case.replace(":", "-").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fault.txt").write_text(f"{result.case}\n{result.fault}\n", encoding="utf-8", errors="replace")
        for name, data in result.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def table(self) -> str:
        """Markdown."""
        lines = ["| part | kind | cases | failed | outcomes | slowest | most memory |", "|---|---|---|---|---|---|---|"]
        for (part, kind), tally in sorted(self.tallies.items()):
            slow = f"{tally.slowest[0]:.2f} s" if tally.slowest[0] else ""
            large = f"{tally.largest[0] / 2**20:.0f} MB" if tally.largest[0] else ""
            row = (part, kind, f"{tally.cases:,}", str(tally.failed), str(len(tally.outcomes)), slow, large)
            lines.append(f"| {' | '.join(row)} |")
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def failures(self) -> list[str]:
        """A line a cause: how often, the first cases, the fault of the first."""
        found = []
        for same in sorted(self.causes.values(), key=len, reverse=True):
            seeds = ", ".join(result.case for result in same[:_KEPT])
            found.append(f"{len(same)} × {same[0].part} {same[0].kind}: {' '.join(same[0].fault.split())} [{seeds}]")
        return found

    def to_json(self, facts: dict[str, Any]) -> str:
        """Everything, with the commonest outcomes of each kind."""
        parts = [
            {
                "part": part,
                "kind": kind,
                "cases": tally.cases,
                "failed": tally.failed,
                "slowest": tally.slowest,
                "most_memory": tally.largest,
                "outcomes": dict(tally.outcomes.most_common(200)),
            }
            for (part, kind), tally in sorted(self.tallies.items())
        ]
        whole = {"seed": self.seed, **facts, "cases": self.cases, "failed": self.failed, "notes": self.notes}
        return json.dumps(whole | {"parts": parts, "failures": self.failures()}, indent=2, ensure_ascii=True) + "\n"
