"""What a benchmark found, judged against its targets, as JSON, as a table, as a picture."""

from __future__ import annotations

import json
import operator
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np  # noqa: F401 (threadpoolctl sees the BLAS that is loaded)
from threadpoolctl import threadpool_info

from sora_ref.run.workers import available_cores

_HOLDS = {"at most": operator.le, "at least": operator.ge}


@dataclass(frozen=True)
class Row:
    """One result.

    value:  a ratio where `unit` is empty.  target: None for what is only reported.
    detail: the numbers behind it, for people.
    """

    name: str
    value: float
    unit: str = ""
    target: float | None = None
    asks: Literal["at most", "at least"] = "at most"
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side of the target."""
        return None if self.target is None else bool(_HOLDS[self.asks](self.value, self.target))

    def words(self) -> tuple[str, ...]:
        """The row of a table."""
        goal = "" if self.target is None else f"{'≤' if self.asks == 'at most' else '≥'} {self.target:g}"
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        value = f"{self.value:.3g} {self.unit}" if self.unit else f"{self.value:.2f}"
        return self.name, value.strip(), goal, met, self.detail


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code: processor, BLAS and its core type, versions, load, commit."""
    blas = [
        {fact: pool.get(fact) for fact in ("internal_api", "version", "architecture", "threading_layer")}
        for pool in threadpool_info()
        if pool.get("user_api") == "blas" and "numpy" in pool.get("filepath", "")
    ]
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": blas,
        "blas set by the environment": {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS")},
        "versions": {name: _version(name) for name in ("numpy", "torch", "transformers", "peft")},
        "load": _load(),
        "commit": _commit(),
    }


def _load() -> list[float]:
    """The system's load averages; none on Windows, which counts no load."""
    if sys.platform == "win32":
        return []
    return list(os.getloadavg())


def to_json(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """{"machine": facts, "results": [{name, value, unit, target, asks, detail, met}, …]}."""
    results = [asdict(row) | {"met": row.met} for row in rows]
    return json.dumps({"machine": facts, "results": results}, indent=2, ensure_ascii=False) + "\n"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    head = ("what", "value", "target", "met", "measured")
    lines = [head, ("---", "--:", "--:", "---", "---"), *(row.words() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """A bar for every ratio that has a target, and a mark where the target is."""
    from matplotlib.figure import Figure

    ratios = [row for row in rows if row.target is not None and not row.unit]
    figure = Figure(figsize=(8, 0.8 + 0.36 * len(ratios)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(ratios), 0, -1)
    colours = ["#2a6f97" if row.met else "#b5651d" for row in ratios]
    axes.barh(places, [row.value for row in ratios], color=colours, height=0.6)
    for place, row in zip(places, ratios, strict=True):
        target = row.target or 0.0
        axes.plot([target, target], [place - 0.4, place + 0.4], color="#222222", linewidth=1.6)
        axes.text(row.value + 0.01, place, f"{row.value:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [row.name for row in ratios], fontsize=8)
    axes.set_xlabel("ratio; the black mark is its target", fontsize=8)
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=150)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    widest = next((flag for flag in ("avx512f", "avx2", "sse4_2") if flag in flags), "")
    return f"{facts.get('model name', platform.processor())} {widest}".strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
