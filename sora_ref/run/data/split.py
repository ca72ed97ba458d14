"""Splits drawn by text: rows whose texts differ only in case or spacing stay together, so no test text was trained on.

A split depends on the seed and the rows alone.  The keys are the raw output of Philox seeded by a child of
`SeedSequence(seed)`, which NumPy keeps the same across versions, as it does not `permutation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sora_ref.errors import SoRAError
from sora_ref.run.data.task import Example

_PURPOSE = 2014
_SHARE = 10  # one text in so many is held out


def same_text(example: Example) -> str:
    """The same for examples whose texts differ only in case or spacing."""
    texts = (example.text,) if example.pair is None else (example.text, example.pair)
    return "\0".join(" ".join(text.casefold().split()) for text in texts)


def split_by_text(examples: Sequence[Example], seed: int) -> dict[str, tuple[Example, ...]]:
    """Part examples into `train`, `validation` and `test`, equal texts together, in a shuffled order.

    Of n distinct texts, in the order of a 64-bit random key drawn for each in turn of first appearance, the first
    ⌊n/5⌋ are test, the next ⌊(n − ⌊n/5⌋)/10⌋ validation, the rest train.

    Raises `SoRAError` for a negative seed.
    """
    groups = _groups(examples)
    order = _order(len(groups), seed)
    tests = len(groups) // 5
    held_out = tests + (len(groups) - tests) // _SHARE
    places = {"train": order[held_out:], "validation": order[tests:held_out], "test": order[:tests]}
    return {split: tuple(examples[row] for group in part for row in groups[group]) for split, part in places.items()}


def hold_out(examples: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Part examples into train and validation, equal texts together, each in the order it had.

    Of n distinct texts, in the order of keys drawn as for `split_by_text`, the first ⌊n/10⌋ are validation.
    """
    groups = _groups(examples)
    chosen = {row for group in _order(len(groups), seed)[: len(groups) // _SHARE] for row in groups[group]}
    parts: tuple[list[Example], list[Example]] = ([], [])
    for row, example in enumerate(examples):
        parts[row in chosen].append(example)
    return tuple(parts[0]), tuple(parts[1])


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """The rows of each distinct text, in turn of first appearance."""
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        groups.setdefault(same_text(example), []).append(row)
    return list(groups.values())


def _order(count: int, seed: int) -> np.ndarray:
    if seed < 0:
        raise SoRAError(f"the seed is {seed}: expected a whole number from 0 on")
    keys = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_PURPOSE,))).random_raw(count)
    return np.argsort(keys, kind="stable")
