"""What goes to TensorBoard, read back from its own files; resuming, a missing package, a sink that fails.

MLflow's twin is in tests/oracles.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_run import EPOCH, flags, make_config, make_keys, outcome, patch_step, records, run_once

from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.run import loggers as sinks
from sora_ref.run.interrupt import Interrupted, Stop
from sora_ref.run.loggers import Loggers, require_loggers, values_of

Keys = dict[str, Any]
ON: Keys = {"train__loggers": ["tensorboard"]}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("loggers"))


def events(run: Path) -> dict[str, dict[int, float]]:
    """Numbers by name and step as TensorBoard shows them: a START at step n forgets what the file before has from n."""
    # It imports torch wherever that is installed, which takes seconds: not in every process that collects the tests.
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {}
    for path in sorted((run / "tensorboard").iterdir(), key=lambda path: int(path.suffix[1:])):
        data = path.read_bytes()
        while data:  # a TFRecord: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for points in found.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                points = found.setdefault(value.tag, {})
                assert event.step not in points, f"{value.tag} at step {event.step} twice"
                points[event.step] = value.simple_value
    return found


def logged(run: Path) -> dict[str, dict[int, float]]:
    """The same from metrics.jsonl, rounded to the float32 that an event holds."""
    found: dict[str, dict[int, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in values_of(record).items():
            found.setdefault(name, {})[record["step"]] = struct.unpack("f", struct.pack("f", value))[0]
    return found


@contextmanager
def stop_at(step: int) -> Iterator[None]:
    """A stop that is asked for while this step is made."""
    from sora_ref import training_step

    event = Stop()

    @contextmanager
    def requested() -> Iterator[Stop]:
        yield event

    def counted(*arguments: Any) -> Any:
        found = training_step(*arguments)
        if found[0].t == step:
            event.set()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sora_ref.run.training.stop_requested", requested)
        patch_step(patch, counted)
        yield


def test_events_are_the_numbers_of_metrics_jsonl_and_change_nothing(keys: Keys, tmp_path: Path) -> None:
    run_once(tmp_path / "plain", keys)
    run_once(tmp_path / "run", keys, **ON)
    found = events(tmp_path / "run")
    assert found == logged(tmp_path / "run")
    assert {"train/loss", "train/gates_at_zero", "validation/accuracy"} <= found.keys()
    assert set(found["validation/accuracy"]) == {EPOCH, 2 * EPOCH}
    plain, with_sink = outcome(tmp_path / "plain"), outcome(tmp_path / "run")
    plain.pop("config.toml"), with_sink.pop("config.toml")
    assert plain == with_sink


def test_resumed_run_shows_every_step_once(keys: Keys, tmp_path: Path) -> None:
    with stop_at(7), pytest.raises(Interrupted):
        run_once(tmp_path / "run", keys, **ON, train__log_every=1)
    assert set(events(tmp_path / "run")["train/loss"]) == set(range(1, 8))
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    newest.unlink()  # as after a kill at step 7: the checkpoint before is the last
    run_once(tmp_path / "run", keys, resume=True, **ON, train__log_every=1)
    assert set(events(tmp_path / "run")["train/loss"]) == set(range(1, 11))
    assert events(tmp_path / "run") == logged(tmp_path / "run")


def test_logger_may_be_added_to_a_run_that_has_begun_without(keys: Keys, tmp_path: Path) -> None:
    with stop_at(6), pytest.raises(Interrupted):
        run_once(tmp_path / "run", keys)
    run_once(tmp_path / "run", keys, resume=True, **ON)
    assert set(events(tmp_path / "run")["train/loss"]) == {
        record["step"] for record in records(tmp_path / "run", "train") if record["step"] > 6
    }


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_missing_package_is_one_sentence_with_the_command_before_anything_is_made(
    keys: Keys, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SoRAError, match=rf"^train\.loggers has {name}, .*: pip install 'sora_ref\[{name}\]'$"):
        run_once(tmp_path / "run", keys, train__loggers=[name])
    assert not (tmp_path / "run").exists()
    require_loggers([])


def test_unknown_logger_is_refused_with_those_there_are(keys: Keys) -> None:
    with pytest.raises(SoRAError, match=r"train\.loggers .*expected one of 'tensorboard', 'mlflow'"):
        make_config(keys, train__loggers=["wandb"])


class Broken:
    """A sink whose disk is full."""

    closed = 0

    def __init__(self, *_: Any) -> None:
        pass

    def log(self, *_: Any) -> None:
        raise OSError("No space left on device")

    def close(self, status: str) -> None:
        Broken.closed += 1


def test_logger_that_fails_while_training_is_given_up_and_the_run_goes_on(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(sinks, "_KINDS", {"tensorboard": Broken})
    summary = run_once(tmp_path / "run", keys, **ON, say=said.append)
    assert summary["steps"] == 2 * EPOCH
    warning = "warning: tensorboard is no longer logged to (No space left on device); metrics.jsonl has everything"
    assert [line for line in said if "tensorboard" in line] == [warning]


def test_logger_that_cannot_be_opened_is_one_sentence_and_those_opened_are_closed(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no route to host\nsecond line")

    monkeypatch.setattr(sinks, "_KINDS", {"tensorboard": Broken, "mlflow": refuse})
    Broken.closed = 0
    with pytest.raises(SoRAError, match=r"^mlflow cannot be logged to \(no route to host second line\): mend it"):
        Loggers(["tensorboard", "mlflow"], tmp_path, make_config(keys), 0, lambda line: None)
    assert Broken.closed == 1


@pytest.mark.parametrize(
    ("raised", "status"), [(None, "FINISHED"), (Interrupted("x"), "KILLED"), (SoRAError("x"), "FAILED")]
)
def test_loggers_are_told_how_the_run_ended(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None, status: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Broken, "close", lambda self, status: told.append(status))
    monkeypatch.setattr(sinks, "_KINDS", {"tensorboard": Broken})
    made = sinks.opened(["tensorboard"], tmp_path, make_config(keys), 0, lambda line: None)
    with contextlib.suppress(Interrupted, SoRAError), made:
        if raised is not None:
            raise raised
    assert told == [status]


def test_values_are_numbers_by_kind_or_split_and_nothing_else() -> None:
    record = {"step": 3, "kind": "train", "loss": 0.5, "norm": None, "clipped": True, "note": "x"}
    assert values_of(record) == {"train/loss": 0.5}
    validation = {"step": 3, "kind": "validation", "split": "validation_matched", "stage": 1, "accuracy": 1}
    assert values_of(validation) == {"validation_matched/stage": 1.0, "validation_matched/accuracy": 1.0}
    stage = {"step": 3, "kind": "stage", "performance": {"nonzero": 4, "memorization": None}}
    assert values_of(stage) == {"stage/performance.nonzero": 4.0}


def test_flag_names_the_sink(keys: Keys, tmp_path: Path) -> None:
    """In this process: another would import TensorBoard's library, and torch with it, once more."""
    arguments = ["train", "--out", str(tmp_path / "run"), "--quiet", "--log-to", "tensorboard", *flags(keys)]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert events(tmp_path / "run") == logged(tmp_path / "run")
