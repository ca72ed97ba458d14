"""Checkpoints: one safetensors file holds the whole state of a run; trained adapters use the same form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from sora_ref import SPEC_VERSION, TrainState, __version__
from sora_ref.errors import SoRAError, printable, shown
from sora_ref.optim import Moments
from sora_ref.preconditions import require
from sora_ref.run import layout
from sora_ref.run.data import Labels
from sora_ref.run.setup import Setup
from sora_ref.run.transfer import gather_to_host
from sora_ref.storage.documents import Whole, convert
from sora_ref.storage.files import write_bytes
from sora_ref.storage.sealed import read_sealed, sealed_bytes

FORMAT = 1
KEPT = 2  # checkpoints of a run
_EXPECTED = "a checkpoint of sora-ref"
_NonNegative = Annotated[float, Meta(ge=0)]
_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})\.safetensors")


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    step: optimiser steps made in all;  stage, stage_step: of the sparsifying scheduler, and steps made in it.
    loss_sum, loss_steps: losses not logged yet;  seconds: training time so far;  threshold_sum: Σ of scalar thresholds.
    planned: steps of the whole run, 0 where an older version did not say.
    best_score, best_step: of the best evaluation, None before there is one;  evaluations_since: those that followed it.
    """

    step: Whole = 0
    stage: Whole = 0
    stage_step: Whole = 0
    loss_sum: float = 0.0
    loss_steps: Whole = 0
    seconds: _NonNegative = 0.0
    threshold_sum: _NonNegative = 0.0
    planned: Whole = 0
    best_score: float | None = None
    best_step: Whole = 0
    evaluations_since: Whole = 0


class Facts(Struct, frozen=True, kw_only=True):
    """What a checkpoint says in words beside its tensors; see `Trained`."""

    t: Whole
    position: Position
    scales: dict[str, float]
    labels: Labels
    base: str
    moments: bool


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
    found, n = gather_to_host(setup.backend, on_device), len(state.params)
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
    """The file's contents; `read_checkpoint` gives `trained` back.  SoRAError for a sum that is not finite."""
    at = trained.position
    for name, value, remedy in (("losses", at.loss_sum, "train.lr"), ("thresholds", at.threshold_sum, "gate.strength")):
        require(
            math.isfinite(value), f"the sum of {name} is {value} at step {at.step}: expected a number; lower {remedy}"
        )
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
    return sealed_bytes(tensors, facts)


def read_checkpoint(path: Path) -> Trained:
    """What `checkpoint_bytes` made; SoRAError where the file is missing, damaged, of another format or inconsistent."""
    tensors, found = read_sealed(path, _EXPECTED)
    where, number = printable(str(path)), found.get("format")
    require(number == FORMAT, f"{where}: checkpoint format {shown(number)}: expected {FORMAT}")
    facts = convert(found, Facts, where, _EXPECTED)
    names = facts.labels.names
    require(len(set(names)) == len(names), f"{where}: labels.names has one of them twice: expected names of classes")
    require(bool(facts.labels.metrics), f"{where}: labels.metrics is empty: expected a metric")
    params, moments = layout.split(where, tensors, facts.moments)
    layout.require_consistent(where, params, facts.scales, facts.labels.outputs)
    return Trained(params, moments, facts.t, facts.position, facts.scales, facts.labels, facts.base)


def state_of(setup: Setup, trained: Trained) -> TrainState:
    """The state on the setup's device; SoRAError where the checkpoint holds no moments.

    Whether its parameters are those that the setup trains is for the caller to compare.
    """
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
    """The checkpoints of a run, oldest first; a file of another name is not ours, whatever it is like."""
    ours = [path for path in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(ours, key=lambda path: (len(path.name), path.name))


def save(run: Path, trained: Trained) -> Path:
    """Write the checkpoint of the trained position and drop all but the last `KEPT`."""
    path = checkpoint_path(run, trained.position.step)
    write_bytes(path, checkpoint_bytes(trained))
    drop_old(run)
    return path


def drop_old(run: Path) -> None:
    """Remove all checkpoints but the last `KEPT`; a killed `save` may have left one more."""
    for old in checkpoints(run)[:-KEPT]:
        with suppress(OSError):
            old.unlink()


def without_moments(trained: Trained) -> Trained:
    """The parameters alone: what is shipped."""
    return replace(trained, moments=None)


def describe(path: Path, error: SoRAError, others: list[Path]) -> SoRAError:
    """The error of a damaged checkpoint, naming the one before it where there is one."""
    rest = [other for other in others if other != path]
    hint = f"; remove it to resume from {rest[-1].name}" if rest else ""
    return SoRAError(f"{error}{hint}")
