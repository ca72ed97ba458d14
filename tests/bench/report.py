"""What a benchmark found, judged against its targets, as JSON, as a table, as a picture."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

_HOLDS = {"at most": operator.le, "at least": operator.ge}
_SIGNS = {"at most": "≤", "at least": "≥"}
_BESIDE = {"before": "to before", "compile": "to torch.compile", "peft": "to PEFT"}  # columns, by what stands in them


@dataclass(frozen=True)
class Figure:
    """A number, and what is asked of it; target is None for what is only reported."""

    value: float
    target: float | None = None
    asks: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side of the target."""
        return None if self.target is None else bool(_HOLDS[self.asks](self.value, self.target))

    @property
    def goal(self) -> str:
        """The target, for people."""
        return "" if self.target is None else f"{_SIGNS[self.asks]} {self.target:g}"


@dataclass(frozen=True)
class Row:
    """One result.

    figure: the result; a ratio, of ours to PyTorch eager where nothing else is said, if `unit` is empty.
    beside: ratios of ours to others, by the key of their column; one that could not be measured is not in it.
    detail: the numbers behind it, for people.
    """

    name: str
    figure: Figure
    unit: str = ""
    beside: Mapping[str, Figure] = field(default_factory=dict)
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether all targets are met of those that there are."""
        verdicts = [figure.met for figure in (self.figure, *self.beside.values()) if figure.met is not None]
        return all(verdicts) if verdicts else None

    def words(self) -> tuple[str, ...]:
        """The row of a table."""
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        value = f"{self.figure.value:.3g} {self.unit}" if self.unit else f"{self.figure.value:.2f}"
        others = []
        for column in _BESIDE:
            found = self.beside.get(column)
            others += ["" if found is None else f"{found.value:.2f}"]
            others += [] if column != "before" else ["" if found is None else found.goal]
        return self.name, value.strip(), self.figure.goal, *others, met, self.detail


def to_json(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """{"machine": facts, "results": [{name, value, target, asks, unit, beside, detail, met}, …]}."""
    results = []
    for row in rows:
        written = asdict(row)
        results.append({"name": written.pop("name"), **written.pop("figure"), **written, "met": row.met})
    return json.dumps({"machine": facts, "results": results}, indent=2, ensure_ascii=False) + "\n"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    head = ["what", "value", "target"]
    for column, words in _BESIDE.items():
        head += [words, "target"] if column == "before" else [words]
    lines = [
        (*head, "met", "measured"),
        ("---", *["--:"] * (len(head) - 1), "---", "---"),
        *(row.words() for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """For every row with a target: a bar of its ratio, one of the ratio to the build of before, marks of the rest."""
    from matplotlib.figure import Figure as Picture

    ratios = [row for row in rows if row.figure.target is not None and not row.unit]
    picture = Picture(figsize=(8, 1.2 + 0.48 * len(ratios)), layout="constrained")
    axes = picture.add_subplot()
    for place, row in zip(range(len(ratios), 0, -1), ratios, strict=True):
        bars = [(0.15, 0.42, row.figure, "#2a6f97", "#b5651d")]
        if "before" in row.beside:
            bars.append((-0.25, 0.24, row.beside["before"], "#7fa8c0", "#cf9f74"))
        for shift, height, figure, good, bad in bars:
            axes.barh(place + shift, figure.value, height=height, color=bad if figure.met is False else good)
            axes.text(0.01, place + shift, f"{figure.value:.2f}", va="center", fontsize=7, color="white")
            if figure.target is not None:
                ends = [place + shift - height / 2 - 0.03, place + shift + height / 2 + 0.03]
                axes.plot([figure.target] * 2, ends, color="#222222", linewidth=1.6)
        for column, shape in (("compile", "D"), ("peft", "o")):
            if column in row.beside:
                axes.plot(row.beside[column].value, place + 0.15, shape, color="white", markeredgecolor="black", ms=4)
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(ratios), 0, -1), [row.name for row in ratios], fontsize=8)
    axes.set_xlabel(
        "ratio; thick: as the title says, thin: to the build of before; black: target; ◇ to torch.compile, ○ to PEFT",
        fontsize=7,
    )
    axes.set_title(title, fontsize=9)
    picture.savefig(path, dpi=150)
