"""A LoRA in the format it is stored in, and how far that moves its ΔW: a derived bound.

    B' = f·B diag(g)      Â = fl(A)      B̂ = fl(B')      meant: s·B diag(g) A      read: s'·B̂Â,  s' = s/f

Rounding to a format with unit roundoff u and subnormal numbers σ apart gives fl(x) = x(1 + δ) + η, |δ| ≤ u, |η| ≤ σ/2,
so with a = u|A| + σ/2 and b = ū|B'| + σ/2 (0 where the entry is 0, and a = 0 where A keeps its format)

    |s'·B̂Â − s·B diag(g) A| ≤ |s'|·( |B'| a + b (|A| + a) )

which is |s|·(|B'||A|)·((1 + u)² − 1) where nothing underflows.  B', f and s' are formed in float64, in at most eight
roundings; so ū = u + 2⁻⁵⁰.  The bound is evaluated in float64 and inflated by 1 + 2⁻²⁰, which covers that, as in
`sora_ref.bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sora_ref.preconditions import require
from sora_ref.pruning import LoRA
from sora_ref.storage.half import HALVES, Half, rounded

_INFLATION = 1 + 2.0**-20
_FLOAT64 = 2.0**-50


@dataclass(frozen=True)
class Format:
    """What a number is stored in: `float32`, `float64`, `float16` or `bfloat16`; unit u and subnormal spacing σ."""

    name: str
    unit: float
    spacing: float
    half: Half | None

    @property
    def dtype(self) -> str:
        """The dtype of an array that holds such numbers here: a half precision is held in float32."""
        return self.name if self.half is None else "float32"

    def round(self, x: np.ndarray) -> np.ndarray:
        """Every x as the nearest number of the format; ±∞ where it is too large."""
        with np.errstate(over="ignore"):  # the caller refuses what overflows, by name
            return x.astype(self.name) if self.half is None else rounded(x, self.half)


def format_of(name: str) -> Format:
    """The format of that name; SoRAError where there is none."""
    if name in HALVES:
        half = HALVES[name]
        return Format(name, half.unit, half.spacing, half)
    require(name in ("float32", "float64"), f"dtype is {name!r}: expected float64, float32, float16 or bfloat16")
    info = np.finfo(name)
    return Format(name, float(info.eps) / 2, float(info.smallest_subnormal), None)


def stored_lora(module: str, lora: LoRA, form: Format) -> LoRA:
    """The LoRA (float64) in a format; SoRAError, naming module and matrix, where an entry is too large for it."""
    A, B = form.round(lora.A), form.round(lora.B)
    for name, matrix in (("A", A), ("B diag(g)", B)):
        finite = bool(np.isfinite(matrix).all())
        require(finite, f"{module}: {name} is not finite in {form.name}: expected numbers that it can hold")
    return LoRA(A, B, lora.s)


def rounding_bound(lora: LoRA, form: Format, *, keeps_A: bool) -> np.ndarray:
    """Largest distance of each entry of s'·B̂Â from s·B diag(g) A, (out, in) float64; see the module.

    lora:    A (r, in), B' (out, r) in float64, and s', before they are stored.
    keeps_A: whether A was in this format before.
    """
    A, B = np.abs(lora.A), np.abs(lora.B)
    a = np.zeros_like(A) if keeps_A else _rounding(A, form.unit, form.spacing)
    b = _rounding(B, form.unit + _FLOAT64, form.spacing)
    bound: np.ndarray = _INFLATION * abs(lora.s) * (B @ a + b @ (A + a))
    return bound


def _rounding(size: np.ndarray, unit: float, spacing: float) -> np.ndarray:
    """How far rounding may move numbers of this size; σ is taken whole, for half of float64's is no number."""
    return np.where(size > 0, unit * size + spacing, 0.0)
