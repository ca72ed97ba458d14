"""Labels are compared by a run's own class names, whatever number today's file would give them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_run import make_keys, make_rows, run_once, write_jsonl, write_tsv

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.run.config import dump_config, load_config
from sora_ref.run.data import Example, Labels, load_task
from sora_ref.run.data.classes import relabelled
from sora_ref.run.data.labels import UNKNOWN

Keys = dict[str, Any]
RUN = Labels("classification", ("bad", "good"), ("accuracy", "f1"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A trained run whose tables each test may change."""
    run_once(tmp_path / "run", make_keys(tmp_path), train__epochs=1)
    return tmp_path / "run"


def scores(run: Path, *arguments: str) -> tuple[Any, str]:
    """What `eval --json` prints, and what it says on standard error."""
    done = CliRunner().invoke(cli, ["eval", str(run), "--json", *arguments], catch_exceptions=False)
    return json.loads(done.stdout), done.stderr


def with_keys(run: Path, changes: Keys) -> None:
    file = run / "config.toml"
    file.write_text(dump_config(load_config(file, changes)))


def test_a_new_class_that_sorts_first_changes_no_score(run: Path, tmp_path: Path) -> None:
    before, said = scores(run)
    assert said == ""
    train = tmp_path / "task" / "train.jsonl"
    write_jsonl(train, [*make_rows("train"), {"name": "new", "text": "a film", "label": "abstain", "rating": 0}])
    after, said = scores(run)
    assert {split: after[split] for split in ("validation", "test")} == {k: before[k] for k in ("validation", "test")}
    assert said == f"warning: {train}: labels the run does not know, each counted as wrong: 1 (new: 'abstain')\n"
    rows = len(make_rows("train"))
    assert after["train"]["accuracy"] == pytest.approx(before["train"]["accuracy"] * rows / (rows + 1), rel=1e-15)
    assert scores(run, "--split", "test") == ({"test": before["test"]}, "")


def test_a_label_that_the_run_does_not_know_counts_as_wrong_for_every_prediction(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "task" / "validation.tsv"
    right, _ = scores(run, "--split", "validation")
    others = [{**row, "label": f"{row['label']}-new"} for row in make_rows("validation")]
    write_tsv(path, [*make_rows("validation"), *({**row, "name": f"{row['name']}-2"} for row in others)])
    found, said = scores(run, "--split", "validation")
    assert found["validation"]["accuracy"] == right["validation"]["accuracy"] / 2
    assert "each counted as wrong: 12 (validation-0-2: 'bad-new'; " in said
    assert said.endswith("; and 7 more)\n")


def test_tables_whose_labels_are_all_others_are_refused_and_named(run: Path, tmp_path: Path) -> None:
    write_tsv(tmp_path / "task" / "validation.tsv", [{**row, "label": f"x{row['label']}"} for row in make_rows("test")])
    with pytest.raises(SoRAError) as caught:
        scores(run, "--split", "validation")
    assert str(caught.value) == (
        f"{tmp_path / 'task' / 'validation.tsv'} has the labels 'xbad', 'xgood': these are not the classes the run was "
        "trained on, 'bad', 'good'"
    )


def test_the_runs_classes_win_over_another_order_in_its_configuration(run: Path) -> None:
    before, _ = scores(run)
    with_keys(run, {"task.labels": ["good", "bad"]})
    assert scores(run) == (before, "")


def test_a_regression_is_not_scored_by_classes_nor_the_other_way_round(run: Path) -> None:
    with_keys(run, {"task.kind": "regression", "task.label": "rating"})
    with pytest.raises(SoRAError, match="has numbers for labels, and the run was trained on classes"):
        scores(run)


def test_labels_of_a_task_of_fixed_names_are_compared_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    for name in ("train", "dev"):
        rows = [("entailment", 0), ("not_entailment", 1)]
        lines = ["index\tsentence1\tsentence2\tlabel", *(f"{k}\ta\tb\t{label}" for label, k in rows)]
        (folder / f"{name}.tsv").write_text("".join(f"{line}\n" for line in lines))
    said: list[str] = []
    turned = Labels("classification", ("contradiction", "entailment"), ("accuracy",))
    task = load_task("glue:rte", path=folder, run=turned, split="validation", say=said.append)
    assert [example.label for example in task.splits["validation"]] == [1, UNKNOWN]
    assert (task.labels, list(task.splits)) == (turned.names, ["validation"])
    assert said == [
        "warning: glue:rte, split validation: labels the run does not know, each counted as wrong: 1 "
        "(validation:1: 'not_entailment')"
    ]
    with pytest.raises(SoRAError, match="these are not the classes the run was trained on, 'bad', 'good'"):
        load_task("glue:rte", path=folder, run=RUN)
    with pytest.raises(SoRAError, match="the task glue:rte has classes for labels, and the run was trained on numbers"):
        load_task("glue:rte", path=folder, run=Labels("regression", (), ("pearson",)))
    with pytest.raises(SoRAError, match="task glue:rte has no split 'dev': expected one of train, validation"):
        load_task("glue:rte", path=folder, run=RUN, split="dev")


def test_examples_without_labels_stay_without() -> None:
    examples = [Example("1", "text", None, None)]
    found, unknown = relabelled("a table", examples, (), RUN)
    assert (list(found), unknown.count) == (examples, 0)


def test_only_the_file_of_the_split_asked_for_is_read(run: Path, tmp_path: Path) -> None:
    before, _ = scores(run, "--split", "test")
    (tmp_path / "task" / "train.jsonl").unlink()
    assert scores(run, "--split", "test") == (before, "")


def test_tables_read_for_a_run_skip_what_it_does_not_know_where_bad_rows_are_skipped(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = scores(run, "--split", "validation")
    with_keys(run, {"task.skip_bad_rows": True})
    rows = [*make_rows("validation"), {"name": "new", "text": "a film", "label": "abstain", "rating": 0}]
    write_tsv(tmp_path / "task" / "validation.tsv", rows)
    found, said = scores(run, "--split", "validation")
    assert found == before
    assert said == (
        "validation: rows of validation.tsv skipped: 1 (line 14: the label 'abstain' is not in the set: expected one "
        "of 'bad', 'good')\n"
    )
