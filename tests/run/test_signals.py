"""Whoever asks a process to end: a run writes its checkpoint, any other work is taken back, and both say so."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_run import flags, last, make_keys, outcome, run_once, tree

from sora_ref.run import starting, workers
from sora_ref.run.interrupt import SIGNALS, Ended, Interrupted, signals_held, stop_requested
from sora_ref.run.workers import worker_pool
from sora_ref.storage.files import write_text

Keys = dict[str, Any]
CODE = """
import signal, sys
from pathlib import Path
{first}
sys.argv = ["sora-ref", *sys.argv[1:]]
from _sora_ref_cli import main
main()
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("signals"))


def start(first: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The console script, with the three signals as a terminal leaves them and something done `first`."""
    usual = "signal.signal(2, signal.default_int_handler); signal.signal(15, signal.SIG_DFL); "
    code = CODE.format(first=usual + "signal.signal(1, signal.SIG_DFL)\n" + first)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=100
    )


AT_STEP = """
from dataclasses import replace
from sora_ref import training_step as real
from sora_ref.run import setup
calls = []
def step(*args, **options):
    calls.append(0)
    if len(calls) == 5: signal.raise_signal({number})
    return real(*args, **options)
setup.METHODS = {{name: replace(method, step=step) for name, method in setup.METHODS.items()}}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_training_process_that_is_ended_writes_the_checkpoint_and_exits_with_the_signals_number(
    keys: Keys, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    done = start(AT_STEP.format(number=int(number)), "train", "--quiet", "--out", str(run), *flags(keys))
    assert done.returncode == 128 + number
    assert done.stderr == f"sora-ref: {run}: stopped at step 5; --resume goes on from there\n"
    assert last(run).position.step == 5
    run_once(run, keys, resume=True)
    run_once(tmp_path / "whole", keys)
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", ["write_inputs", "initial_params", "log_gates"])
def test_signal_while_the_run_directory_is_begun_leaves_a_run_to_go_on_with(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, place: str
) -> None:
    real = getattr(starting, place)

    def asked(*arguments: Any) -> Any:
        signal.raise_signal(number)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(starting, place, asked)
        with pytest.raises(Interrupted) as caught:
            run_once(tmp_path / "run", keys)
    assert caught.value.number == number
    assert last(tmp_path / "run").position.step == 1
    run_once(tmp_path / "run", keys, resume=True)


DURING = """
import sora_ref.storage.files as files, os
real = os.replace
def replace(*args):
    signal.raise_signal({number})
    real(*args)
os.replace = replace
os.rename = replace
Path.rename = lambda self, target: replace(self, target)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_command_that_is_ended_leaves_nothing_half_written(
    keys: Keys, tmp_path: Path, number: signal.Signals
) -> None:
    run_once(tmp_path / "run", keys)
    before = tree(tmp_path)
    done = start(DURING.format(number=int(number)), "prune", str(tmp_path / "run"), "--out", str(tmp_path / "pruned"))
    assert done.returncode == 128 + number
    assert done.stderr == f"sora-ref: ended by {number.name}\n"
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_while_libraries_are_loaded_is_one_line(number: signal.Signals) -> None:
    first = "import builtins\nreal = builtins.__import__\ndef load(name, *more):\n    if name == 'click': "
    first += f"signal.raise_signal({int(number)})\n    return real(name, *more)\nbuiltins.__import__ = load"
    done = start(first, "inspect", "nothing")
    assert done.returncode == 128 + number
    assert re.fullmatch(r"sora-ref: (interrupted|ended by SIG\w+)\n", done.stderr)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_that_is_held_acts_when_it_is_let_go(number: signal.Signals, at_the_end: bool) -> None:
    def act(number: int, frame: Any) -> None:
        raise Ended(number)

    def work() -> None:
        with signals_held() as let_go:
            let_go()
            signal.raise_signal(number)
            done.append("work")
            if not at_the_end:
                let_go()
                done.append("more work")

    before, done = signal.signal(number, act), list[str]()
    try:
        with pytest.raises(Ended):
            work()
        assert done == ["work"]
        with pytest.raises(Ended):
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_hang_up_that_is_ignored_stays_ignored(keys: Keys, tmp_path: Path) -> None:
    """A run under nohup outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requested() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_file_that_is_being_written_is_taken_away_when_the_process_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any) -> None:
        raise Ended(signal.SIGTERM)

    write_text(tmp_path / "file", "old")
    monkeypatch.setattr("os.replace", ended)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("room", range(4))
def test_work_is_the_same_with_as_few_threads_as_can_be_started(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    seen: set[str] = set()
    running: list[threading.Thread] = []
    real = threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        if sum(other.is_alive() for other in running) == room:
            raise RuntimeError("can't start new thread")
        running.append(thread)
        real(thread)

    def square(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * number

    monkeypatch.setattr(threading.Thread, "start", begin)
    with worker_pool(3) as parallel_map:
        assert list(parallel_map(square, range(50))) == [number * number for number in range(50)]
    assert len(running) >= min(room, 3)
    assert (seen == {threading.current_thread().name}) == (room == 0)
    assert not any(thread.is_alive() for thread in running)


def test_run_without_room_for_threads_ends_with_the_same_bits(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(tmp_path / "whole", keys)
    monkeypatch.setattr(workers, "_started", lambda count: None)
    run_once(tmp_path / "run", keys)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
