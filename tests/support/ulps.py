"""Layers measured against mpmath in ulps, and whole models against themselves in float64: distances, no derived bounds.

An ulp of a scale s in a dtype of p bits is 2^(⌊log₂ s⌋ − p + 1), at least the smallest subnormal: the spacing of the
numbers at s.  Where a value v is free of cancellation the scale is |v|; elsewhere relative error means nothing, and the
scale is the magnitude of what cancels, named in the table (`ulp_operations` says how ceilings follow).  Errors are
those of the whole function on its exact inputs; an infinite result is right where |v| is out of range.

The worst errors are searched on grids and by climbing from them with a fixed seed: lower bounds of the true worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from mp_layers import MP
from tiny_bert import Case, make_case, relative
from ulp_operations import DTYPES, OPERATIONS, Floats, Operation, Quantity


@dataclass(frozen=True)
class Record:
    """The worst error found of a quantity in a dtype, in ulps of its scale, and for which row."""

    name: str
    dtype: str
    ulps: float
    quantity: Quantity
    where: str

    @property
    def ceiling(self) -> float:
        return self.quantity.ceiling[self.dtype]


# The measure, and the search for the worst.


@cache
def _format(dtype: str) -> tuple[int, int, float]:
    """Bits of the significand, exponent of the smallest subnormal, and the largest number."""
    info = np.finfo(dtype)
    return int(info.nmant) + 1, round(math.log2(float(info.smallest_subnormal))), float(info.max)


def ulp(scale: Any, dtype: Any) -> Any:
    """The spacing of the numbers of `dtype` at |scale|."""
    digits, least, _ = _format(str(dtype))
    exponent = scale.exp + scale.bc - digits if scale else least
    return MP.ldexp(1, max(exponent, least))


def error(found: Any, value: Any, scale: Any, dtype: Any) -> float:
    """|found − value| in ulps of the scale."""
    if scale is None:
        return 0.0
    if not np.isfinite(found):
        beyond = np.isinf(found) and MP.sign(value) * float(found) > 0 and abs(value) > _format(str(dtype))[2]
        return 0.0 if beyond else math.inf
    return float(abs(MP.mpf(float(found)) - value) / ulp(scale, dtype))


def errors(operation: Operation, rows: Floats) -> dict[str, Floats]:
    """Of each row, the largest error of each quantity."""
    with np.errstate(all="ignore"):
        found = operation.compute(rows)
    exact = [operation.exact([MP.mpf(float(x)) for x in row]) for row in rows]

    def worst(name: str, row: int) -> float:
        values, scales = exact[row][name]
        return max(error(*each, rows.dtype) for each in zip(found[name][row], values, scales, strict=True))

    return {name: np.array([worst(name, row) for row in range(len(rows))]) for name in operation.quantities}


def measured(operation: Operation, dtype: str, rounds: int = 4, best: int = 2, children: int = 10) -> list[Record]:
    """The worst of the starts, and of what descends from the worst starts by random changes, fine and coarse."""
    rng = np.random.default_rng(0)
    worst = {name: (-1.0, "", np.zeros(0, dtype)) for name in operation.quantities}
    seen: dict[str, list[tuple[float, str, Floats]]] = {name: [] for name in operation.quantities}

    def look(label: str, rows: Floats) -> None:
        for name, sizes in errors(operation, rows).items():
            order = np.argsort(-sizes, kind="stable")[:best]
            seen[name] = sorted([*seen[name], *((float(sizes[i]), label, rows[i]) for i in order)], key=lambda s: -s[0])
            worst[name] = max(worst[name], seen[name][0], key=lambda s: s[0])
            seen[name] = [s for s in seen[name] if s[2].size <= 32][:best]

    for label, rows in operation.starts(dtype).items():
        look(label, rows)
    for _ in range(rounds):
        for _, label, row in [parent for name in worst for parent in seen[name]]:
            change = rng.standard_normal((children, row.size)) * np.exp2(rng.uniform(-20, 0, (children, 1)))
            with np.errstate(all="ignore"):
                rows = (row * (1 + change)).astype(dtype)
            look(label if "climbed" in label or not label else f"{label}, climbed", rows)
    return [
        Record(name, dtype, size, operation.quantities[name], label or f"x = {float(row[0]):.9g}")
        for name, (size, label, row) in worst.items()
    ]


@cache
def measure() -> tuple[Record, ...]:
    """Every quantity in both dtypes."""
    return tuple(r for operation in OPERATIONS.values() for dtype in DTYPES for r in measured(operation, dtype))


def table() -> str:
    """The records in Markdown."""
    heads = ("operation", "dtype", "worst found, ulps", "of", "ceiling", "where found", "why the ceiling")
    rows = (
        (r.name, r.dtype, f"{r.ulps:.2f}", r.quantity.scale, f"{r.ceiling:.1f}", r.where, r.quantity.reason)
        for r in measure()
    )
    return _markdown(heads, rows)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# Whole models: no bound is derived; the distance of float32 to the same network in float64 is all that is known.

MODEL_CEILING = {"results": 7.0, "gradients": 105.0}
"""Of float32's distance, in u·depth; measured over `model_cases`, 1.7 and 26, times a reserve of 4.  Gradients lie
higher, gates' most of all: they are sums over tokens of terms that cancel, and are compared with what is left."""


@cache
def model_cases() -> tuple[Case, ...]:
    """Two-layer BERTs with SoRA on every linear layer, under both heads, with padding."""
    return tuple(make_case(seed, head=head, lengths=(6, 4, 1)) for head in ("cls", "mean") for seed in range(12))


def depth(case: Case) -> int:
    """Embeddings, attention and feed-forward of each layer, head: what a rounding error passes through in a row."""
    return 2 * case.model.config.num_hidden_layers + 2


def model_distances(case: Case, found: Mapping[str, Floats] | None = None) -> dict[str, float]:
    """Per tensor, float32's (or `found`'s) largest distance to float64, relative to its largest entry, in u·depth."""
    gaps = relative(case.results("float32") if found is None else found, case.results())
    return {name: gap / (2.0**-24 * depth(case)) for name, gap in gaps.items()}


def model_ceiling(name: str) -> float:
    return MODEL_CEILING["results" if name in ("logits", "loss") else "gradients"]


@cache
def measure_models() -> dict[str, float]:
    """Per tensor, the worst distance over `model_cases`."""
    every = [model_distances(case) for case in model_cases()]
    return {name: max(found.get(name, 0) for found in every) for name in every[0] | every[-1]}


def model_table() -> str:
    """The worst distances in Markdown, in u·depth: logits, loss, and gradients by tensor and layer."""
    cells: dict[str, dict[str, str]] = {}
    for name, size in measure_models().items():
        layer, _, rest = (
            name.removeprefix("encoder.layer.").partition(".") if name.startswith("encoder") else ("", "", name)
        )
        cells.setdefault(rest, {})[layer] = f"{size:.2f}"
    rows = (
        [name, *(found.get(layer, "") for layer in ("", "0", "1")), f"{model_ceiling(name):g}"]
        for name, found in cells.items()
    )
    return _markdown(("tensor", "distance", "in layer 0", "in layer 1", "ceiling"), rows)
