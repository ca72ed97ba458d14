"""Where a run's records go besides metrics.jsonl: TensorBoard and MLflow, each through its own package.

A record becomes numbers by name, such as train/loss and validation/accuracy.  Resuming repeats no step: TensorBoard is
told to forget what came after the checkpoint; of MLflow's run, whose name the run directory keeps, the steps it already
has are left out, since a resumed run's numbers are the same.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sora_ref.errors import SoRAError, brief
from sora_ref.run.config import Config
from sora_ref.run.interrupt import Interrupted
from sora_ref.run.keys import flat
from sora_ref.storage.documents import read_json
from sora_ref.storage.files import write_json

_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}  # what is imported, by logger and extra


class Logger(Protocol):
    """A sink of numbers: `log` is on disk, or at the server, when it returns."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""

    def close(self, status: str) -> None:
        """The run has stopped: FINISHED, KILLED by its user, or FAILED."""


class TensorBoardLogger:
    """Events in OUT/tensorboard, written by tensorboardX: `tensorboard --logdir OUT` shows them.

    Its EventsWriter is used without the queue of its SummaryWriter, whose `flush` returns before events are on disk.
    Every start has a file of its own, by the step it goes on from and a number.
    """

    def __init__(self, out: Path, config: Config, step: int) -> None:
        writers = importlib.import_module("tensorboardX.event_file_writer")
        self._event = importlib.import_module("tensorboardX.proto.event_pb2")
        self._scalar = importlib.import_module("tensorboardX.summary").scalar
        folder = out / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._writer = writers.EventsWriter(str(folder / "events"), f".{step:08d}.{len(list(folder.iterdir()))}")
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step + 1, session_log=start)  # whatever an earlier file has from this step on is void
        self._writer.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        self._writer.flush()

    def close(self, status: str) -> None:
        """End the file."""
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        self._writer.write_event(self._event.Event(wall_time=time.time(), step=step, **what))


class _Known(msgspec.Struct):
    """OUT/mlflow.json: where the run is kept, and its name there."""

    tracking_uri: str
    run_id: str


class MlflowLogger:
    """A run of the experiment "sora-ref" at MLFLOW_TRACKING_URI, else in the database OUT/mlflow.db.

    The configuration is its parameters.  OUT/mlflow.json has its id, under which a resumed run goes on.
    """

    def __init__(self, out: Path, config: Config, step: int) -> None:
        place = out / "mlflow.json"
        self._seen: dict[str, int] = {}  # the last step that is there already, by name
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report on its use over the network
        mlflow = importlib.import_module("mlflow")
        if step and place.exists():
            known = read_json(place, _Known, "the MLflow run of a run directory")
            self._client, self._run = mlflow.MlflowClient(tracking_uri=known.tracking_uri), known.run_id
            for name in self._client.get_run(self._run).data.metrics:
                self._seen[name] = max(point.step for point in self._client.get_metric_history(self._run, name))
            self._client.update_run(self._run, status="RUNNING")
            return
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name("sora-ref")
        experiment = self._client.create_experiment("sora-ref") if found is None else found.experiment_id
        self._run = self._client.create_run(experiment, run_name=out.name).info.run_id
        for key, value in flat(msgspec.to_builtins(config)).items():
            self._client.log_param(self._run, key, value)
        write_json(place, {"tracking_uri": uri, "run_id": self._run})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step, but for those that are there already."""
        for name, value in values.items():
            if step > self._seen.get(name, -1):
                self._client.log_metric(self._run, name, value, step=step)

    def close(self, status: str) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._run, status)


_KINDS: Mapping[str, type[TensorBoardLogger | MlflowLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MlflowLogger,
}


def require_loggers(names: Sequence[str]) -> None:
    """SoRAError where the package of one of them is not installed."""
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise SoRAError(
                f"train.loggers has {name}, whose package {_PACKAGES[name]} is not installed: "
                f"pip install 'sora_ref[{name}]'"
            )


class Loggers:
    """The loggers of a run.  One that fails while it trains is given up with a warning: the run is worth more."""

    def __init__(self, names: Sequence[str], out: Path, config: Config, step: int, say: Callable[[str], None]) -> None:
        """Open them, to go on from `step`; SoRAError, in its own words, where one cannot be had."""
        self._say = say
        self._open: dict[str, Logger] = {}
        try:
            for name in names:
                self._open[name] = _KINDS[name](out, config, step)
        except Exception as error:  # a database, a server or a disk: whatever the package meets there
            self.close("FAILED")
            if isinstance(error, SoRAError):
                raise
            raise SoRAError(f"{name} cannot be logged to ({brief(str(error))}): mend it or leave it out") from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass on the numbers of a record of metrics.jsonl."""
        self._each(lambda logger: logger.log(record["step"], values_of(record)))

    def close(self, status: str) -> None:
        """Tell them how the run ended."""
        self._each(lambda logger: logger.close(status))

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                act(logger)
            except Exception as error:  # as above
                del self._open[name]
                self._say(f"warning: {name} is no longer logged to ({brief(str(error))}); metrics.jsonl has everything")


@contextlib.contextmanager
def opened(names: Sequence[str], out: Path, config: Config, step: int, say: Callable[[str], None]) -> Iterator[Loggers]:
    """The loggers of a run that goes on from `step`, closed at its end."""
    loggers, status = Loggers(names, out, config, step, say), "FAILED"
    try:
        yield loggers
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        loggers.close(status)


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record of metrics.jsonl by name: its kind, or its split, before each."""
    group = record.get("split", record["kind"])
    numbers = flat({key: value for key, value in record.items() if key not in ("step", "kind", "split")})
    return {
        f"{group}/{key}": float(value)
        for key, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
