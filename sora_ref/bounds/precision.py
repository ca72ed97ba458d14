"""An arithmetic in the few numbers that a rounding bound asks of it (clauses SORA-BOUND-1 and SORA-BOUND-5)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Precision:
    """An arithmetic: what one operation, one matrix product's input and one stored result may lose (SORA-BOUND-5).

    unit, spacing, largest:          of every operation: relative error u, absolute error ω = spacing/2 where it
                                     underflows, and the largest number that can be its result.
    unit_in, spacing_in, largest_in: of rounding an input of a matrix product; 0, 0 and ∞ where inputs stay as they are.
    unit_out, spacing_out:           of rounding a result to be stored, beyond that of its last operation.

    The spacing is that of the subnormal numbers (ω itself is no float64); twice the smallest normal number where
    results that underflow are flushed to zero.

    >>> sr.bounds.BF16.unit_in, sr.bounds.BF16.stored().name
    (0.00390625, 'bf16, stored')
    """

    name: str
    unit: float
    spacing: float
    largest: float
    unit_in: float = 0.0
    spacing_in: float = 0.0
    largest_in: float = math.inf
    unit_out: float = 0.0
    spacing_out: float = 0.0

    def stored(self) -> Precision:
        """This precision with every result rounded to the format of the inputs when it is stored, as pure bf16 does."""
        return dataclasses.replace(
            self,
            name=f"{self.name}, stored",
            largest=min(self.largest, self.largest_in),
            unit_out=self.unit_in,
            spacing_out=self.spacing_in,
        )


def precision_of(x: Array) -> Precision:
    """The arithmetic of x's own dtype, with gradual underflow.

    >>> sr.bounds.precision_of(np.ones(1, "float32")).unit == 2.0**-24
    True
    """
    info = backends.float_info(x)
    return Precision(str(x.dtype), info.eps / 2, info.smallest_subnormal, info.max)


# Matrix units that round their inputs and accumulate in float32.  Their sums truncate and align, so u is declared 2⁻²²
# and not 2⁻²⁴ (Fasi, Higham, Mikaitis & Pranesh 2021; Blanchard et al. 2020); what is below 2⁻¹²⁶ may be flushed.
_MATRIX_UNIT = Precision("float32 accumulation", unit=2.0**-22, spacing=2.0**-125, largest=(2 - 2.0**-23) * 2.0**127)
TF32 = dataclasses.replace(_MATRIX_UNIT, name="tf32", unit_in=2.0**-11, spacing_in=2.0**-125)
"""Inputs of matrix products rounded to 11 bits with the exponents of float32, sums in float32 (SORA-BOUND-5)."""

BF16 = dataclasses.replace(_MATRIX_UNIT, name="bf16", unit_in=2.0**-8, spacing_in=2.0**-125)
"""Inputs of matrix products rounded to 8 bits with the exponents of float32, sums in float32 (SORA-BOUND-5)."""

FP16 = dataclasses.replace(_MATRIX_UNIT, name="fp16", unit_in=2.0**-11, spacing_in=2.0**-24, largest_in=65504.0)
"""Inputs of matrix products rounded to IEEE half precision, sums in float32 (SORA-BOUND-5)."""


def gamma(n: int, u: float) -> float:
    """γ_n = n·u/(1 − n·u); SoRAError where n·u ≥ 1 and no bound holds (SORA-BOUND-1).

    >>> sr.bounds.gamma(2, 0.25)
    1.0
    """
    require(n * u < 1, f"relative errors add up to {n * u}: expected less than 1, beyond which no bound holds")
    return n * u / (1 - n * u)
