"""Labels in the terms of a trained run: by its own class names, whatever number today's file would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sora_ref.errors import shown
from sora_ref.preconditions import require
from sora_ref.run.data.labels import UNKNOWN, some
from sora_ref.run.data.tally import Tally
from sora_ref.run.data.task import Example, Kind


@dataclass(frozen=True)
class Labels:
    """What the outputs mean: the kind of task, its class names, the metrics that judge it."""

    kind: Kind
    names: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.names) if self.kind == "classification" else 1


def require_kind(where: str, kind: Kind, labels: Labels) -> None:
    """SoRAError, beginning with `where`, unless the data are of the kind that the run was trained on."""
    words = {"classification": "classes", "regression": "numbers"}
    expected = f"has {words[kind]} for labels, and the run was trained on {words[labels.kind]}"
    require(kind == labels.kind, f"{where} {expected}: expected the same kind of labels")


def relabelled(
    where: str, examples: Sequence[Example], names: tuple[str, ...], labels: Labels
) -> tuple[tuple[Example, ...], Tally]:
    """Class indices into `names` as indices into the run's own class names; `UNKNOWN`, and tallied, where it is none.

    Raises SoRAError, beginning with `where`, where there are labels and the run knows none of them.
    """
    unknown = Tally()
    if names == labels.names:
        return tuple(examples), unknown
    at = {name: index for index, name in enumerate(labels.names)}
    found: list[Example] = []
    for example in examples:
        index = None if example.label is None else at.get(names[int(example.label)], UNKNOWN)
        if index == UNKNOWN and example.label is not None:
            unknown.add(f"{example.id}: {shown(names[int(example.label)])}")
        found.append(Example(example.id, example.text, example.pair, index))
    labelled = sum(example.label is not None for example in examples)
    met = [name for name in names if name not in at]
    require(
        not labelled or unknown.count < labelled,
        f"{where} has the labels {some(met)}: these are not the classes the run was trained on, {some(labels.names)}",
    )
    return tuple(found), unknown
