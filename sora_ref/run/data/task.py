"""What a data reader hands over: examples, and a task made of splits of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sora_ref.errors import SoRAError
from sora_ref.run.data.labels import some

Kind = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or a pair of texts, with its label: a class index, a real number, or None where it has none.

    `id` is unique within its split.  A class index of -1, `labels.UNKNOWN`, is a label that is none of the classes;
    only what is scored by the classes of a run has any.
    """

    id: str
    text: str
    pair: str | None
    label: int | float | None


@dataclass(frozen=True)
class Task:
    """Named splits of examples, and how predictions on them are judged.

    `labels` are the class names in the order of the class indices, empty for regression; the first of `metrics`
    selects the model; `source` is the data's licence and citation in a sentence or two; `notes` say what was done
    to the data on the way, a split drawn or rows skipped.

    Raises `SoRAError` for a classification of fewer than two classes and for a split without examples.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: Mapping[str, tuple[Example, ...]]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "classification" and len(self.labels) < 2:
            found = f"has the one label {some(self.labels)}" if self.labels else "has no labels"
            raise SoRAError(f"task {self.name} {found}: expected at least two classes")
        for split, examples in self.splits.items():
            if not examples:
                raise SoRAError(f"task {self.name} has no examples in its split {split}: expected at least one")
