"""What a mistake is: a wrong implementation, and the check that has to refuse it; and the list that collects them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sora_ref.conformance.museum.baseline import PlainSoRA
from sora_ref.conformance.museum.baselines import BASELINES

Wrong = TypeVar("Wrong", bound=type[PlainSoRA])


@dataclass(frozen=True)
class Mistake:
    """One small change to a right implementation.

    implementation:    the wrong implementation; the first line of its docstring says what goes wrong.
    refused_by: the id of the check, or of the clause, that has to be the first in the list to fail.
    seen:       where it is found in the wild, or nothing.
    """

    implementation: type[PlainSoRA]
    refused_by: str
    seen: str

    @property
    def name(self) -> str:
        """The class's name in words: "bias lost"."""
        return _in_words(self.implementation.__name__)

    @property
    def says(self) -> str:
        """What goes wrong, in one sentence."""
        return (self.implementation.__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()

    @property
    def theme(self) -> str:
        """The theme of the mistake: the name of its module."""
        return self.implementation.__module__.rpartition(".")[2]

    @property
    def base(self) -> type[PlainSoRA]:
        """The right implementation that it is a change of."""
        return next(kind for kind in self.implementation.__mro__ if kind in BASELINES)

    @property
    def changed(self) -> frozenset[str]:
        """The names that it defines anew or adds: the one method, and helpers of that method."""
        kinds = self.implementation.__mro__[: self.implementation.__mro__.index(self.base)]
        return frozenset(name for kind in kinds for name in vars(kind) if not name.startswith("__")) - {"name"}


_FOUND: list[Mistake] = []


def mistake(refused_by: str, *, seen: str = "") -> Callable[[Wrong], Wrong]:
    """Put a class into the museum."""

    def collect(implementation: Wrong) -> Wrong:
        found = Mistake(implementation, refused_by, seen)
        implementation.name = found.name
        _FOUND.append(found)
        return implementation

    return collect


def collected() -> tuple[Mistake, ...]:
    """Every mistake whose module has been imported."""
    return tuple(_FOUND)


def _in_words(name: str) -> str:
    as_in_formulas = {"A": "A", "B": "B", "Da": "dA", "Db": "dB"}
    return " ".join(as_in_formulas.get(word, word.lower()) for word in re.findall(r"[A-Z][a-z0-9]*", name))
