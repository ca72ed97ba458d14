"""The task ``table``: its splits, the one it draws for itself, and what it says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_run import make_rows, write_model, write_task, write_tsv

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.run.config import load_config
from sora_ref.run.data import Columns, Task, load_task

COLUMNS = Columns("text", label="label")
DATA, TEXT, LABEL = "task.files.train (--data FILE)", "task.text (--text COLUMN)", "task.label (--label COLUMN)"
EXPECTED = "expected a file to train on and the names of its columns of texts and labels"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Sixty texts, each twice, in another case and spacing."""
    path = tmp_path / "train.tsv"
    lines = [f"{text}\t{'xy'[k % 2]}" for k in range(60) for text in (f"Text  {k}", f"text {k}")]
    path.write_text("text\tlabel\n" + "".join(f"{line}\n" for line in lines))
    return path


def texts(task: Task, split: str) -> list[str]:
    return [" ".join(example.text.lower().split()) for example in task.splits[split]]


def test_without_a_validation_file_a_tenth_of_the_texts_is_held_out_and_said(rows: Path) -> None:
    said: list[str] = []
    task = load_task("table", files={"train": rows}, columns=COLUMNS, say=said.append)
    assert len(set(texts(task, "validation"))) == 6
    assert not set(texts(task, "validation")) & set(texts(task, "train"))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 108, "validation": 12}
    assert said == list(task.notes) == ["validation: 10 % of train.tsv, split by text, seed 0: 12 of 120 rows"]
    lines = {split: [int(example.id.split(":")[1]) for example in part] for split, part in task.splits.items()}
    assert all(numbers == sorted(numbers) for numbers in lines.values())


def test_the_drawn_split_depends_on_the_seed_alone(rows: Path) -> None:
    first, again, other = (
        load_task("table", files={"train": rows}, columns=COLUMNS, seed=seed).splits for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_a_drawn_split_can_be_asked_for_alone_and_holds_what_it_held(rows: Path) -> None:
    whole = load_task("table", files={"train": rows, "test": rows}, columns=COLUMNS)
    for split in ("train", "validation", "test"):
        alone = load_task("table", files={"train": rows, "test": rows}, columns=COLUMNS, split=split)
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


def test_a_validation_file_is_used_as_it_is(rows: Path) -> None:
    task = load_task("table", files={"train": rows, "validation": rows}, columns=COLUMNS)
    assert len(task.splits["train"]) == len(task.splits["validation"]) == 120
    assert task.notes == ()


def test_skipped_rows_are_said_by_file_and_line(rows: Path) -> None:
    rows.write_text(rows.read_text() + "\tx\nlast\n")
    said: list[str] = []
    task = load_task("table", files={"train": rows}, columns=COLUMNS, skip_bad_rows=True, say=said.append)
    assert said[0] == (
        "train: rows of train.tsv skipped: 2 (line 122: the column 'text' is blank: expected text; "
        "line 123: 1 fields: expected 2 as in the first)"
    )
    assert said == list(task.notes)
    with pytest.raises(SoRAError, match="line 122: the column 'text' is blank"):
        load_task("table", files={"train": rows}, columns=COLUMNS)
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


def test_class_names_that_are_given_twice_or_to_a_regression_are_refused(rows: Path) -> None:
    with pytest.raises(SoRAError, match=r"task.labels has 'x' twice: expected every class once"):
        load_task("table", files={"train": rows}, columns=COLUMNS, labels=("x", "y", "x"))
    with pytest.raises(SoRAError, match=r"task.labels names classes: expected none where task.kind is regression"):
        load_task("table", files={"train": rows}, columns=COLUMNS, labels=("x", "y"), kind="regression")


def test_what_is_missing_is_named_by_key_and_flag() -> None:
    with pytest.raises(SoRAError) as caught:
        load_task("table")
    assert str(caught.value) == f"the task table lacks {DATA}, {TEXT} and {LABEL}: {EXPECTED}"


# From the command line alone.

TABLE = ["--task", "table", "--text", "text", "--label", "label"]


def train(out: Path, *arguments: str | Path) -> Result:
    base = ["train", "--out", out, "--epochs", "1", "--rank", "2", "--set", "model.max_length=12", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_ranks", "draw_gates"):
            patch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)
        return CliRunner().invoke(cli, [str(word) for word in base], catch_exceptions=False)


def test_flags_alone_train_on_a_table_and_the_run_names_the_split_it_drew(tmp_path: Path) -> None:
    model, rows = write_model(tmp_path / "model"), write_tsv(tmp_path / "mine.tsv", make_rows("train"))
    flags: list[str | Path] = [
        "--model",
        model,
        "--task",
        "table",
        "--data",
        rows,
        "--text",
        "text",
        "--label",
        "label",
    ]
    done = train(tmp_path / "run", *flags)
    note = "validation: 10 % of mine.tsv, split by text, seed 0: 4 of 40 rows"
    assert f"\n  {note}\n  validation: accuracy " in done.stdout
    assert note in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["notes"], list(summary["scores"])) == ([note], ["validation"])
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["notes"] == [note]
    found = CliRunner().invoke(cli, ["eval", str(tmp_path / "run"), "--split", "validation", "--json", "--quiet"])
    assert json.loads(found.stdout) == summary["scores"]


