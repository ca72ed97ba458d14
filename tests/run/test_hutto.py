"""The rated sentences: split by text, sign and value; and the counts of the real archive where it is in the cache."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.run.artefacts import ARTEFACTS, is_cached
from sora_ref.run.data import Example, load_task, read_hutto
from sora_ref.run.data.hutto import FILES
from sora_ref.run.data.split import split_by_text
from sora_ref.storage.place import cache_dir

# test, validation and train of thirteen texts under seed 0, as first drawn with NumPy 2.4; a change would move every
# published number
STORED_ORDER = ["4", "9", "6", "5", "3", "0", "1", "2", "11", "12", "10", "7", "8"]


def publish(folder: Path, ratings: list[str], texts: list[str] | None = None) -> Path:
    texts = texts or [f"sentence {row}" for row in range(len(ratings))]
    rows = [f"{row}\t{rating}\t{text}" for row, (rating, text) in enumerate(zip(ratings, texts, strict=True), start=1)]
    (folder / FILES["movies"]).write_bytes("\r\n".join(rows).encode("utf-8"))
    return folder


def by_id(splits: dict[str, tuple[Example, ...]]) -> dict[str, str]:
    return {example.id: split for split, examples in splits.items() for example in examples}


examples = st.lists(st.sampled_from("abcdefghij"), max_size=40).map(
    lambda texts: tuple(Example(str(row), text, None, 1.0) for row, text in enumerate(texts))
)


@given(examples, st.integers(0, 2**64))
def test_split_is_a_partition(rows: tuple[Example, ...], seed: int) -> None:
    splits = split_by_text(rows, seed)
    assert list(splits) == ["train", "validation", "test"]
    assert Counter(example for part in splits.values() for example in part) == Counter(rows)


@given(examples, st.integers(0, 2**64))
def test_equal_texts_share_a_split(rows: tuple[Example, ...], seed: int) -> None:
    splits = split_by_text(rows, seed)
    homes = {(example.text, split) for split, part in splits.items() for example in part}
    assert len(homes) == len({example.text for example in rows})


@given(st.integers(0, 300), st.integers(0, 2**32))
def test_a_fifth_of_the_texts_is_test_and_a_tenth_of_the_rest_validation(count: int, seed: int) -> None:
    splits = split_by_text([Example(str(row), f"text {row}", None, None) for row in range(count)], seed)
    tests = count // 5
    assert len(splits["test"]) == tests
    assert len(splits["validation"]) == (count - tests) // 10


def test_split_depends_on_the_seed_alone() -> None:
    rows = [Example(str(row), f"text {row}", None, None) for row in range(50)]
    assert split_by_text(rows, 3) == split_by_text(rows, 3)
    assert split_by_text(rows, 3) != split_by_text(rows, 4)


def test_split_of_seed_zero_is_the_stored_one() -> None:
    rows = [Example(str(row), f"text {row}", None, None) for row in range(13)]
    order = [example.id for split in ("test", "validation", "train") for example in split_by_text(rows, 0)[split]]
    assert order == STORED_ORDER


def test_texts_that_differ_in_case_or_spacing_share_a_split(tmp_path: Path) -> None:
    texts = [text for row in range(30) for text in (f"Sentence  {row}", f"sentence {row} ")]
    for seed in range(5):
        task = read_hutto(publish(tmp_path, ["1"] * 60, texts), seed=seed)
        home = by_id(dict(task.splits))
        assert all(home[str(row)] == home[str(row + 1)] for row in range(1, 60, 2))


def test_class_is_the_sign_and_zero_is_left_out(tmp_path: Path) -> None:
    ratings = ["-1.25", "0", "2.5", "0.0", "-0.0", "1e-9"] * 5
    task = read_hutto(publish(tmp_path, ratings))
    labels = {example.id: example.label for part in task.splits.values() for example in part}
    expected = {str(row): int(float(rating) > 0) for row, rating in enumerate(ratings, start=1) if float(rating) != 0}
    assert labels == expected
    assert (task.labels, task.metrics) == (("negative", "positive"), ("accuracy", "f1"))


def test_rating_is_the_value_and_zero_stays(tmp_path: Path) -> None:
    ratings = ["-1.25", "0", "2.5"] * 10
    task = read_hutto(publish(tmp_path, ratings), kind="regression")
    labels = {example.id: example.label for part in task.splits.values() for example in part}
    assert labels == {str(row): float(rating) for row, rating in enumerate(ratings, start=1)}
    assert (task.name, task.labels, task.metrics) == ("movies-rating", (), ("pearson", "spearman"))


def test_both_kinds_have_the_same_splits(tmp_path: Path) -> None:
    publish(tmp_path, ["-1", "0", "2"] * 20)
    signed, rated = (by_id(dict(load_task(name, path=tmp_path, seed=5).splits)) for name in ("movies", "movies-rating"))
    assert signed.items() < rated.items()


def test_repeats_and_zeros_are_counted_aloud(tmp_path: Path) -> None:
    said: list[str] = []
    texts = ["Again", "again", *(f"sentence {row}" for row in range(18))]
    read_hutto(publish(tmp_path, ["0"] + ["1"] * 19, texts), say=said.append)
    assert said == [
        "movies: 20 rows; repeats of an earlier text, kept in its split: 1",
        "movies: ratings of exactly 0, left out: 1",
    ]


def test_faults_name_the_file_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(
        SoRAError, match=r"movieReviewSnippets_GroundTruth.txt, line 2: the label 'bad' is not a finite"
    ):
        read_hutto(publish(tmp_path, ["1", "bad"]))
    with pytest.raises(SoRAError, match=r"tweets_GroundTruth.txt: no such file"):
        read_hutto(tmp_path, "tweets")
    with pytest.raises(SoRAError, match="unknown set of rated sentences 'films': expected one of movies, tweets"):
        read_hutto(tmp_path, "films")
    with pytest.raises(SoRAError, match="the seed is -1: expected a whole number from 0 on"):
        read_hutto(publish(tmp_path, ["1"]), seed=-1)
    with pytest.raises(SoRAError, match="no examples in its split validation"):
        read_hutto(publish(tmp_path, ["1"] * 9))


def test_the_files_read_are_those_fetched() -> None:
    assert set(FILES.values()) == set(ARTEFACTS["hutto2014"].members)


@pytest.mark.weights
@pytest.mark.skipif(not is_cached("hutto2014"), reason="hutto2014 is not in the cache; sora-ref demo fetches it")
@pytest.mark.parametrize(
    ("which", "negative", "positive", "zero"),
    [
        ("movies", 5326, 5242, 37),
        ("tweets", 1299, 2897, 4),
        ("products", 1482, 2128, 98),
        ("editorials", 2742, 2204, 244),
    ],
)
def test_real_archive_has_the_measured_counts(which: str, negative: int, positive: int, zero: int) -> None:
    folder = cache_dir() / "hutto2014"
    rated = [example for part in read_hutto(folder, which, "regression").splits.values() for example in part]
    signed = [example for part in read_hutto(folder, which).splits.values() for example in part]
    assert Counter(example.label for example in signed) == {0: negative, 1: positive}
    assert len(rated) == negative + positive + zero
    assert all(-4 <= float(example.label or 0) <= 4 for example in rated)
