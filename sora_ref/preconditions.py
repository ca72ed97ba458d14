"""Preconditions, each failing with one sentence: what, where, what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sora_ref.backends import Array
from sora_ref.errors import SoRAError


def require(condition: bool, sentence: str) -> None:
    """SoRAError with this sentence unless the condition holds."""
    if not condition:
        raise SoRAError(sentence)


def require_shape(name: str, x: Array, expected: Sequence[int]) -> None:
    """SoRAError unless ``x.shape == expected``."""
    require(tuple(x.shape) == tuple(expected), f"{name} has shape {tuple(x.shape)}: expected {tuple(expected)}")


def require_one_dtype(arrays: Mapping[str, Array | None]) -> None:
    """SoRAError unless all the arrays present share a dtype: mixing f32 with f64 promotes silently."""
    dtypes = {name: x.dtype for name, x in arrays.items() if x is not None}
    if len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise SoRAError(f"mixed dtypes ({listed}): expected one dtype for all")


def require_finite_number(name: str, value: Any, *, least: float | None = None) -> None:
    """SoRAError unless `value` is a finite Python number, and at least `least` where that is given.

    A NumPy scalar is refused: a float64 one would promote float32 arrays without a word.
    """
    require(not hasattr(value, "dtype"), f"{name} is a scalar array {value!r}: expected a Python number, without dtype")
    require(abs(value) < math.inf, f"{name} is {value}: expected a finite number")
    if least is not None:
        require(value >= least, f"{name} is {value}: expected at least {least}")
