"""Dropout masks, each a function of (seed, step, example, site): the same however a batch is split or resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sora_ref.backends import Array
from sora_ref.init import generator
from sora_ref.preconditions import require


@dataclass(frozen=True)
class Dropout:
    """The masks of one microbatch in training, drawn by key (SORA-INIT-1).

    hidden, attention, adapter: drop probabilities of BERT's two kinds of site and of the adapters' input.
    examples: the examples' ids in the data set, keys of their draws;  lengths: their tokens without padding.
    from_host: NumPy array -> array on the device of the computation.
    """

    seed: int
    step: int
    hidden: float
    attention: float
    adapter: float
    examples: Sequence[int]
    lengths: Sequence[int]
    from_host: Callable[[np.ndarray], Array]

    def __post_init__(self) -> None:
        for site in ("hidden", "attention", "adapter"):
            p = getattr(self, site)
            require(0 <= p < 1, f"{site} dropout is {p}: expected 0 <= p < 1")

    @property
    def _padded(self) -> int:
        """Tokens of the padded batch: those of its longest row, at least one."""
        return max(*self.lengths, 1) if self.lengths else 1

    def rows(self, site: str, width: int, p: float) -> Array | None:
        """Keep-mask (b, t, width) with probability 1 − p; None where p is 0.  Padding is kept."""
        return self._masks(site, p, lambda n: (n, width), (self._padded, width))

    def square(self, site: str, heads: int, p: float) -> Array | None:
        """Keep-mask (b, heads, t, t), likewise."""
        return self._masks(site, p, lambda n: (heads, n, n), (heads, self._padded, self._padded))

    def vector(self, site: str, width: int, p: float) -> Array | None:
        """Keep-mask (b, width), likewise."""
        return self._masks(site, p, lambda n: (width,), (width,))

    def _masks(
        self, site: str, p: float, shape: Callable[[int], tuple[int, ...]], padded: tuple[int, ...]
    ) -> Array | None:
        if p == 0:
            return None
        keep = np.ones((len(self.examples), *padded), dtype=bool)
        for row, (example, length) in enumerate(zip(self.examples, self.lengths, strict=True)):
            own = shape(length)
            draws = generator(self.seed, "dropout", site, self.step, example).random(own, dtype=np.float32)
            keep[row][tuple(slice(n) for n in own)] = draws >= p
        return self.from_host(keep)
