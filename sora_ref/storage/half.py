"""float16 and bfloat16, by arithmetic: what a number becomes in a format with so many bits, and its 16 bits.

A finite x with 2^(e−1) ≤ |x| < 2^e lies among numbers that are 2^(max(e, e_min + 1) − p) apart, p being the bits of
the significand; x goes to the nearest of them, a tie to the even one (IEEE 754).  All of it is exact in float64, but
for that one rounding, so nothing is rounded twice, as a detour by float32 would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True)
class Half:
    """A format of 16 bits.

    stored:     its name in a safetensors header.
    significand, e_min: bits of the significand, with the hidden one; the exponent of the smallest normal number.
    """

    name: str
    stored: str
    significand: int
    e_min: int

    @property
    def unit(self) -> float:
        """u: the largest relative error of rounding to a normal number."""
        return 2.0**-self.significand

    @property
    def spacing(self) -> float:
        """The distance of two subnormal numbers; rounding to one is off by half of it at most."""
        return 2.0 ** (self.e_min + 1 - self.significand)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2 - 2.0 ** (1 - self.significand)) * 2.0 ** (1 - self.e_min)


HALVES: Mapping[str, Half] = MappingProxyType(
    {half.name: half for half in (Half("float16", "F16", 11, -14), Half("bfloat16", "BF16", 8, -126))}
)


def rounded(x: np.ndarray, half: Half) -> np.ndarray:
    """Every x (float32 or float64) as the nearest number of the format, as float32; what is too large is ±∞."""
    wide = np.asarray(x, dtype=np.float64)
    _, exponent = np.frexp(wide)
    lowest = np.maximum(exponent, half.e_min + 1) - half.significand  # the place of the last bit
    with np.errstate(over="ignore"):  # what float64 cannot hold, the format cannot either
        nearest = np.ldexp(np.rint(np.ldexp(wide, -lowest)), lowest)
    beyond = np.abs(nearest) > half.largest
    return np.where(beyond, np.copysign(np.inf, wide), nearest).astype(np.float32)


def words(x: np.ndarray, half: Half) -> np.ndarray:
    """Numbers of the format (as `rounded` gives them) as its words of 16 bits, in C order."""
    if half.name == "float16":
        return np.ascontiguousarray(x, dtype=np.float16).view(np.uint16)
    wide = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return (wide >> 16).astype(np.uint16)  # bfloat16 is the upper half of a float32
