"""Where a run starts: at step 0 in a new directory, or at the last checkpoint of one that was there before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sora_ref import TrainState, initial_state
from sora_ref.errors import SoRAError, shown
from sora_ref.preconditions import require
from sora_ref.run import checkpoint as ckpt
from sora_ref.run.active import Run
from sora_ref.run.checkpoint import Position, Trained
from sora_ref.run.config import dump_config
from sora_ref.run.found import clear_outset
from sora_ref.run.initial import initial_params
from sora_ref.run.input_digests import INPUTS, Input, Inputs, read_inputs, write_inputs
from sora_ref.run.inputs import WEIGHTS
from sora_ref.run.progress import steps_in_all
from sora_ref.run.records import cut_logs
from sora_ref.run.say import Say
from sora_ref.run.stages import memorization_rows
from sora_ref.run.versions import changed, versions
from sora_ref.run.watch import log_gates
from sora_ref.storage.files import write_json, write_text


def begin(run: Run, now: Mapping[str, Input]) -> tuple[TrainState, Position]:
    """A fresh run directory, with a checkpoint of step 0 in it."""
    clear_outset(run.out)
    write_json(
        run.out / "versions.json",
        versions(run.setup.kernels) | {"base_sha256": run.base, "data": run.task.source, "notes": list(run.task.notes)},
    )
    write_inputs(run.out, Inputs(dict(now)))
    write_text(run.out / "config.toml", dump_config(run.config))
    if run.config.schedule is not None:
        chosen = [run.task.splits["train"][row].id for row in memorization_rows(run)]
        write_json(run.out / "memorization_ids.json", chosen)
    planned = steps_in_all(run.config, len(run.data["train"].ids))
    state, position = initial_state(initial_params(run.setup)), Position(planned=planned)
    log_gates(run, state, position)
    run.save(state, position)
    return state, position


def resume_point(
    run: Run, before: Inputs | None, now: Mapping[str, Input], accept: bool, say: Say
) -> tuple[TrainState, Position]:
    """The state of the last checkpoint, after the logs have been cut back to it; SoRAError where it is of another run.

    before, now: what the run says it has read, None where it does not say, and what is read now.
    accept: go on although files are other ones now, and record that.
    """
    found = ckpt.checkpoints(run.out)
    try:
        trained = ckpt.read_checkpoint(found[-1])
    except SoRAError as error:
        raise ckpt.describe(found[-1], error, found) from error
    accepted = before is not None and any(WEIGHTS in each.files for each in before.accepted)
    same = accept or accepted or trained.base == run.base
    require(same, f"{run.setup.folder}: its weights are not those the run began with")
    _require_same_model(run, found[-1], trained)
    for line in changed(run.out / "versions.json", run.setup.kernels):
        say(f"warning: {line}; the resumed run may differ in its last bits")
    cut_logs(run.out, trained.position.step)
    ckpt.drop_old(run.out)
    position = replace(trained.position, planned=steps_in_all(run.config, len(run.data["train"].ids)))
    inputs = Inputs(dict(now)) if before is None else before
    if inputs.changes(now):
        inputs = inputs.accept(now, position.step)
    if inputs is not before:
        write_inputs(run.out, inputs)
    if any(each.step >= position.step for each in inputs.accepted):  # the checkpoint's scores are of other data
        position = replace(position, best_score=None, best_step=0, evaluations_since=0)
    say(f"{run.out}: resumed at step {position.step} of {position.planned}")
    return ckpt.state_of(run.setup, trained), position


def _require_same_model(run: Run, file: Path, trained: Trained) -> None:
    """SoRAError unless the checkpoint has the classes, the scales and the parameters that the run trains."""
    names = run.setup.labels.names
    require(trained.labels.names == names, f"{file}: trained on other classes: expected {shown(names)}, as now")
    expected = {name: tuple(value.shape) for name, value in initial_params(run.setup).items()}
    same = trained.scales == run.setup.scales and expected == {n: v.shape for n, v in trained.params.items()}
    require(same, f"{file}: its parameters are not those of {run.out / 'config.toml'}")


def same_inputs(out: Path, now: Mapping[str, Input], accept: bool, say: Say) -> Inputs | None:
    """What the run says it has read, None where it does not say.

    SoRAError where a file of it is another one now, a warning where that is accepted.
    """
    before = read_inputs(out)
    if before is None:
        say(f"warning: {out / INPUTS}: no such file, so whether data and model are those of before is not known")
        return None
    for name, change in before.changes(now).items():
        sentence = before.sentence(name, change, now)
        require(accept, f"{sentence}: expected it as it was, or --accept-changed-data to go on all the same")
        say(f"warning: {sentence}; accepted")
    return before
