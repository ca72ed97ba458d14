"""Logs: a line that a kill cut short is dropped, and what a resumed run writes again is cut off."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sora_ref.errors import SoRAError
from sora_ref.storage.logs import append_lines, json_lines, keep_lines


def read_lines(path: Path) -> list[Any]:
    return [record for _, _, record in json_lines(path, dict[str, Any], "a log")]


RECORDS: list[dict[str, Any]] = [{"step": k, "loss": 0.1 * k, "text": "ü\n"} for k in range(4)]


def test_lines_come_back_and_those_of_later_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_lines(path) == []
    keep_lines(path, 1)
    assert not path.exists()
    append_lines(path, RECORDS[:2])
    append_lines(path, RECORDS[2:])
    assert read_lines(path) == RECORDS
    before = path.read_bytes()
    keep_lines(path, 3)
    assert path.read_bytes() == before
    keep_lines(path, 1)
    assert read_lines(path) == RECORDS[:2]
    keep_lines(path, -1)
    assert path.read_bytes() == b""


def test_log_whose_steps_go_back_is_refused_and_stays(tmp_path: Path) -> None:
    """A damaged step would else cut off what is sound."""
    path = tmp_path / "log"
    append_lines(path, [{"step": 0}, {"step": 900}, {"step": 2}])
    before = path.read_bytes()
    for last_step in (0, 5, 1000):
        with pytest.raises(SoRAError, match=r"log, line 3: damaged \(step 2 after step 900\): expected a log of a run"):
            keep_lines(path, last_step)
        assert path.read_bytes() == before


def test_cutting_a_log_takes_the_memory_of_a_line(tmp_path: Path) -> None:
    path, long = tmp_path / "log", "x" * 1000
    append_lines(path, ({"step": step, "more": long} for step in range(20_000)))
    tracemalloc.start()
    keep_lines(path, 10_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000 < 10_000_000 < path.stat().st_size
    assert path.read_bytes().count(b"\n") == 10_001


def test_file_cut_anywhere_keeps_its_whole_lines_and_is_mended(tmp_path: Path) -> None:
    path, whole = tmp_path / "log", tmp_path / "whole"
    append_lines(whole, RECORDS)
    data = whole.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        complete = data[:length].count(b"}\n")  # a line ends with its line feed, not before
        assert read_lines(path) == RECORDS[:complete]
        keep_lines(path, 99)
        append_lines(path, RECORDS[complete:])
        assert path.read_bytes() == data


def test_log_that_is_a_link_is_neither_written_nor_cut(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs.txt", tmp_path / "metrics.jsonl"
    theirs.write_text('{"step": 9}\n')
    link.symlink_to(theirs)
    with pytest.raises(SoRAError, match=r"metrics\.jsonl: a link: expected a log of the run's own"):
        append_lines(link, [{"step": 1}])
    with pytest.raises(SoRAError, match="a link"):
        keep_lines(link, 0)
    assert theirs.read_text() == '{"step": 9}\n'


def test_log_that_is_no_text_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 0}\n\xff\xfe\n{"step": 1}\n')
    with pytest.raises(SoRAError, match="log"):
        read_lines(path)


def test_a_log_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SoRAError, match=r"file/x: cannot be written \(.+\): expected a writable folder"):
        append_lines(tmp_path / "file" / "x", [{}])
