"""A refusal: the result, the result that the clause expects, the input, and the mistake that would explain it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


class Refusal(AssertionError):  # noqa: N818 - a verdict on an implementation, and no error of ours
    """What a check raises where the implementation departs from the clause.

    sentence: what is wrong.
    expected, got, bound: the values at one entry and how far apart they may be, where numbers are compared.
    case:     the arguments by name, filled in by the runner.
    guesses:  descriptions of mistakes that would give this result.
    """

    def __init__(
        self,
        sentence: str,
        *,
        quantity: str = "",
        expected: Any = None,
        got: Any = None,
        bound: float | None = None,
        guesses: tuple[str, ...] = (),
    ) -> None:
        super().__init__(sentence)
        self.sentence, self.quantity = sentence, quantity
        self.expected, self.got, self.bound, self.guesses = expected, got, bound, tuple(filter(None, guesses))
        self.case: dict[str, Any] = {}

    @property
    def likely(self) -> str:
        """The guesses in words; empty where there are none."""
        return ", or ".join(self.guesses[:2])

    def narrow(self, others: Iterable[Refusal]) -> None:
        """Keep the guesses that fit all counterexamples; many guesses fit a small one alone."""
        for other in others:
            if other.quantity == self.quantity:
                self.guesses = tuple(guess for guess in self.guesses if guess in other.guesses)


def shown(value: Any) -> str:
    """A value of a case in one line, short and exact: arrays as nested lists of numbers."""
    if isinstance(value, np.ndarray):
        return _listed(value.tolist())
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ", ".join(f"{name} = {shown(part)}" for name, part in zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {shown(part)}" for name, part in value.items()) + "}"
    return str(value)


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_listed(part) for part in value) + "]"
    return _number(value)


def _number(value: Any) -> str:
    return repr(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 else repr(value)
