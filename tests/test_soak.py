"""The campaign of `make soak` can fail: it finds the faults that are planted here, and names the case."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sora_ref.errors import SoRAError
from tests.soak import crashes, disk, fetching, writers
from tests.soak.fuzz import engine
from tests.soak.fuzz.format import Format
from tests.soak.fuzz.formats import FORMATS
from tests.soak.ground import Ground, finish_run, names
from tests.soak.limits import Limits
from tests.soak.report import Report
from tests.soak.result import Result

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_ranks", "draw_gates"):  # the ground replaces them; this brings them back
            patch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)
        yield Ground(tmp_path_factory.mktemp("soak"))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test does not wait for."""
    monkeypatch.setattr(engine, "Limits", partial(Limits, seconds=0.3, memory=2**26))


def read_by(read: Callable[[Path], Any], tmp_path: Path) -> Format:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"whole")
    return Format("made up", lambda _: tmp_path / "folder", lambda rng, files: {"file": rng.randbytes(3)}, read)


def spin(_: Path) -> None:
    while True:
        pass


def refuse(length: int) -> Callable[[Path], None]:
    def read(_: Path) -> None:
        raise SoRAError("x" * length)

    return read


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "raises what is not ours": (lambda _: dict[str, int]()["key"], "KeyError: 'key'"),
    "hangs": (spin, "takes more than 0.3 s"),
    "eats memory": (lambda _: bytearray(2**33), "takes more than"),
    "dies": (lambda _: os.kill(os.getpid(), signal.SIGTERM), "the process dies of SIGTERM"),
    "leaves": (lambda _: os._exit(70), "the process leaves with 70"),
    "speaks": (lambda _: os.write(2, b"thread panicked"), "words on stderr: thread panicked"),
    "says too much": (refuse(2000), "a sentence of 2000 characters"),
    "says nothing": (refuse(0), "an empty sentence"),
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("how", FAULTS)
def test_a_reader_that_is_wrong_is_found_with_the_bytes_that_did_it(ground: Ground, tmp_path: Path, how: str) -> None:
    read, words = FAULTS[how]
    results = list(engine.slice_of(ground, read_by(read, tmp_path), 5, range(2)))
    assert [result.fault[: len(words)] for result in results] == [words, words]
    assert [result.case for result in results] == ["fuzz:made up:5:0", "fuzz:made up:5:1"]
    assert all(len(result.files["file"]) == 3 for result in results)


def test_a_reader_that_refuses_in_a_sentence_is_right(ground: Ground, tmp_path: Path) -> None:
    (result,) = engine.slice_of(ground, read_by(refuse(20), tmp_path), 5, range(1))
    assert (result.outcome, result.fault) == ("x" * 20, "")


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].fresh])
def test_undamaged_files_of_every_format_are_accepted_and_cases_are_their_seeds(ground: Ground, name: str) -> None:
    format = FORMATS[name]
    engine.require_sound(ground, format)
    files = engine.files_of(format.folder(ground))
    first, again, other = (engine.damaged(format, 1, number, files) for number in (4, 4, 5))
    assert first == again != other


def test_a_folder_that_appears_file_by_file_is_found(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crashes.crash(ground, "prune", crashes.dying_at(ground.folder, 3)) == ""
    whole = ground.shipped["prune"]

    def rename(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)
        shutil.rmtree(self)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        changes, _ = crashes._measure(ground, "prune")
        before = [crashes.dying_at(ground.folder, number) for number in range(changes, changes - 12, -1)]
        faults = [crashes.crash(ground, "prune", each) for each in before]
    assert any(fault.startswith("half a folder") for fault in faults), whole


def test_a_run_that_goes_on_otherwise_is_found(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ground.fresh() / "run"
    shutil.copytree(ground.wholes["train"].folder, out)
    (out / "summary.json").unlink()
    max(out.glob("checkpoints/step-*")).unlink()
    monkeypatch.setattr("sora_ref.run.starting.cut_logs", lambda *_: None)
    assert "metrics.jsonl" in finish_run(ground, "train", out)


def test_two_writers_that_both_go_on_are_found(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    from sora_ref.run import training

    real = training.input_files

    def late(*given: Any) -> Any:
        time.sleep(0.5)
        return real(*given)

    monkeypatch.setattr(training, "only_writer", lambda _: nullcontext())
    monkeypatch.setattr(training, "input_files", late)
    faults = [next(writers.cases(ground, seed, 0)).fault for seed in range(3)]
    assert any(faults)


def test_what_a_full_disk_leaves_behind_is_found(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    (right,) = disk.one(ground, "disk:prune:limit:100")
    assert (right.fault, right.outcome != "done") == ("", True)
    monkeypatch.setattr("sora_ref.storage.folder.shutil.rmtree", lambda *_, **__: None)
    (wrong,) = disk.one(ground, "disk:prune:limit:100")
    assert wrong.fault.startswith("leaves ['.out.writing-")


def test_a_fetch_that_stores_in_place_is_found(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    (right,) = fetching.cases(ground, 3, 2)
    assert (right.kind, right.fault) == ("limit", "")
    monkeypatch.setattr("sora_ref.storage.cache.shutil.rmtree", lambda *_, **__: None)
    monkeypatch.setattr("sora_ref.storage.cache._sweep", lambda *_: None)
    (wrong,) = fetching.cases(ground, 3, 2)
    assert wrong.fault.startswith("leaves .toy-")


def test_a_report_counts_causes_and_keeps_the_files_of_the_first(tmp_path: Path) -> None:
    report = Report(tmp_path, seed=3)
    for number in range(9):
        fault = f"KeyError: 'k{number}'" if number > 3 else ""
        case = f"fuzz:toml:3:{number}"
        first = report.add(Result("fuzz", "toml", case, "accepted", fault, 0.1 * number, files={"a/b": b"x"}))
        assert first is (number == 4)
    assert (report.cases, report.failed, len(report.causes)) == (9, 5, 1)
    assert report.failures() == ["5 × fuzz toml: KeyError: 'k4' [fuzz:toml:3:4, fuzz:toml:3:5, fuzz:toml:3:6]"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"fuzz-toml-3-{number}" for number in (4, 5, 6)]
    assert (tmp_path / "fuzz-toml-3-4" / "a" / "b").read_bytes() == b"x"
    assert json.loads(report.to_json({}))["failures"] == report.failures()
    assert "| fuzz | toml | 9 | 5 | 2 | 0.80 s |  |" in report.table()


def test_an_unknown_part_is_refused_in_a_sentence() -> None:
    command = [sys.executable, "-m", "tests.soak", "--only", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "no part nothing: expected some of kills" in done.stderr


def test_earlier_checkpoints_are_counted_and_the_last_one_is_named(tmp_path: Path) -> None:
    def run(*steps: int) -> frozenset[str]:
        folder = tmp_path / "-".join(map(str, steps)) / "checkpoints"
        folder.mkdir(parents=True)
        for step in steps:
            (folder / f"step-{step:08d}.safetensors").touch()
        return names(folder.parent)

    assert run(13, 15) == run(14, 15)  # a polite stop at step 14 wrote one of its own
    assert len({run(12, 15, 16), run(15, 16), run(15, 17), run(15)}) == 4
