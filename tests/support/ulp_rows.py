"""Rows from which the search for the worst rounding errors starts: sizes, ranges, ties, masks and cancellation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]

SPAN = {"float32": 87.4, "float64": 708.4}  # −ln of the smallest normal number
TOKENS, WIDTH = 3, 2  # of the one attention head
CLASSES = 8


def points(dtype: Any) -> dict[str, Floats]:
    """Numbers of every size and both signs, and [−12, 12] finely."""
    info = np.finfo(dtype)
    sizes = np.exp2(np.arange(np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)), 8))
    grid = np.concatenate([[0.0, 1.0, 88.0, 700.0, float(info.max)], sizes, np.linspace(0, 12, 400)])
    return {"": np.concatenate([grid, -grid]).astype(dtype)[:, None]}


def below_zero(dtype: Any) -> dict[str, Floats]:
    """What softmax gives exp: from the last subnormal result up."""
    last = SPAN[np.dtype(dtype).name] + 38
    return {"": -np.concatenate([np.linspace(0, last, 600), np.exp2(np.arange(-60.0, 0))]).astype(dtype)[:, None]}


def above_one(dtype: Any) -> dict[str, Floats]:
    """What the logarithm of a softmax's total gets: from 1 to the number of classes."""
    near = 1 + np.exp2(np.arange(-52.0, 0))
    return {"": np.concatenate([near, np.linspace(1, CLASSES, 400)]).astype(dtype)[:, None]}


def logits(dtype: Any) -> dict[str, Floats]:
    rng, span = np.random.default_rng(1), SPAN[np.dtype(dtype).name]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    rows = {f"normal × {size:g}": size * rng.standard_normal((24, CLASSES)) for size in (tiny, 1e-4, 1, 10, 88, 700)}
    rows |= {f"range {part:g} of the normal numbers'": -part * span * rng.random((24, CLASSES)) for part in (0.5, 1)}
    rows["one dominates"] = np.repeat([[1.0, 40, 88, 700, 1e4, 1e30]], CLASSES, axis=0).T * np.eye(CLASSES)[0]
    rows["all equal"] = np.repeat([[0.0, tiny, -1, 88, 700, -1e30]], CLASSES, axis=0).T
    rows["normal + 1e3"] = 1e3 + rng.standard_normal((24, CLASSES))
    rows["one class"] = np.array([[0.0], [-700.0]])
    return {name: values.astype(dtype) for name, values in rows.items()}


def scores(dtype: Any) -> dict[str, Floats]:
    rng = np.random.default_rng(2)
    masked = np.where(rng.random((24, CLASSES)) < 0.5, -math.inf, 5 * rng.standard_normal((24, CLASSES)))
    long = 3 * rng.standard_normal((4, 512))
    more = {"masked": masked, "nothing seen": np.full((2, CLASSES), -math.inf), "512 entries": long}
    return logits(dtype) | {name: values.astype(dtype) for name, values in more.items()}


def norm_rows(dtype: Any) -> dict[str, Floats]:
    """x, weight, bias and dy side by side."""
    rng = np.random.default_rng(3)
    tiny, huge = float(np.finfo(dtype).smallest_subnormal), float(np.finfo(dtype).max) ** 0.45

    def rows(n: int, d: int, size: float, offset: float = 0.0) -> Floats:
        parts = (offset + size * rng.standard_normal((n, d)), *(rng.standard_normal((n, d)) for _ in range(3)))
        return np.concatenate(parts, axis=1).astype(dtype)

    sizes = {f"normal × {size:.3g}, d = 6": rows(8, 6, size) for size in (16 * tiny, 1e-6, 1, 30, huge)}
    sizes |= {f"normal + {offset:g}, d = 6": rows(8, 6, 1, offset) for offset in (1, 30, 1e3)}
    sizes |= {f"constant {value:.3g}, d = 6": rows(4, 6, 0, value) for value in (0, 0.1, -3, huge)}
    sizes["one dominates, d = 6"] = rows(8, 6, 1)
    sizes["one dominates, d = 6"][:, 0] = 1e6
    return sizes | {"d = 1": rows(8, 1, 1), "d = 768": rows(1, 768, 1), "normal + 30, d = 768": rows(1, 768, 1, 30)}


def heads(dtype: Any) -> dict[str, Floats]:
    """q, k, v and dy side by side, then the mask as signs."""
    rng, cells = np.random.default_rng(4), TOKENS * WIDTH
    masks = {"": [1, 1, 1], ", a key masked": [1, -1, 1], ", all masked": [-1, -1, -1]}
    tiny = 64 * float(np.finfo(dtype).smallest_subnormal)
    found = {}
    for name, (qk, vdy) in {
        "normal": (1.0, 1.0), "scores to 100": (6.0, 1.0), "scores to 1e4": (60.0, 1e3), "scores near 0": (1e-3, 1e-3),
        "v subnormal": (1.0, tiny),
    }.items():  # fmt: skip
        for mask, signs in masks.items():
            n = 16 if signs[0] > 0 else 2
            sizes = np.repeat([qk, qk, vdy, 1.0 if vdy == tiny else vdy], cells)
            rows = np.concatenate([sizes * rng.standard_normal((n, 4 * cells)), np.tile(signs, (n, 1))], axis=1)
            found[name + mask] = rows.astype(dtype)
    return found
