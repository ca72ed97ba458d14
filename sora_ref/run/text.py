"""From texts to batches of token ids: tokenising, truncation, length buckets, microbatches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sora_ref.backends import Backend
from sora_ref.errors import SoRAError
from sora_ref.init import generator
from sora_ref.models import Batch, ModelConfig
from sora_ref.run.data import Example
from sora_ref.run.tokens import encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_AT_ONCE = 4096  # texts whose encodings are held together: each is some kilobytes
_GROUP = 32  # tokens that take as long as reading all weights once more does


class Encoded(NamedTuple):
    """Token sequences without padding, in the order of the examples.

    ids, types: one (length,) int64 array an example;  lengths: (n,);  labels: (n,) int64 or float, None if unlabelled.
    names: what a sentence calls the examples, their ids; none where they have no names.
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...]
    lengths: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> Encoded:
        """These rows, in this order."""
        labels = None if self.labels is None else self.labels[list(rows)]
        ids, types = ([arrays[row] for row in rows] for arrays in (self.ids, self.types))
        names = tuple(self.names[row] for row in rows) if self.names else ()
        return Encoded(tuple(ids), tuple(types), self.lengths[list(rows)], labels, names)


def encode(examples: Sequence[Example], tokenizer: Tokenizer, config: ModelConfig) -> Encoded:
    """Token ids and types of single texts or pairs; SoRAError for an id the model has no embedding of.

    Types are zeros where the model reads none.
    """
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    for first in range(0, len(examples), _AT_ONCE):
        texts = [e.text if e.pair is None else (e.text, e.pair) for e in examples[first : first + _AT_ONCE]]
        encodings = encode_texts(tokenizer, texts)
        ids += (np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings)
        types += (_types(encoding.type_ids, config) for encoding in encodings)
    for name, arrays, size in (("token id", ids, config.vocab_size), ("token type", types, max(config.token_types, 1))):
        if arrays and np.concatenate(arrays).max(initial=0) >= size:
            bad = next(row for row, array in enumerate(arrays) if array.max(initial=0) >= size)
            raise SoRAError(
                f"example {examples[bad].id}: {name} {arrays[bad].max()}: expected below {size}; "
                "the tokeniser belongs to another model"
            )
    labels = [example.label for example in examples]
    known = None if None in labels else np.asarray(labels)
    lengths = np.asarray([len(array) for array in ids], dtype=np.int64)
    return Encoded(tuple(ids), tuple(types), lengths, known, tuple(example.id for example in examples))


def _types(given: Sequence[int], config: ModelConfig) -> np.ndarray:
    return np.asarray(given, dtype=np.int64) if config.token_types else np.zeros(len(given), dtype=np.int64)


def epoch_batches(lengths: np.ndarray, batch: int, bucket_batches: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The optimiser batches of one epoch: every example once, in an order fixed by (seed, epoch) alone.

    Examples are shuffled; within pools of `bucket_batches` batches they are sorted by length, so that a batch needs
    little padding; then the batches are shuffled.  The last one may be short.
    """
    draws = generator(seed, "order", epoch)
    order = np.argsort(draws.random(len(lengths)), kind="stable")
    pool = batch * bucket_batches
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch] for first in range(0, len(rows), batch)]
    return [batches[k] for k in np.argsort(draws.random(len(batches)), kind="stable")]


def microbatches(lengths: np.ndarray, rows: np.ndarray, tokens: int, *, shared: bool = True) -> list[np.ndarray]:
    """Split `rows` into groups of at most `tokens` tokens, padding included, or of one row; the largest groups first.

    Rows are sorted by length and cut where all groups together have the fewest tokens, padding included, a group itself
    counting as `_GROUP` of them.  Where they are to be shared out evenly, none may have many more than an even number
    of equal ones would have.  The split does not depend on how many workers there are.
    """
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    longest = np.maximum(lengths[rows], 1)
    if shared:
        total = int(longest.sum())
        pairs = max(math.ceil(total / (2 * tokens)), 1)
        tokens = min(tokens, total // (2 * pairs) + int(longest.max(initial=1)))
    least = np.zeros(len(rows) + 1)  # cost of the first so many rows, cut at best
    begins = np.zeros(len(rows) + 1, np.int64)  # where the last of their groups begins
    for stop in range(1, len(rows) + 1):
        width = int(longest[stop - 1])
        first = min(max(stop - tokens // width, 0), stop - 1)
        costs = least[first:stop] + np.arange(stop - first, 0, -1) * width
        best = int(np.argmin(costs))
        least[stop], begins[stop] = costs[best] + _GROUP, first + best
    groups, stop = [], len(rows)
    while stop:
        groups.append(rows[begins[stop] : stop])
        stop = int(begins[stop])
    return sorted(groups, key=lambda group: -len(group) * int(lengths[group[-1]]))


def pad(encoded: Encoded, rows: np.ndarray, backend: Backend) -> Batch:
    """The rows as one padded batch on the backend's device; a row without a token gets one that is masked."""
    longest = max(int(encoded.lengths[rows].max(initial=0)), 1)
    ids, types = np.zeros((2, len(rows), longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for place, row in enumerate(rows):
        length = int(encoded.lengths[row])
        ids[place, :length], types[place, :length], mask[place, :length] = encoded.ids[row], encoded.types[row], True
    return Batch(*(backend.from_host(array) for array in (ids, types, mask)))