def test_every_column_and_split_has_a_flag(tmp_path: Path) -> None:
    model, files = write_model(tmp_path / "model"), write_task(tmp_path / "task")
    flags: list[str | Path] = [
        "--model",
        model,
        "--task",
        "table",
        "--data",
        files["train"],
        "--validation",
        files["validation"],
    ]
    flags += ["--test", files["test"], "--text", "text", "--pair", "text", "--label", "rating", "--id", "name"]
    done = train(tmp_path / "run", *flags, "--kind", "regression", "--skip-bad-rows", "--score-test", "--json")
    assert set(json.loads(done.stdout)["scores"]["test"]) == {"pearson", "spearman"}
    task = load_config(tmp_path / "run" / "config.toml", {}).task
    assert task.files == files
    assert (task.text, task.pair, task.label, task.id) == ("text", "text", "rating", "name")
    assert (task.kind, task.skip_bad_rows) == ("regression", True)


def test_skipped_rows_are_recorded_in_the_run(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    rows = write_tsv(tmp_path / "mine.tsv", [*make_rows("train"), {**make_rows("train")[0], "text": " "}])
    flags: list[str | Path] = [
        "--model",
        model,
        "--task",
        "table",
        "--data",
        rows,
        "--text",
        "text",
        "--label",
        "label",
    ]
    with pytest.raises(SoRAError, match=r"mine.tsv, line 42: the column 'text' is blank"):
        train(tmp_path / "run", *flags)
    train(tmp_path / "run", *flags, "--skip-bad-rows")
    notes = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    assert notes[0] == "train: rows of mine.tsv skipped: 1 (line 42: the column 'text' is blank: expected text)"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--task table", f"the task table lacks {DATA}, {TEXT} and {LABEL}: {EXPECTED}"),
        ("--task table --data FILE", f"the task table lacks {TEXT} and {LABEL}: {EXPECTED}"),
        ("--task table --text text", f"the task table lacks {DATA} and {LABEL}: {EXPECTED}"),
        ("--task table --text text --data FILE", f"the task table lacks {LABEL}: {EXPECTED}"),
        ("--task table --text x --label label --data FILE", "no column 'x'; found 'name', 'text', 'label', 'rating'"),
        ("--task table --text text --label label --data FOLDER", "a folder: expected a"),
        ("--task movies --text text", "task.text (--text) is of the task table, and the task is 'movies': expected"),
        ("--data FILE", "task.files is of the task table, and the task is 'movies': expected --task table"),
        (
            "--task table --set task.path=x",
            "task.path (--data FOLDER) is of other tasks than table: expected",
        ),
    ],
)
def test_what_is_missing_or_of_another_task_is_named_by_key_and_flag(tmp_path: Path, flags: str, words: str) -> None:
    rows = write_tsv(tmp_path / "mine.tsv", make_rows("train"))
    model, places = write_model(tmp_path / "model"), {"FILE": str(rows), "FOLDER": str(tmp_path)}
    with pytest.raises(SoRAError) as caught:
        train(tmp_path / "run", "--model", model, *(places.get(word, word) for word in flags.split()))
    assert words in str(caught.value)
