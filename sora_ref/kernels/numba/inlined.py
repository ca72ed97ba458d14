"""The decorator of scalar functions that become part of the loops of compiled kernels, and two such functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def inlined(function: F) -> F:
    """Have Numba put this function of scalars into every loop that calls it, so that the loop still vectorises.

    Its products and the sums they go into may be rounded once instead of twice (LLVM's "contract"), whatever the caller
    allows; nothing else is reordered.  It is kept on disk as part of its callers.
    """
    make: Any = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
    made: F = make(function)
    return made


@intrinsic
def bits_of(_context: Any, _x: Any) -> Any:
    """The bits of a float32, as an int32."""
    return types.int32(types.float32), _bitcast


@intrinsic
def float_of(_context: Any, _bits: Any) -> Any:
    """The float32 with the bits of this int32."""
    return types.float32(types.int32), _bitcast


def _bitcast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM's bitcast of the one argument to the type of the result."""
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))
