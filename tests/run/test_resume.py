"""Whatever stops a run, and whenever: resumed, it ends with the numbers and the logs it would have had."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sampling import sample
from stopping import Keys, Killed, at_call, kill, scraps, stop, stopped
from tiny_run import (
    EPOCH,
    SCHEDULE,
    copy_run,
    flags,
    last,
    make_keys,
    outcome,
    run_once,
    tree,
)

from sora_ref.errors import SoRAError
from sora_ref.run import active
from sora_ref.run.checkpoint import checkpoint_path, checkpoints
from sora_ref.run.interrupt import Interrupted, stop_requested

STEPS = 2 * EPOCH


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def scheduled(keys: Keys) -> Keys:
    """Three stages of an epoch, on fewer modules."""
    return keys | SCHEDULE | {"adapter.kinds": ["query", "intermediate"]}


@pytest.fixture(scope="module")
def whole(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run ends with."""
    run = tmp_path_factory.mktemp("whole") / "run"
    run_once(run, keys)
    return outcome(run)


@pytest.fixture(scope="module")
def whole_schedule(scheduled: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    run_once(run, scheduled)
    return outcome(run)


@contextmanager
def filmed(run: Path, film: Path) -> Iterator[list[str]]:
    """Copy the run directory before every call that changes it: what a kill -9 just then leaves, scraps included.

    A line is also filmed half-written.  Yields what was called; call n is in `film`/n, its torn form in `film`/n-torn.
    """
    calls: list[str] = []
    real_replace, real_append, real_unlink = os.replace, active.append_lines, Path.unlink

    def shoot(name: str) -> Path:
        calls.append(name)
        return copy_run(run, film / str(len(calls)))

    def replace(source: Any, target: Any) -> None:
        shoot(f"replace {Path(target).name}")
        real_replace(source, target)

    def append(path: Path, records: Any) -> None:
        records = list(records)
        torn = copy_run(shoot(f"append {path.name}"), film / f"{len(calls)}-torn") / path.name
        real_append(torn, records)
        added = torn.stat().st_size - (path.stat().st_size if path.exists() else 0)
        os.truncate(torn, torn.stat().st_size - added // 2)
        real_append(path, records)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        shoot(f"unlink {path.name}")
        real_unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", replace)
        patch.setattr(active, "append_lines", append)
        patch.setattr("pathlib.Path.unlink", unlink)
        yield calls


@pytest.mark.parametrize("step", sample(range(1, STEPS + 1), 2, 5, STEPS))
def test_run_killed_in_any_step_and_resumed_ends_with_the_same_bits_and_logs(
    keys: Keys, whole: dict[str, Any], tmp_path: Path, step: int
) -> None:
    stop(step, tmp_path / "run", keys, kill, Killed)
    assert last(tmp_path / "run").position.step == (step - 1) // 3 * 3
    run_once(tmp_path / "run", keys, resume=True)
    assert outcome(tmp_path / "run") == whole


def test_run_killed_before_it_removed_an_old_checkpoint_ends_with_the_files_of_an_uninterrupted_one(
    keys: Keys, tmp_path: Path
) -> None:
    run_once(tmp_path / "run", keys)
    whole = tree(tmp_path / "run").keys()
    (tmp_path / "run" / "summary.json").unlink()
    checkpoint_path(tmp_path / "run", 6).write_bytes(checkpoints(tmp_path / "run")[0].read_bytes())
    run_once(tmp_path / "run", keys, resume=True)
    assert tree(tmp_path / "run").keys() == whole


@pytest.mark.parametrize("step", sample([2, 6, 7, 11, 15], 7, 15))
def test_sparsifying_run_killed_in_any_stage_and_resumed_ends_with_the_same_bits_and_logs(
    scheduled: Keys, whole_schedule: dict[str, Any], tmp_path: Path, step: int
) -> None:
    stop(step, tmp_path / "run", scheduled, kill, Killed)
    run_once(tmp_path / "run", scheduled, resume=True)
    assert outcome(tmp_path / "run") == whole_schedule


def test_log_of_gates_has_the_same_bytes_after_a_resume(keys: Keys, tmp_path: Path) -> None:
    """The picture of the gates takes them by their place in the record, so their order matters."""
    run_once(tmp_path / "whole", keys)
    run_once(stopped(tmp_path / "run", keys), keys, resume=True)
    assert (tmp_path / "run" / "gates.jsonl").read_bytes() == (tmp_path / "whole" / "gates.jsonl").read_bytes()


@pytest.fixture(scope="module")
def film(scheduled: Keys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("film")
    with filmed(folder / "run", folder) as calls:
        run_once(folder / "run", scheduled)
    return folder, calls


def test_film_shows_every_kind_of_change(film: tuple[Path, list[str]]) -> None:
    _, calls = film
    assert {call.partition("-")[0] for call in calls} == {
        *(f"replace {name}.json" for name in ("versions", "inputs", "memorization_ids", "summary")),
        "replace config.toml",
        *("replace step", "replace stage", "unlink step", "append gates.jsonl", "append metrics.jsonl"),
    }


@pytest.mark.parametrize(
    ("torn", "every"), sample([(False, 6), (False, 1), (True, 8), (True, 2)], (False, 6), (True, 8))
)
def test_sparsifying_run_killed_at_any_change_of_the_disk_and_resumed_ends_with_the_same_bits_and_logs(
    scheduled: Keys,
    whole_schedule: dict[str, Any],
    film: tuple[Path, list[str]],
    tmp_path: Path,
    torn: bool,
    every: int,
) -> None:
    """Every replaced file, appended line and removed checkpoint; a plain run is stage 0 of this.

    Up to the first checkpoint there is nothing to go on with, so the run begins again.
    """
    folder, calls = film
    kills = [(n, call) for n, call in enumerate(calls, 1) if not torn or call.startswith("append")]
    for n, call in kills[::every]:
        run = copy_run(folder / (f"{n}-torn" if torn else str(n)), tmp_path / str(n))
        run_once(run, scheduled, resume="if-any")
        assert outcome(run) == whole_schedule, f"killed at {call}, call {n}"
        assert scraps(run) == []


def test_run_killed_before_its_first_checkpoint_is_not_resumed_but_begun_again(
    scheduled: Keys, whole_schedule: dict[str, Any], film: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """The sentence says to train without --resume, and that then works: there is nothing of value in the folder."""
    folder, calls = film
    outset = calls[: calls.index("replace step-00000000.safetensors") + 1]
    assert outset == [
        *(f"replace {name}" for name in ("versions.json", "inputs.json", "config.toml", "memorization_ids.json")),
        *("append gates.jsonl", "replace step-00000000.safetensors"),
    ]
    for n in range(1, len(outset) + 1):
        run = copy_run(folder / str(n), tmp_path / str(n))
        before = tree(run)
        expected = "no run there" if n == 1 else r"stopped before its first checkpoint.*: train without --resume"
        with pytest.raises(SoRAError, match=expected):
            run_once(run, scheduled, resume=True)
        assert tree(run) == before
        run_once(run, scheduled)
        assert outcome(run) == whole_schedule
        assert scraps(run) == []


def test_run_begun_again_keeps_nothing_of_the_one_before(
    scheduled: Keys, keys: Keys, whole: dict[str, Any], film: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, calls = film
    run = copy_run(folder / str(calls.index("replace step-00000000.safetensors") + 1), tmp_path / "run")
    run_once(run, keys)
    assert outcome(run) == whole


def test_hidden_files_of_ones_own_in_a_run_directory_are_left_alone(keys: Keys, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", keys)
    for name in (".env.local", ".notes.md", ".config.toml.swp"):
        (run / name).write_text("mine")
    run_once(run, keys, resume=True)
    assert sorted(scraps(run)) == [".config.toml.swp", ".env.local", ".notes.md"]


def test_run_stopped_again_and_again_ends_with_the_same_bits_and_logs(
    keys: Keys, whole: dict[str, Any], tmp_path: Path
) -> None:
    run_once_more: dict[str, Any] = {}
    for n in range(STEPS):
        stop(1, tmp_path / "run", keys, lambda: signal.raise_signal(signal.SIGINT), Interrupted, **run_once_more)
        run_once_more = {"resume": True}
        assert last(tmp_path / "run").position.step == n + 1
    run_once(tmp_path / "run", keys, resume=True)
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("request_stop", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_run_finishes_its_step_and_saves(
    keys: Keys, whole: dict[str, Any], tmp_path: Path, request_stop: signal.Signals
) -> None:
    run = tmp_path / "run"
    handlers = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    with at_call(5, lambda: signal.raise_signal(request_stop)) as calls, pytest.raises(Interrupted) as caught:
        run_once(run, keys)
    assert str(caught.value) == f"{run}: stopped at step 5; --resume goes on from there"
    assert len(calls) == 5
    assert checkpoints(run)[-1] == checkpoint_path(run, 5)
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == handlers
    run_once(run, keys, resume=True)
    assert outcome(run) == whole


def test_second_request_to_stop_acts_as_usual_and_handlers_come_back() -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process inherits SIG_IGN
    try:
        with stop_requested() as event:
            assert not event.is_set()
            signal.raise_signal(signal.SIGINT)
            assert event.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_requested() as event:
            seen.append(event.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def start(run: Path, keys: Keys, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sora_ref.cli.main", "train", "--quiet", "--out", str(run), *flags(keys), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


LONG = {"train.epochs": 16, "train.checkpoint_every": 7, "train.log_every": 5}  # seconds, of which a part is given


@pytest.fixture(scope="module")
def whole_long(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    run_once(run, keys | LONG)
    return outcome(run)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_process_stopped_at_a_random_moment_and_resumed_ends_with_the_same_bits_and_logs(
    keys: Keys, whole_long: dict[str, Any], tmp_path: Path, how: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(run, keys | LONG)
    wait_for(checkpoint_path(run, 7), process)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert out == ""
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert re.fullmatch(r"sora-ref: .*/run: stopped at step \d+; --resume goes on from there\n", err)
    assert not (run / "summary.json").exists()
    assert 7 <= last(run).position.step < 16 * EPOCH
    run_once(run, keys | LONG, resume=True)
    assert outcome(run) == whole_long


def test_killed_process_leaves_no_scrap_once_it_is_resumed(keys: Keys, tmp_path: Path) -> None:
    """A kill in the middle of writing a checkpoint leaves the temporary file; the next run is to clear it away."""
    run = stopped(tmp_path / "run", keys)
    (run / "checkpoints" / ".step-00000006.safetensors.x7_kq2ab").write_bytes(b"half")
    run_once(run, keys, resume=True)
    assert scraps(run) == []
