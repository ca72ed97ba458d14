"""Checkpoints: one safetensors file holds the whole state of a run; trained adapters use the same form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sora_ref import SPEC_VERSION, Moments, TrainState, __version__
from sora_ref.checks import require
from sora_ref.errors import SoRAError
from sora_ref.run.setup import Labels, Setup
from sora_ref.run.transfer import fetch
from sora_ref.storage.files import read_tensors, tensor_bytes, write_bytes

FORMAT = 1
_PARTS = ("params", "m", "v")


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    step: optimiser steps made in all;  stage, stage_step: of the sparsifying scheduler, and steps made in it.
    loss_sum, loss_steps: losses not logged yet;  seconds: training time so far;  threshold_sum: Σ of scalar thresholds.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    threshold_sum: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What a checkpoint says of a trained model, without the frozen base.

    moments are None where the file holds parameters only.  scales are the s fixed at creation.
    """

    params: Mapping[str, np.ndarray]
    moments: Mapping[str, Moments] | None
    t: int
    position: Position
    scales: Mapping[str, float]
    labels: Labels
    base: str


def trained_of(setup: Setup, state: TrainState, position: Position, base: str, *, moments: bool) -> Trained:
    """The state on the host, ready to be written."""
    pairs = state.moments if moments else {}
    on_device = [*state.params.values(), *(x for pair in pairs.values() for x in pair)]
    found, n = fetch(setup.backend, on_device), len(state.params)
    params, ms, vs = found[:n], found[n::2], found[n + 1 :: 2]
    return Trained(
        params=dict(zip(state.params, params, strict=True)),
        moments={n: Moments(m, v) for n, m, v in zip(pairs, ms, vs, strict=True)} if moments else None,
        t=state.t,
        position=position,
        scales=dict(setup.scales),
        labels=setup.labels,
        base=base,
    )


def checkpoint_bytes(trained: Trained) -> bytes:
    """The file's contents; `read_checkpoint` gives `trained` back."""
    tensors = {f"params/{name}": array for name, array in trained.params.items()}
    for name, (m, v) in (trained.moments or {}).items():
        tensors |= {f"m/{name}": m, f"v/{name}": v}
    facts = {
        "format": FORMAT,
        "sora_ref": __version__,
        "spec": SPEC_VERSION,
        "t": trained.t,
        "position": asdict(trained.position),
        "scales": dict(trained.scales),
        "labels": asdict(trained.labels),
        "base": trained.base,
        "moments": trained.moments is not None,
    }
    return tensor_bytes(tensors, facts)


def read_checkpoint(path: Path) -> Trained:
    """What `checkpoint_bytes` made; SoRAError where the file is missing, damaged or of another format."""
    tensors, facts = read_tensors(path)
    require(facts.get("format") == FORMAT, f"{path}: checkpoint format {facts.get('format')}: expected {FORMAT}")
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    for key, array in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = array
    labels = facts["labels"]
    moments = {name: Moments(parts["m"][name], parts["v"][name]) for name in parts["m"]}
    return Trained(
        params=parts["params"],
        moments=moments if facts["moments"] else None,
        t=facts["t"],
        position=Position(**facts["position"]),
        scales=facts["scales"],
        labels=Labels(labels["kind"], tuple(labels["names"]), tuple(labels["metrics"])),
        base=facts["base"],
    )


def state_of(setup: Setup, trained: Trained) -> TrainState:
    """The state on the setup's device, checked against what the setup trains: names are the caller's to compare."""
    if trained.moments is None:
        raise SoRAError("the checkpoint holds no optimiser moments: expected one written during training")
    send = setup.backend.from_host
    return TrainState(
        params={name: send(array) for name, array in trained.params.items()},
        moments={name: Moments(send(m), send(v)) for name, (m, v) in trained.moments.items()},
        t=trained.t,
    )


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / "checkpoints" / f"step-{step:08d}.safetensors"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*.safetensors"))


def save(run: Path, trained: Trained, *, keep: int = 2) -> Path:
    """Write the checkpoint of the trained position and drop all but the last `keep`."""
    path = checkpoint_path(run, trained.position.step)
    write_bytes(path, checkpoint_bytes(trained))
    for old in checkpoints(run)[:-keep]:
        with suppress(OSError):
            old.unlink()
    return path


def without_moments(trained: Trained) -> Trained:
    """The parameters alone: what is shipped."""
    return replace(trained, moments=None)


def describe(path: Path, error: SoRAError, others: list[Path]) -> SoRAError:
    """The error of a damaged checkpoint, naming the one before it where there is one."""
    rest = [other for other in others if other != path]
    hint = f"; remove it to resume from {rest[-1].name}" if rest else ""
    return SoRAError(f"{error}{hint}")
