"""From texts to batches: what is in them, in which order, and how long they are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import CONFIG, VOCABULARY, write_model, write_tokenizer

from sora_ref.backends import get
from sora_ref.errors import SoRAError
from sora_ref.run.data import Example
from sora_ref.run.text import Encoded, encode, epoch_batches, microbatches, pad
from sora_ref.run.tokens import load_tokenizer

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 99)
WORDS = st.lists(st.sampled_from(VOCABULARY[4:]), max_size=12)
ID = {word: place for place, word in enumerate(VOCABULARY)}
CLS, SEP, UNKNOWN = ID["[CLS]"], ID["[SEP]"], ID["[UNK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("text") / "tiny")


def example(text: str, pair: str | None = None, label: Any = None) -> Example:
    return Example("x", text, pair, label)


def one(folder: Path, max_length: int, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
    found = encode([example(text, pair)], load_tokenizer(folder, max_length), CONFIG)
    return found.ids[0].tolist(), found.types[0].tolist()


def ids(words: list[str]) -> list[int]:
    return [ID[word] for word in words]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return [rows.tolist() for rows in a] == [rows.tolist() for rows in b]


@given(lengths=LENGTHS, batch=st.integers(1, 9), pool=st.integers(1, 4), seed=SEEDS, epoch=st.integers(0, 5))
def test_an_epoch_has_every_example_exactly_once_in_batches_of_the_size_asked_for(
    lengths: np.ndarray, batch: int, pool: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(lengths, batch, pool, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch)
    short = [len(rows) for rows in batches if len(rows) != batch]
    assert short == ([len(lengths) % batch] if len(lengths) % batch else [])


@given(lengths=LENGTHS, seed=SEEDS, epoch=st.integers(0, 5))
def test_order_is_a_function_of_seed_and_epoch(lengths: np.ndarray, seed: int, epoch: int) -> None:
    first = epoch_batches(lengths, 4, 2, seed, epoch)
    np.random.default_rng(0).random(7)  # some other draws
    epoch_batches(lengths, 4, 2, seed, epoch + 1)
    assert same(first, epoch_batches(lengths, 4, 2, seed, epoch))


def test_other_seeds_and_other_epochs_have_other_orders() -> None:
    lengths = np.full(40, 5)
    orders = [epoch_batches(lengths, 4, 2, seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({str([rows.tolist() for rows in order]) for order in orders}) == 16


@given(lengths=LENGTHS, seed=SEEDS)
def test_a_pool_of_batches_is_sorted_by_length(lengths: np.ndarray, seed: int) -> None:
    """One pool for all: put in order of their lengths, the batches do not overlap."""
    batches = sorted(
        epoch_batches(lengths, 4, 99, seed, 0), key=lambda rows: (lengths[rows].min(), lengths[rows].max())
    )
    for before, after in itertools.pairwise(batches):
        assert lengths[before].max() <= lengths[after].min()


@given(lengths=LENGTHS, tokens=st.integers(1, 80), data=st.data())
def test_microbatches_partition_the_rows_within_the_budget(
    lengths: np.ndarray, tokens: int, data: st.DataObject
) -> None:
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)), dtype=int)
    parts = microbatches(lengths, rows, tokens)
    assert Counter(row for part in parts for row in part.tolist()) == Counter(rows.tolist())
    for part in parts:
        assert len(part) >= 1
        assert len(part) == 1 or len(part) * lengths[part].max() <= tokens
    sizes = [len(part) * int(lengths[part].max()) for part in parts]
    assert sizes == sorted(sizes, reverse=True)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7).map(np.array), tokens=st.integers(1, 40))
def test_no_other_cut_of_the_sorted_rows_has_fewer_tokens(lengths: np.ndarray, tokens: int) -> None:
    """Among cuts within the same limits, a group counting as 32 tokens; here all of them are tried."""
    ordered = sorted(lengths.tolist())
    pairs = max(math.ceil(sum(ordered) / (2 * tokens)), 1)
    most = min(tokens, sum(ordered) // (2 * pairs) + ordered[-1])

    def cost(cuts: tuple[int, ...]) -> float:
        groups = [ordered[i:j] for i, j in itertools.pairwise((0, *cuts, len(ordered)))]
        legal = all(len(group) == 1 or len(group) * group[-1] <= most for group in groups)
        return sum(len(group) * group[-1] + 32 for group in groups) if legal else math.inf

    inner = range(1, len(ordered))
    best = min(cost(cuts) for n in range(len(ordered)) for cuts in itertools.combinations(inner, n))
    parts = microbatches(lengths, np.arange(len(lengths)), tokens)
    assert sum(len(part) * int(lengths[part].max()) + 32 for part in parts) == best


def test_a_batch_that_two_workers_share_is_cut_in_about_equal_halves() -> None:
    lengths = np.random.default_rng(0).integers(24, 28, 32)
    parts = microbatches(lengths, np.arange(32), 512)
    sizes = [len(part) * int(lengths[part].max()) for part in parts]
    assert len(parts) == 2
    assert max(sizes) - min(sizes) <= 28


def test_a_batch_that_one_device_computes_alone_is_not_cut_within_the_budget() -> None:
    lengths = np.full(32, 26)
    assert [len(part) for part in microbatches(lengths, np.arange(32), 26 * 32, shared=False)] == [32]


@given(texts=st.lists(WORDS, min_size=1, max_size=5))
def test_padding_holds_each_row_and_masks_the_rest(folder: Path, texts: list[list[str]]) -> None:
    encoded = encode([example(" ".join(words)) for words in texts], load_tokenizer(folder, 16), CONFIG)
    rows = np.arange(len(texts))[::-1]
    batch = pad(encoded, rows, get("numpy"))
    assert batch.ids.shape == batch.types.shape == batch.mask.shape == (len(texts), encoded.lengths.max())
    for place, row in enumerate(rows):
        n = len(texts[row]) + 2
        assert batch.ids[place, :n].tolist() == [CLS, *ids(texts[row]), SEP]
        assert batch.mask[place].tolist() == [k < n for k in range(batch.mask.shape[1])]
        assert not batch.ids[place, n:].any()


def test_row_without_a_token_gets_one_that_is_masked() -> None:
    nothing = np.zeros(0, np.int64)
    batch = pad(Encoded((nothing,), (nothing,), np.array([0]), None), np.array([0]), get("numpy"))
    assert batch.mask.tolist() == [[False]]


@given(words=WORDS, max_length=st.integers(3, 16))
def test_single_text_is_cut_at_the_end_and_keeps_its_special_tokens(
    folder: Path, words: list[str], max_length: int
) -> None:
    expected = [CLS, *ids(words)[: max(max_length - 2, 0)], SEP]
    if max_length > 3:  # room for the special tokens of a pair, which the tokeniser keeps free
        assert one(folder, max_length, " ".join(words)) == (expected, [0] * len(expected))


@given(first=WORDS, second=WORDS, max_length=st.integers(5, 16))
def test_pair_is_cut_at_the_longer_text_first(
    folder: Path, first: list[str], second: list[str], max_length: int
) -> None:
    found, types = one(folder, max_length, " ".join(first), " ".join(second))
    a, b = len(first), len(second)
    room = max_length - 3
    if a + b > room:
        short = min(a, b, room // 2)
        lengths = {short, room - short}
    else:
        lengths = {a, b}
    cut = found.index(SEP)
    kept_a, kept_b = found[1:cut], found[cut + 1 : -1]
    assert len(found) == len(types) <= max_length
    assert kept_a == ids(first)[: len(kept_a)]
    assert kept_b == ids(second)[: len(kept_b)]
    assert {len(kept_a), len(kept_b)} == lengths
    assert types == [0] * (cut + 1) + [1] * (len(found) - cut - 1)


def test_unknown_words_are_the_unknown_token(folder: Path) -> None:
    assert one(folder, 9, "good xyzzy")[0] == [CLS, ID["good"], UNKNOWN, SEP]


def test_labels_are_integers_or_floats_or_none_where_one_is_missing(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, 9)
    whole = encode([example("a", label=1), example("a", label=0)], tokenizer, CONFIG).labels
    real = encode([example("a", label=1.5), example("a", label=0.0)], tokenizer, CONFIG).labels
    assert whole is not None
    assert real is not None
    assert (whole.dtype.kind, whole.tolist(), real.dtype.kind, real.tolist()) == ("i", [1, 0], "f", [1.5, 0.0])
    assert encode([example("a", label=1), example("a")], tokenizer, CONFIG).labels is None


def test_taken_rows_are_those_rows_in_that_order(folder: Path) -> None:
    whole = encode(
        [example(word, label=k) for k, word in enumerate(["good", "bad film", "a"])], load_tokenizer(folder, 9), CONFIG
    )
    part = whole.take([2, 0])
    assert [array.tolist() for array in part.ids] == [whole.ids[2].tolist(), whole.ids[0].tolist()]
    assert part.lengths.tolist() == [3, 3]
    assert part.labels is not None
    assert part.labels.tolist() == [2, 0]


def test_tokeniser_of_another_model_is_refused_with_the_example(folder: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, (*VOCABULARY, "beyond"))
    examples = [example("good"), Example("seven", "good beyond", None, None)]
    with pytest.raises(
        SoRAError, match=f"example seven: token id {CONFIG.vocab_size}: expected below {CONFIG.vocab_size}; "
    ):
        encode(examples, load_tokenizer(tmp_path, 9), CONFIG)


def test_pairs_need_a_model_with_two_token_types(folder: Path) -> None:
    from dataclasses import replace

    tokenizer, one_type = load_tokenizer(folder, 9), replace(CONFIG, type_vocab_size=1)
    encode([example("good")], tokenizer, one_type)
    with pytest.raises(SoRAError, match="example x: token type 1: expected below 1"):
        encode([example("good", "bad")], tokenizer, one_type)


@pytest.mark.parametrize("max_length", [1, 2, 3])
def test_length_without_room_for_a_word_beside_the_special_tokens_is_refused(folder: Path, max_length: int) -> None:
    with pytest.raises(SoRAError, match=f"max_length is {max_length}: expected more than the 3 special tokens"):
        load_tokenizer(folder, max_length)
    load_tokenizer(folder, 4)


def test_missing_or_damaged_tokeniser_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(SoRAError, match=f"{path}: no such file: expected the model's tokeniser"):
        load_tokenizer(tmp_path, 9)
    write_tokenizer(tmp_path)
    whole = path.read_bytes()
    for data in (b"", b"{}", whole[: len(whole) // 2], b"\xff", b"[1]"):
        path.write_bytes(data)
        with pytest.raises(SoRAError, match=f"{path}: not a tokeniser"):
            load_tokenizer(tmp_path, 9)


def test_padding_and_truncation_stored_with_the_tokeniser_are_ignored(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_padding(length=16)
    stored.enable_truncation(4)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert one(tmp_path, 12, "good bad film plot") == one(folder, 12, "good bad film plot")
