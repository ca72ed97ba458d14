"""A trained model found on disk: a run directory, one of its stages or checkpoints, or a pruned or merged folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as replace_fields

from sora_ref import kernels
from sora_ref.errors import SoRAError, printable
from sora_ref.preconditions import require
from sora_ref.run.base_model import base_digest
from sora_ref.run.checkpoint import Trained, checkpoints, read_checkpoint
from sora_ref.run.config import Config, load_config
from sora_ref.run.input_digests import Inputs, digests, read_inputs
from sora_ref.run.inputs import WEIGHTS, model_files
from sora_ref.run.layout import require_fits
from sora_ref.run.say import Say
from sora_ref.run.setup import Params, Setup, make_setup

ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A trained model with the base it belongs to; `params` are `trained.params` on the setup's device.

    unfinished: what a run says that has steps to go, see `progress_of`; None for any other.
    """

    setup: Setup
    trained: Trained
    params: Params
    file: Path
    unfinished: dict[str, int] | None = None


def find_checkpoint(path: Path, stage: int | None = None) -> tuple[Path, Path]:
    """The configuration and the tensors at `path`: (config.toml, file.safetensors).

    path: a run directory (its last checkpoint, or the end of `stage`), a folder that `prune` or `merge` wrote, or one
    of their safetensors files.  SoRAError where there is none.
    """
    if path.is_file():
        require(path.suffix == ".safetensors", f"{path}: expected a run directory or a .safetensors file of one")
        folder = next((parent for parent in path.parents[:2] if (parent / "config.toml").is_file()), None)
        if folder is None:
            raise SoRAError(f"{path}: no config.toml beside or above it: expected a file of a run directory")
        return folder / "config.toml", path
    require(os.path.lexists(path), f"{path}: no such folder: expected a run directory")
    require((path / "config.toml").is_file(), f"{path}: no config.toml in it: expected a run directory")
    if stage is not None:
        file = path / "stages" / f"stage-{stage:02d}.safetensors"
        require(file.is_file(), f"{path}: no stage {stage}: expected one that the run has finished")
        return path / "config.toml", file
    found = [path / ADAPTER] if (path / ADAPTER).is_file() else checkpoints(path)
    require(bool(found), f"{path}: no checkpoint in it: expected a run directory")
    return path / "config.toml", found[-1]


def load_trained(
    path: Path, *, stage: int | None = None, overrides: Mapping[str, Any] | None = None, say: Say | None = None
) -> Loaded:
    """The trained model at `path` (see `find_checkpoint`), its scales as they were stored.

    overrides: of the configuration; only backend, dtype and kernels make sense.  The precision of training goes with
    them: under others the work has that of its dtype.  Kernels that the backend has not got give way to its fastest.
    Raises SoRAError where the base model's weights, configuration or tokeniser are not those it was trained on, or the
    tensors are not for it.
    """
    config_file, file = find_checkpoint(path, stage)
    changes = {"precision": None, **overrides} if overrides else {}
    config = _relocated(load_config(config_file, changes), config_file.parent)
    if "backend" in changes and "kernels" not in changes and config.kernels not in kernels.names(config.backend):
        config = replace_fields(config, kernels="backend")
    trained = read_checkpoint(file)
    made = make_setup(config, trained.labels, say)
    same = made.scales.keys() == trained.scales.keys()
    require(same, f"{printable(str(file))}: adapts other modules than {config_file.name} beside it says")
    setup = replace(made, scales=trained.scales)
    require(
        trained.base == base_digest(setup.folder),
        f"{setup.folder}: its weights are not those {file} was trained on (sha256 differs)",
    )
    require_fits(printable(str(file)), trained.params, setup.model, trained.scales)
    _require_same_model(config_file.parent, setup.folder, file)
    send = setup.backend.from_host
    params = {name: send(array.astype(config.dtype, copy=False)) for name, array in trained.params.items()}
    unfinished = progress_of(path, file, trained, say)
    return Loaded(setup, trained, params, file, unfinished)


def progress_of(path: Path, file: Path, trained: Trained, say: Say | None = None) -> dict[str, int] | None:
    """The "step" of a run directory without a summary and how many there are ("of"), which `say` hears as well.

    None for a complete run, and for a file or a stage that was asked for by its name.
    """
    if path == file or file.parent.name != "checkpoints" or (path / "summary.json").exists():
        return None
    at = trained.position
    of = {"of": at.planned} if at.planned else {}
    if say is not None:
        whole = f" of {at.planned}" if at.planned else ""
        say(f"{path}: the run is not finished: this is step {at.step}{whole}")
    return {"step": at.step, **of}


def _require_same_model(run: Path, folder: Path, file: Path) -> None:
    """SoRAError, naming it, for a file of the model folder other than the one that a run directory says it read."""
    before = read_inputs(run)
    if before is None:
        return
    rest = model_files(folder)
    del rest[WEIGHTS]  # whose digest is in the checkpoint
    now = digests(rest)
    known = Inputs({name: found for name, found in before.files.items() if name.startswith("model/")})
    for name, change in known.changes(now).items():
        if name != WEIGHTS:
            raise SoRAError(f"{known.sentence(name, change, now)}: expected the model that {file} was trained on")


def _relocated(config: Config, folder: Path) -> Config:
    """A merged folder names its own model as ".": itself."""
    if config.model.path != ".":
        return config
    return replace_fields(config, model=replace_fields(config.model, path=str(folder)))
