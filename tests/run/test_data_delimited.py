"""User tables: what is read, and the sentence said for each fault."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.run.data import Columns, Example, Tally, load_task, read_table

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def fault(path: Path, **arguments: Any) -> str:
    with pytest.raises(SoRAError) as caught:
        read_table(path, **{"text": "text", "label": "label", **arguments})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert "expected" in sentence or "found" in sentence
    return sentence


def test_three_formats_of_one_table_give_the_same_examples(write: Write) -> None:
    expected = (Example("a", "good film", "very", 1), Example("b", "bad film", "quite", 0))
    tsv = write("t.tsv", "id\ttext\tmore\tlabel\na\tgood film\tvery\tpos\nb\tbad film\tquite\tneg\n")
    comma = write("t.csv", "id,text,more,label\na,good film,very,pos\nb,bad film,quite,neg\n")
    lines = [
        {"id": "a", "text": "good film", "more": "very", "label": "pos"},
        {"id": "b", "text": "bad film", "more": "quite", "label": "neg"},
    ]
    jsonl = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for path in (tsv, comma, jsonl):
        assert read_table(path, text="text", pair="more", label="label", id="id") == (expected, ("neg", "pos"))


@given(st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")).filter(str.strip), min_size=1))
def test_any_text_survives_quoted_csv_and_json(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows([["text"], *([text] for text in texts)])
    (folder / "t.csv").write_bytes(buffer.getvalue().encode("utf-8"))
    (folder / "t.jsonl").write_bytes("\n".join(json.dumps({"text": text}) for text in texts).encode("utf-8"))
    for name in ("t.csv", "t.jsonl"):
        examples, labels = read_table(folder / name, text="text")
        assert [example.text for example in examples] == texts
        assert labels == ()


def test_tsv_keeps_quotes_and_unicode_line_separators_within_a_text(write: Write) -> None:
    text = '"He said, ""no" \u2028 and \x85 and \x0c left'
    examples, _ = read_table(write("t.tsv", f"text\r\n{text}\r\n"), text="text")
    assert [example.text for example in examples] == [text]


def test_csv_field_may_span_lines_and_rows_are_named_by_their_first_line(write: Write) -> None:
    examples, _ = read_table(write("t.csv", 'text\n"one\ntwo"\nthree\n'), text="text")
    assert [(example.id, example.text) for example in examples] == [("t.csv:2", "one\ntwo"), ("t.csv:4", "three")]


def test_byte_order_mark_is_no_part_of_the_first_column(write: Write) -> None:
    examples, _ = read_table(write("t.tsv", b"\xef\xbb\xbftext\nfine\n"), text="text")
    assert examples[0].text == "fine"


def test_empty_lines_are_passed_over_and_line_numbers_are_kept(write: Write) -> None:
    examples, _ = read_table(write("t.tsv", "text\n\nfine\n\n"), text="text")
    assert [example.id for example in examples] == ["t.tsv:3"]


def test_columns_without_a_header_are_numbered_from_one(write: Write) -> None:
    examples, _ = read_table(write("t.tsv", "7\tfine\n"), text="2", label="1", kind="regression", header=False)
    assert examples == (Example("t.tsv:1", "fine", None, 7.0),)


def test_format_by_name_overrides_the_suffix(write: Write) -> None:
    assert read_table(write("t.txt", "text\nfine\n"), text="text", format="tsv")[0][0].text == "fine"


def test_found_labels_are_sorted_as_numbers_when_all_are_whole(write: Write) -> None:
    path = write("t.tsv", "text\tlabel\na\t10\nb\t9\nc\t-1\n")
    examples, labels = read_table(path, text="text", label="label")
    assert labels == ("-1", "9", "10")
    assert [example.label for example in examples] == [2, 1, 0]
    words = write("w.tsv", "text\tlabel\na\t10\nb\t9\nc\tx\n")
    assert read_table(words, text="text", label="label")[1] == ("10", "9", "x")


def test_given_labels_fix_the_class_order(write: Write) -> None:
    path = write("t.tsv", "text\tlabel\na\tyes\nb\tno\n")
    examples, labels = read_table(path, text="text", label="label", labels=("yes", "no"))
    assert labels == ("yes", "no")
    assert [example.label for example in examples] == [0, 1]


def test_json_numbers_and_truth_values_count_as_spelled(write: Write) -> None:
    path = write("t.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": 1}\n')
    assert read_table(path, text="text", label="label")[1] == ("1", "1.0", "true")


def test_regression_labels_are_real_numbers_and_have_no_names(write: Write) -> None:
    path = write("t.csv", "text,label\na,-1.5\nb,2e1\n")
    examples, labels = read_table(path, text="text", label="label", kind="regression")
    assert [example.label for example in examples] == [-1.5, 20.0]
    assert labels == ()


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "high", "1_0", "1,5"])
def test_regression_label_that_is_no_finite_number_is_refused(write: Write, value: str) -> None:
    path = write("t.tsv", f"text\tlabel\na\t1\nb\t{value}\n")
    assert f"line 3: the label {value!r} is not a finite number" in fault(path, kind="regression")


def test_label_outside_the_set_is_named_with_its_line_and_the_set(write: Write) -> None:
    path = write("t.tsv", "text\tlabel\na\tyes\nb\tperhaps\n")
    sentence = fault(path, labels=("no", "yes"))
    assert "line 3: the label 'perhaps' is not in the set: expected one of 'no', 'yes'" in sentence


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.jsonl"])
def test_unknown_column_is_named_with_the_columns_found(write: Write, name: str) -> None:
    content = {"t.tsv": "body\tlabel\na\t1\n", "t.csv": "body,label\na,1\n", "t.jsonl": '{"body": "a", "label": 1}\n'}
    assert "no column 'text'; found 'body', 'label'" in fault(write(name, content[name]))


def test_column_named_twice_is_refused(write: Write) -> None:
    assert "line 1: the column 'text' occurs twice" in fault(write("t.csv", "text,text,label\na,b,1\n"))


@pytest.mark.parametrize("content", ["", "\n\n", "text\tlabel\n"])
def test_file_without_rows_is_refused(write: Write, content: str) -> None:
    assert "has no rows: expected at least one" in fault(write("t.tsv", content))


@pytest.mark.parametrize(("row", "count"), [("a", 1), ("a\t1\tmore", 3)])
def test_row_of_another_width_is_refused_by_line(write: Write, row: str, count: int) -> None:
    assert f"line 3: {count} fields: expected 2" in fault(write("t.tsv", f"text\tlabel\nx\t1\n{row}\n"))


@pytest.mark.parametrize("blank", ["", "  ", "\u00a0"])
@pytest.mark.parametrize("column", ["text", "label", "more", "id"])
def test_blank_cell_in_a_used_column_is_refused_by_line(write: Write, blank: str, column: str) -> None:
    row = {"id": "1", "text": "a", "more": "b", "label": "1"} | {column: blank}
    path = write("t.tsv", "\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    assert f"line 2: the column {column!r} is blank" in fault(path, pair="more", id="id")


def test_json_null_is_blank_and_json_list_is_no_text(write: Write) -> None:
    assert "line 1: the column 'label' is blank" in fault(write("t.jsonl", '{"text": "a", "label": null}'))
    assert "line 1: the column 'text' is a JSON list" in fault(write("t.jsonl", '{"text": ["a"], "label": 1}'))


def test_half_a_surrogate_pair_is_refused(write: Write) -> None:
    assert "line 1: the column 'text' has half a surrogate pair" in fault(
        write("t.jsonl", r'{"text": "\ud83d", "label": 1}')
    )


@pytest.mark.parametrize(("line", "said"), [('{"text": "a"', "malformed JSON"), ("[1]", "JSON of type list")])
def test_malformed_json_is_refused_by_line(write: Write, line: str, said: str) -> None:
    assert f"line 2: {said}" in fault(write("t.jsonl", '{"text": "a", "label": 1}\n' + line + "\n"))


def test_json_nested_beyond_measure_is_refused_by_line(write: Write) -> None:
    assert "line 1: JSON nested too deeply" in fault(write("t.jsonl", "[" * 200_000))


@pytest.mark.parametrize("row", ['"open,1\nx,2\n', '"a"b,1\n', '"' + "a" * 140_000])
def test_malformed_csv_is_refused_by_line(write: Write, row: str) -> None:
    assert "line 3: malformed CSV" in fault(write("t.csv", f"text,label\nx,1\n{row}"))


def test_invalid_utf8_is_refused_by_line(write: Write) -> None:
    assert "line 2: not valid UTF-8" in fault(write("t.tsv", b"text\tlabel\ncaf\xe9\t1\n"))


def test_nul_character_is_refused_by_line(write: Write) -> None:
    assert "line 2: a NUL character" in fault(write("t.csv", "text,label\na\0b,1\n"))


def test_missing_file_folder_and_unknown_suffix_are_refused(write: Write, tmp_path: Path) -> None:
    assert "no such file: expected a text file" in fault(tmp_path / "none.tsv")
    assert "a folder: expected a text file" in fault(tmp_path, format="tsv")
    assert "has the suffix '.xlsx': expected .tsv, .csv or .jsonl" in fault(write("t.xlsx", "text\n"))


def test_id_used_twice_is_refused_with_both_lines(write: Write) -> None:
    path = write("t.tsv", "id\ttext\tlabel\n7\ta\t1\n7\tb\t1\n")
    assert "line 3: the id '7' is that of line 2 too" in fault(path, id="id")


def test_table_task_takes_its_labels_from_train(write: Write) -> None:
    train = write("train.tsv", "text\tlabel\na\tyes\nb\tno\n")
    validation = write("dev.csv", "text,label\nc,yes\n")
    task = load_task("table", files={"validation": validation, "train": train}, columns=Columns("text", label="label"))
    assert task.labels == ("no", "yes")
    assert task.metrics == ("accuracy", "f1")
    assert list(task.splits) == ["train", "validation"]
    assert task.splits["validation"] == (Example("dev.csv:2", "c", None, 1),)
    stray = write("test.tsv", "text\tlabel\nd\tperhaps\n")
    with pytest.raises(SoRAError, match=r"test.tsv, line 2: the label 'perhaps' is not in the set"):
        load_task("table", files={"train": train, "test": stray}, columns=Columns("text", label="label"))


def test_table_task_of_three_classes_has_no_f1_and_regression_has_correlations(write: Write) -> None:
    train = write("train.tsv", "text\tlabel\na\t0\nb\t1\nc\t2\n")
    columns = Columns("text", label="label")
    assert load_task("table", files={"train": train}, columns=columns).metrics == ("accuracy",)
    rated = load_task("table", files={"train": train}, columns=columns, kind="regression")
    assert rated.metrics == ("pearson", "spearman")


def test_table_task_refuses_missing_columns_unknown_splits_and_a_single_class(write: Write) -> None:
    train = write("train.tsv", "text\tlabel\na\t0\n")
    with pytest.raises(SoRAError, match=r"lacks task.text \(--text COLUMN\) and task.label \(--label COLUMN\)"):
        load_task("table", files={"train": train})
    with pytest.raises(SoRAError, match=r"task.files has the split 'dev': expected some of train, validation, test"):
        load_task("table", files={"dev": train}, columns=Columns("text"))
    with pytest.raises(SoRAError, match="expected at least two classes"):
        load_task("table", files={"train": train}, columns=Columns("text", label="label"))


def test_unknown_task_is_answered_with_the_nearest_name_and_the_list() -> None:
    with pytest.raises(
        SoRAError, match=r"unknown task 'movie' \(did you mean movies\?\): expected one of movies, .*table"
    ):
        load_task("movie")
    with pytest.raises(SoRAError, match="the task glue:rte has no folder: expected "):
        load_task("glue:rte")


def test_a_csv_field_may_be_as_long_as_the_file_and_the_modules_limit_stays(write: Write) -> None:
    long, limit = "a b, " * 40_000, csv.field_size_limit()
    assert limit < len(long)
    assert read_table(write("t.csv", f'text\n"{long}"\nshort\n'), text="text")[0][0].text == long
    assert csv.field_size_limit() == limit
    with pytest.raises(SoRAError, match="line 2: malformed CSV"):
        read_table(write("t.csv", f'text\n"{long}'), text="text")
    assert csv.field_size_limit() == limit


def test_rows_before_malformed_csv_are_read_first(write: Write) -> None:
    assert "line 3: the column 'text' is blank" in fault(write("t.csv", 'text,label\na,1\n,1\n"b"b,1\n'))


def test_many_columns_and_many_classes_are_read(write: Write) -> None:
    """In a second; each of the two took over 40 when every name was looked for in a list."""
    wide = write("wide.tsv", "\t".join(f"c{k}" for k in range(60_000)) + "\n" + "\t".join("x" * 60_000) + "\n")
    assert read_table(wide, text="c7", label="c59999")[0] == (Example("wide.tsv:2", "x", None, 0),)
    assert "no column 'text'; found 'c0', 'c1'" in fault(wide)
    assert len(fault(wide)) < 500
    many = write("many.tsv", "text\tlabel\n" + "".join(f"t\tk{k:05}\n" for k in range(50_000)))
    task = load_task("table", files={"train": many, "test": many}, columns=Columns("text", label="label"))
    assert [example.label for example in task.splits["test"]] == list(range(50_000))


def test_json_key_that_occurs_twice_is_refused_by_line(write: Write) -> None:
    path = write("t.jsonl", '{"text": "a", "label": 1}\n{"text": "a", "text": "b", "label": 1}\n')
    assert "line 2: the column 'text' occurs twice: expected different names" in fault(path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.tsv")
    assert "a named pipe: expected a text file" in fault(tmp_path / "t.tsv")


BAD = {
    "tsv": ("text\tlabel\na\tx\n \tx\nb\ty\nc\nd\t\ne\tz\tz\nf\ty\n", 3, ["line 3: the column 'text' is blank"]),
    "csv": ('text,label\na,x\n"",x\nb,y\nc\nf,y\n', 3, ["line 3: the column 'text' is blank", "line 5: 1 fields"]),
    "jsonl": (
        '{"text": "a", "label": "x"}\n{"label": "x"}\n{"text": \n[1]\n{"text": "b", "label": null}\n'
        '{"text": "b", "label": "y"}\n{"text": "\\ud83d", "label": "y"}\n{"text": "f", "label": "y"}\n',
        3,
        [
            "line 2: no column 'text'",
            "line 3: malformed JSON",
            "line 4: JSON of type list",
            "line 5: the column 'label'",
        ],
    ),
}


@pytest.mark.parametrize("suffix", BAD)
def test_bad_rows_are_skipped_counted_and_the_first_named_where_that_is_asked_for(write: Write, suffix: str) -> None:
    content, sound, first = BAD[suffix]
    skipped = Tally()
    path = write(f"t.{suffix}", content)
    examples, labels = read_table(path, text="text", label="label", skipped=skipped)
    assert (len(examples), labels) == (sound, ("x", "y"))
    lines = len([line for line in content.splitlines() if line]) - (suffix != "jsonl")
    assert skipped.count == lines - sound
    assert all(said.startswith(expected) for said, expected in zip(skipped.first, first, strict=False))
    assert first[0] in fault(path)


def test_bad_bytes_are_skipped_by_line_but_not_within_csv_quoting(write: Write) -> None:
    skipped = Tally()
    rows = b"text\na\ncaf\xe9\nb\0\nc\n"
    assert len(read_table(write("t.tsv", rows), text="text", skipped=skipped)[0]) == 2
    assert skipped.first == [
        "line 3: not valid UTF-8: expected UTF-8 text",
        "line 4: a NUL character: expected UTF-8 text",
    ]
    with pytest.raises(SoRAError, match="line 3: not valid UTF-8"):
        read_table(write("t.csv", rows), text="text", skipped=Tally())


def test_labels_and_ids_with_a_fault_are_skipped_too(write: Write) -> None:
    skipped = Tally()
    path = write("t.tsv", "id\ttext\tlabel\n1\ta\tx\n1\tb\tx\n2\tc\tq\n3\td\ty\n")
    examples, _ = read_table(path, id="id", text="text", label="label", labels=("x", "y"), skipped=skipped)
    assert [example.id for example in examples] == ["1", "3"]
    assert [said.split(": expected")[0] for said in skipped.first] == [
        "line 3: the id '1' is that of line 2 too",
        "line 4: the label 'q' is not in the set",
    ]
    numbers = Tally()
    assert len(read_table(path, text="text", label="id", kind="regression", skipped=numbers)[0]) == 4
    assert "has no rows left, skipped 4 (line 2: the label 'x' is not a finite number" in fault(
        path, kind="regression", skipped=numbers
    )


def test_a_table_of_bad_rows_alone_is_refused(write: Write) -> None:
    assert "has no rows left, skipped 2 (line 2: 1 fields" in fault(
        write("t.tsv", "text\tlabel\na\nb\n"), skipped=Tally()
    )


def test_text_beyond_a_million_characters_is_a_fault_of_its_row(write: Write) -> None:
    path = write("long.tsv", f"text\tlabel\n{'a' * 1_000_000}\tx\n{'a' * 1_000_001}\ty\nshort\tz\n")
    sentence = f"{path}, line 3: a text of 1,000,001 characters: expected at most 1,000,000"
    assert fault(path) == sentence
    examples, _ = read_table(path, text="text", label="label", skipped=(skipped := Tally()))
    assert [example.label for example in examples] == [0, 1]
    assert skipped.count == 1
