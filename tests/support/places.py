"""The same elements at many places in memory: whatever works element by element must not care."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
BLOCK = 65_536  # elements that a kernel takes at a time, at most


def read_only(x: Floats) -> Floats:
    x = x.copy()
    x.flags.writeable = False
    return x


PLACES: Mapping[str, Callable[[Floats], Floats]] = {
    "transposed": lambda x: x.T,
    "column by column": np.asfortranarray,
    "every second": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1],
    "the first columns": lambda x: x[:, :3],
    "a column": lambda x: x[:, 2],
    "three axes": lambda x: np.moveaxis(np.stack([x, -x]), 0, 2),
    "broadcast": lambda x: np.broadcast_to(x[0], (4, *x[0].shape)),
    "not to be written": read_only,
    "empty": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "a number": lambda x: x[0, 0, ...],
    "more than a block": lambda x: np.resize(x, (3, BLOCK)),
}


def check_places(forward: Callable[[Floats], tuple[Floats, Floats]], place: str, dtype: str) -> None:
    """The results of x depend on its values alone, and x stays as it is."""
    x = PLACES[place](np.linspace(-3, 3, 20, dtype=dtype).reshape(4, 5))
    before = x.copy()
    whole = np.ascontiguousarray(x).reshape(x.shape)
    for found, expected in zip(forward(x), forward(whole), strict=True):
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(x, before)


def check_nan(forward: Callable[[Floats], tuple[Floats, Floats]], where: int) -> None:
    """A NaN gives NaN, and changes nothing beside it."""
    x = np.array([0.5, -0.25, 3.0], np.float32)
    x[where] = np.nan
    for part, clean in zip(forward(x), forward(np.nan_to_num(x)), strict=True):
        assert np.isnan(part[where])
        others = np.arange(3) != where
        assert part[others].tolist() == clean[others].tolist()
