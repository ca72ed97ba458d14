"""How many rows something befell, and the first of them."""

from __future__ import annotations

from dataclasses import dataclass, field

_MOST = 5


@dataclass
class Tally:
    """`count` rows, `first` the sentences said of the first five."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """One row more."""
        self.count += 1
        if len(self.first) < _MOST:
            self.first.append(sentence)

    def words(self) -> str:
        """The count and the first sentences."""
        more = self.count - len(self.first)
        return f"{self.count:,} ({'; '.join(self.first)}{f'; and {more:,} more' if more else ''})"
