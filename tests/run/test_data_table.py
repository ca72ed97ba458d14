"""The task ``table``: its splits, the one it draws for itself, and what it says."""

from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.run.data import Columns, Task, load_task

COLUMNS = Columns("text", label="label")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Sixty texts, each twice, in another case and spacing."""
    path = tmp_path / "train.tsv"
    rows = [f"{text}\t{'xy'[k % 2]}" for k in range(60) for text in (f"Text  {k}", f"text {k}")]
    path.write_text("text\tlabel\n" + "".join(f"{row}\n" for row in rows))
    return path


def texts(task: Task, split: str) -> list[str]:
    return [" ".join(example.text.lower().split()) for example in task.splits[split]]


def test_without_a_validation_file_a_tenth_of_the_texts_is_held_out_and_said(train: Path) -> None:
    said: list[str] = []
    task = load_task("table", files={"train": train}, columns=COLUMNS, say=said.append)
    assert len(set(texts(task, "validation"))) == 6
    assert not set(texts(task, "validation")) & set(texts(task, "train"))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 108, "validation": 12}
    assert said == list(task.notes) == ["validation: 10 % of train.tsv, split by text, seed 0: 12 of 120 rows"]
    lines = {split: [int(example.id.split(":")[1]) for example in part] for split, part in task.splits.items()}
    assert all(numbers == sorted(numbers) for numbers in lines.values())


def test_the_drawn_split_depends_on_the_seed_alone(train: Path) -> None:
    first, again, other = (
        load_task("table", files={"train": train}, columns=COLUMNS, seed=seed).splits for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_a_drawn_split_can_be_asked_for_alone_and_holds_what_it_held(train: Path) -> None:
    whole = load_task("table", files={"train": train, "test": train}, columns=COLUMNS)
    for split in ("train", "validation", "test"):
        alone = load_task("table", files={"train": train, "test": train}, columns=COLUMNS, split=split)
        assert dict(alone.splits) == {split: whole.splits[split]}


def test_pairs_are_held_out_by_both_texts(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("text\tmore\tlabel\n" + "".join(f"one\tmore {k}\t{k % 2}\n" for k in range(20)))
    task = load_task("table", files={"train": path}, columns=Columns("text", pair="more", label="label"))
    assert len(task.splits["validation"]) == 2


def test_too_few_texts_to_share_leave_no_validation_split(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{k}\t{k % 2}\n" for k in range(9)))
    assert list(load_task("table", files={"train": path}, columns=COLUMNS).splits) == ["train"]


def test_a_validation_file_is_used_as_it_is(train: Path) -> None:
    task = load_task("table", files={"train": train, "validation": train}, columns=COLUMNS)
    assert len(task.splits["train"]) == len(task.splits["validation"]) == 120
    assert task.notes == ()


def test_skipped_rows_are_said_by_file_and_line(train: Path) -> None:
    train.write_text(train.read_text() + "\tx\nlast\n")
    said: list[str] = []
    task = load_task("table", files={"train": train}, columns=COLUMNS, skip_bad_rows=True, say=said.append)
    assert said[0] == (
        "train: rows of train.tsv skipped: 2 (line 122: the column 'text' is blank; expected text; "
        "line 123: 1 fields; expected 2 as in the first)"
    )
    assert said == list(task.notes)
    with pytest.raises(SoRAError, match="line 122: the column 'text' is blank"):
        load_task("table", files={"train": train}, columns=COLUMNS)
    with pytest.raises(SoRAError, match=r"task.skip_bad_rows \(--skip-bad-rows\) is of the task table"):
        load_task("movies", skip_bad_rows=True)


def test_labels_that_look_alike_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\na\t1\nb\t1.0\nc\tYes\nd\tyes\n")
    said: list[str] = []
    load_task("table", files={"train": path}, columns=COLUMNS, say=said.append)
    assert said == [
        "warning: the labels '1', '1.0' are counted as 2 classes, though they look alike",
        "warning: the labels 'Yes', 'yes' are counted as 2 classes, though they look alike",
    ]


def test_class_names_that_are_given_twice_or_to_a_regression_are_refused(train: Path) -> None:
    with pytest.raises(SoRAError, match=r"task.labels has 'x' twice: expected every class once"):
        load_task("table", files={"train": train}, columns=COLUMNS, labels=("x", "y", "x"))
    with pytest.raises(SoRAError, match=r"task.labels names classes: expected none where task.kind is regression"):
        load_task("table", files={"train": train}, columns=COLUMNS, labels=("x", "y"), kind="regression")


def test_what_is_missing_is_named_by_key_and_flag() -> None:
    with pytest.raises(SoRAError, match=r"lacks task.files.train \(--data FILE\) and task.text \(--text COLUMN\);"):
        load_task("table")
