"""What is given on the command line to be predicted or scored, and how predictions leave."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_run import make_keys, make_rows, run_once, tree, write_jsonl, write_tsv

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.run import predict as predict_module
from sora_ref.run.config import load_config
from sora_ref.run.data import Example
from sora_ref.run.given import of_pairs
from sora_ref.run.predict import predict_records, predict_stream
from sora_ref.run.trained import Loaded, load_trained

Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_once(folder, keys, train__epochs=1)
    return folder


@pytest.fixture(scope="module")
def pairs(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose task is pairs: the name of the row is the second text."""
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    run_once(folder, keys, train__epochs=1, task__pair="name")
    return folder


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return load_trained(run)


def call(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    """The command, whose SoRAError is left to be caught; progress is off."""
    return CliRunner().invoke(cli, [*map(str, arguments), "--quiet"], input=input, catch_exceptions=False)


def refused(*arguments: str | Path, input: str | bytes | None = None) -> str:
    with pytest.raises(SoRAError) as caught:
        call(*arguments, input=input)
    return str(caught.value)


def records(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# Another table to score.


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_eval_of_a_table_gives_the_score_of_the_split_it_holds(run: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    (write_jsonl if suffix == "jsonl" else write_tsv)(path, make_rows("test"))
    split = json.loads(call("eval", run, "--split", "test", "--json").stdout)["test"]
    assert json.loads(call("eval", run, "--input", path, "--json").stdout) == {path.name: split}
    assert call("eval", run, "--input", path).stdout.startswith(f"{path.name}: accuracy ")


def test_eval_of_a_table_takes_its_columns_by_name(run: Path, tmp_path: Path) -> None:
    rows = [{"body": row["text"], "class": row["label"]} for row in make_rows("test")]
    path = write_tsv(tmp_path / "mine.txt", rows)
    found = call("eval", run, "--input", path, "--format", "tsv", "--text", "body", "--label", "class", "--json")
    split = json.loads(call("eval", run, "--split", "test", "--json").stdout)["test"]
    assert json.loads(found.stdout) == {"mine.txt": split}
    assert "no column 'text'; found 'body', 'class'" in refused("eval", run, "--input", path, "--format", "tsv")
    assert "has the suffix '.txt': expected" in refused("eval", run, "--input", path)


def test_eval_reads_a_table_from_standard_input(run: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in make_rows("test"))
    found = json.loads(call("eval", run, "--input", "-", "--format", "jsonl", "--json", input=text).stdout)
    assert found == {"stdin": json.loads(call("eval", run, "--split", "test", "--json").stdout)["test"]}


def test_eval_of_a_table_says_what_it_does_not_know_or_skips_it(run: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "mine.tsv", [*make_rows("test"), {**make_rows("test")[0], "label": "new"}])
    right = json.loads(call("eval", run, "--split", "test", "--json").stdout)["test"]["accuracy"]
    found = call("eval", run, "--input", path, "--json")
    assert json.loads(found.stdout)["mine.tsv"]["accuracy"] == pytest.approx(right * 12 / 13, rel=1e-15)
    assert found.stderr == (
        f"warning: {path}: labels the run does not know, each counted as wrong: 1 (mine.tsv:14: 'new')\n"
    )
    found = call("eval", run, "--input", path, "--skip-bad-rows", "--json")
    assert json.loads(found.stdout)["mine.tsv"]["accuracy"] == right
    assert "warning: " in found.stderr
    assert "rows skipped: 1 (line 14: the label 'new' is not in the set: expected one of" in found.stderr
    others = write_tsv(tmp_path / "others.tsv", [{**row, "label": "new"} for row in make_rows("test")])
    assert "these are not the classes the run was trained on, 'bad', 'good'" in refused("eval", run, "--input", others)


# New texts.


def test_predict_reads_the_lines_of_standard_input(run: Path) -> None:
    lines = call("predict", run, input="a good film\na bad film\n").stdout
    assert lines == call("predict", run, "a good film", "a bad film").stdout
    assert call("predict", run, "-", input="a good film\na bad film").stdout == lines
    found = records(call("predict", run, "--json", input="a good film\r\na\tbad film\n").stdout)
    assert [record["id"] for record in found] == ["stdin:1", "stdin:2"]


def test_predict_refuses_lines_that_are_no_text_or_skips_them(run: Path) -> None:
    lines = b"a good film\n\ncaf\xe9\na bad film\n"
    assert refused("predict", run, input=lines) == "stdin, line 2: a blank text: expected one on every line"
    found = call("predict", run, "--skip-bad-rows", input=lines)
    assert len(found.stdout.splitlines()) == 2
    assert found.stderr == (
        "warning: stdin: rows skipped: 2 (line 2: a blank text: expected one on every line; line 3: not valid UTF-8: "
        "expected UTF-8 text)\n"
    )
    assert refused("predict", run, input="") == "stdin has no lines: expected a text on each"
    sentence = refused("predict", run, input="a" * 1_000_001)
    assert sentence == "stdin, line 1: a text of 1,000,001 characters: expected at most 1,000,000"


def test_predict_reads_a_table_from_standard_input_where_its_format_is_named(run: Path) -> None:
    found = records(call("predict", run, "--input", "-", "--format", "csv", input="text\na good film\n").stdout)
    assert [record["id"] for record in found] == ["stdin:2"]
    assert "stdin has the suffix '': expected .tsv, .csv or .jsonl, or a format (--format)" in refused(
        "predict", run, "--input", "-", input="text\nx\n"
    )


def test_predict_skips_bad_rows_of_a_table_where_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("text\na good film\n \nb\tc\na bad film\n")
    assert "line 3: the column 'text' is blank" in refused("predict", run, "--input", path)
    found = call("predict", run, "--input", path, "--skip-bad-rows")
    assert [record["id"] for record in records(found.stdout)] == ["t.tsv:2", "t.tsv:5"]
    assert f"warning: {path}: rows skipped: 2 (line 3: the column 'text' is blank" in found.stderr


def test_pairs_and_single_texts_are_not_taken_for_each_other(run: Path, pairs: Path, tmp_path: Path) -> None:
    assert [of_pairs(load_config(folder / "config.toml", {})) for folder in (run, pairs)] == [False, True]
    table = write_tsv(tmp_path / "t.tsv", make_rows("test"))
    single = "the run was trained on single texts: expected no "
    assert single in refused("predict", run, "a", "--text2", "b")
    assert single in refused("predict", run, "--input", table, "--pair", "name")
    assert single in refused("eval", run, "--input", table, "--pair", "name")
    assert "trained on pairs of texts, and 2 came with 0 second ones" in refused("predict", pairs, "a", "b")
    assert "trained on pairs of texts, and 1 came with 2" in refused(
        "predict", pairs, "a", "--text2", "b", "--text2", "c"
    )
    assert "stdin, line 1: 0 tabs: expected one" in refused("predict", pairs, input="a\n")
    texts = write_tsv(tmp_path / "u.tsv", [{"text": "a"}])
    assert "no column 'name'; found 'text'" in refused("predict", pairs, "--input", texts)


def test_a_pair_predicts_the_same_however_it_is_given(pairs: Path, tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "t.tsv", [{"text": "a good film", "name": "so dull"}])
    (flags,) = records(call("predict", pairs, "a good film", "--text2", "so dull", "--json").stdout)
    (line,) = records(call("predict", pairs, "--json", input="a good film\tso dull\n").stdout)
    (row,) = records(call("predict", pairs, "--input", table).stdout)
    (named,) = records(call("predict", pairs, "--input", table, "--text", "name", "--pair", "text").stdout)
    assert flags["probabilities"] == line["probabilities"] == row["probabilities"] != named["probabilities"]
    assert call("predict", pairs, "a good film", "--text2", "so dull").stdout.endswith(")  a good film  |  so dull\n")


def test_pairs_of_glue_are_known_by_the_task(keys: Keys) -> None:
    for name, expected in (("glue:rte", True), ("glue:sst2", False), ("movies", False)):
        assert of_pairs(load_config(None, {"task.name": name})) is expected
    with pytest.raises(SoRAError, match="unknown task 'glue:none': expected one of movies"):
        of_pairs(load_config(None, {"task.name": "glue:none"}))


@pytest.mark.parametrize("words", ["--text x a", "--input x.tsv a", "--format tsv", "--text2 a", "--input x --text2 a"])
def test_flags_that_do_not_go_together_are_wrong_usage(run: Path, words: str) -> None:
    assert call("predict", run, *words.split()).exit_code == 2
    assert call("eval", run, "--split", "test", "--input", "x.tsv").exit_code == 2
    assert call("eval", run, "--label", "x").exit_code == 2


# How predictions leave.


def test_predict_does_not_write_over_anything(run: Path, tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "t.tsv", make_rows("test"))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    before, after = tree(tmp_path), tree(run)
    for out in (table, run / "config.toml", link, tmp_path):
        assert refused("predict", run, "--input", table, "--out", out) == (
            f"{out}: exists already: expected the name of a new file"
        )
    assert (tree(tmp_path), tree(run)) == (before, after)
    assert link.is_symlink()


def test_predictions_that_stop_half_way_leave_no_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "_ROWS", 2)
    path = tmp_path / "t.tsv"
    path.write_text("text\na\nb\nc\nd\n \n")
    out = tmp_path / "new" / "out.jsonl"
    assert "line 6: the column 'text' is blank" in refused("predict", run, "--input", path, "--out", out)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("rows", [1, 5, 7, 100])
def test_chunks_change_neither_order_nor_prediction(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    examples = [Example(str(k), row["text"], None, None) for k, row in enumerate(make_rows("train"))]
    whole = predict_records(loaded, examples)
    monkeypatch.setattr(predict_module, "_ROWS", rows)
    found = predict_records(loaded, examples)
    assert [(r["id"], r["prediction"]) for r in found] == [(r["id"], r["prediction"]) for r in whole]
    for one, other in zip(found, whole, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)


def test_a_chunk_holds_few_rows_where_classes_are_many(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(_: Loaded, chunk: tuple[Example, ...]) -> list[Any]:
        sizes.append(len(chunk))
        return [{}] * len(chunk)

    monkeypatch.setattr(predict_module, "_LOGITS", 6)  # of two classes: three rows
    monkeypatch.setattr(predict_module, "_records", count)
    list(predict_stream(loaded, [Example(str(k), "a", None, None) for k in range(8)]))
    assert sizes == [3, 3, 2]


def test_examples_are_taken_as_they_are_needed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def examples() -> Iterator[Example]:
        nonlocal taken
        for k in range(100):
            taken += 1
            yield Example(str(k), "a", None, None)

    monkeypatch.setattr(predict_module, "_ROWS", 10)
    stream = predict_stream(loaded, examples())
    for _ in range(11):
        next(stream)
    assert taken == 20


# Numbers that are none.


def broken(loaded: Loaded, name: str = "classifier.bias", value: float = np.nan) -> Loaded:
    params = {**loaded.params, name: np.full_like(loaded.params[name], value)}
    return replace(loaded, params=params)


def test_logits_that_are_not_finite_are_refused_by_name_of_the_row(
    loaded: Loaded, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sora_ref.run import trained

    monkeypatch.setattr(trained, "load_trained", lambda *_, **__: broken(loaded))
    table = write_tsv(tmp_path / "t.tsv", make_rows("test"))
    out = tmp_path / "out.jsonl"
    calls: list[tuple[list[str | Path], str]] = [
        (["predict", run, "a film"], "0"),
        (["predict", run, "--input", table, "--out", out], "t.tsv:2"),
        (["eval", run, "--input", table], "t.tsv:2"),
        (["eval", run, "--split", "test"], "test-0"),
    ]
    for arguments, row in calls:
        assert f"row {row}: its logits are not finite: expected numbers" in refused(*arguments)
    assert not out.exists()


def test_only_the_row_at_fault_is_named(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from sora_ref.run import evaluate

    real = evaluate.classifier_logits

    def one_bad(model: Any, params: Any, batch: Any, **given: Any) -> Any:
        logits = real(model, params, batch, **given)
        logits[(batch[0] == 4).any(axis=1)] = np.inf  # the first plain word, "a"
        return logits

    monkeypatch.setattr(evaluate, "classifier_logits", one_bad)
    examples = [Example(f"file:{k}", text, None, None) for k, text in enumerate(("the film", "good", "a film", "bad"))]
    with pytest.raises(SoRAError, match="row file:2: its logits are not finite"):
        predict_records(loaded, examples)
