"""Rational arithmetic: NumPy object arrays of `Rational`, for whatever of the specification needs no root and no exp.

The linear map, its backward, the proximal steps, pruning, merging and SGD are rational functions of their arguments, so
here they are computed without any rounding, and tests compare with `==`.  A float that strays into an exact array
raises TypeError at the operation where it does, or at the latest when the array comes back to the host.  (NumPy fills
arrays with the int 0, and an int over an int is a float: so 0/2 among rationals is refused too.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from numbers import Number
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from sora_ref.backends import Array, Backend


class Rational(Fraction):
    """A Fraction that never leaves the rationals: meeting a float raises TypeError, where Fraction gives a float."""

    __slots__ = ()


def _exactly(name: str) -> Callable[..., Any]:
    """Fraction's operator of this name, confined to the rationals."""
    operate = getattr(Fraction, name)

    def operator(self: Rational, *others: Any) -> Any:
        for other in others:
            if type(other) is not Rational and not isinstance(other, (int, Fraction)):
                if isinstance(other, Number):
                    raise TypeError(f"{other!r} met exact arithmetic in {name}: expected a rational number")
                return NotImplemented  # an array: NumPy goes through its elements
        result = operate(self, *others)
        if type(result) is not Fraction:
            if isinstance(result, Fraction):
                return Rational(result)
            raise TypeError(f"{name} of {self} and {others} is irrational: expected a rational result")
        result.__class__ = (
            Rational  # a new number of Fraction's; its slots are the same, and making another takes longer
        )
        return result

    return operator


_ARITHMETIC = ("add", "sub", "mul", "truediv", "pow")
for _name in (*_ARITHMETIC, *(f"r{_name}" for _name in _ARITHMETIC), "neg", "pos", "abs"):
    setattr(Rational, f"__{_name}__", _exactly(f"__{_name}__"))


def _from_host(x: np.ndarray) -> Array:
    """Every finite float of a float array is a rational; masks and indices stay as they are.

    Among objects a float is refused: it is no rational that was meant, but one that strayed.
    """
    if x.dtype.kind in "bi":
        return x
    values = x.ravel().tolist()
    if x.dtype.kind == "O":
        _require_rational(values)
    exact = np.empty(x.shape, object)
    exact.ravel()[:] = [Rational(value) for value in values]
    return exact


def _to_host(x: Array) -> np.ndarray:
    values: np.ndarray = np.asarray(x)  # NumPy gives a sum of objects, which is 0-d, as the object itself
    _require_rational(values.ravel().tolist())
    return values


def _require_rational(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, int | Fraction):
            raise TypeError(f"{value!r} crept into an exact array: expected rational numbers")


def _no_erf(x: Array) -> Array:
    raise TypeError("erf is no rational function: expected a floating-point backend")


def _scatter_add(rows: int, ids: Array, updates: Array) -> Array:
    out = np.full((rows, updates.shape[1]), Rational(0))
    np.add.at(out, ids, updates)
    return out


BACKEND = Backend(
    name="exact",
    xp=xp,
    from_host=_from_host,
    to_host=_to_host,
    erf=_no_erf,
    scatter_add=_scatter_add,
    shares_memory=np.may_share_memory,
)
