"""A run from beginning to end: its directory, its stages, resuming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sora_ref.preconditions import require
from sora_ref.run.active import Run
from sora_ref.run.base_model import with_pinned_model
from sora_ref.run.config import Config, differences, load_config, with_absolute_paths
from sora_ref.run.data import Labels, Task
from sora_ref.run.found import Found, look, refusal, sweep
from sora_ref.run.input_digests import Input, digests, require_unchanged
from sora_ref.run.inputs import WEIGHTS, input_files
from sora_ref.run.interrupt import stop_requested
from sora_ref.run.loggers import opened, require_loggers
from sora_ref.run.progress import best_of
from sora_ref.run.say import Say
from sora_ref.run.setup import make_setup
from sora_ref.run.stages import train_stages
from sora_ref.run.starting import begin, resume_point, same_inputs
from sora_ref.run.summary import finish, read_summary
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.warm_up import warm_up
from sora_ref.storage.lock import only_writer

Resume = bool | Literal["if-any"]


def train(
    config: Config,
    out: Path,
    *,
    resume: Resume = False,
    accept_changed_data: bool = False,
    quiet: bool = False,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train into the run directory `out`, or go on with what is there; returns the summary (see `summary.finish`).

    resume: True goes on with a run and refuses where there is none; False begins one and refuses where there is
    something; "if-any" goes on where there is a run and begins in an empty folder.
    accept_changed_data: go on although files that the run has read are other ones now, and record that.

    A resumed run's parameters end bit-identical to those of an uninterrupted run on the same kind of machine and
    versions; a difference in those is a warning, one in the configuration or in a file that was read an error.  Ctrl-C,
    SIGTERM and SIGHUP finish the step, write a checkpoint and raise `Interrupted`; a kill loses the work since the last
    checkpoint.  One process at a time trains in a directory.
    """
    say = say or (lambda line: None)
    config = with_pinned_model(with_absolute_paths(config), say)
    require_loggers(config.train.loggers)
    complete = _admitted(out, config, resume)
    if complete is None:
        with only_writer(out):
            complete = _admitted(out, config, resume)  # again: another process may have been here meanwhile
            if complete is None:
                sweep(out)
                return _train(config, out, accept_changed_data, quiet, say)
    say(f"{out}: already complete")
    return complete


def _admitted(out: Path, config: Config, resume: Resume) -> dict[str, Any] | None:
    """The summary of the run in `out` if it is complete; SoRAError unless this may be trained there."""
    found = look(out)
    fresh = found in (Found.NOTHING, Found.OUTSET)
    if not resume:
        require(fresh, f"{out}: not empty: expected a new folder, or --resume to go on with its run")
    elif not (fresh and resume == "if-any"):
        require(found is Found.RUN, refusal(out, found))
    if fresh:
        return None
    _same_config(out, config)
    return read_summary(out)


def _train(config: Config, out: Path, accept: bool, quiet: bool, say: Say) -> dict[str, Any]:
    """Train in a folder that is ours: begin, or go on from the last checkpoint."""
    files = input_files(config, say)
    now = digests(files)
    resuming = look(out) is Found.RUN
    before = same_inputs(out, now, accept, say) if resuming else None

    run = _in_memory(config, out, now, quiet, say)
    require_unchanged(now, files)
    warm_up(run.setup, quiet=quiet)

    with stop_requested() as stop:  # from the moment that there is a checkpoint to be had
        start = resume_point(run, before, now, accept, say) if resuming else begin(run, now)
        with opened(config.train.loggers, out, config, start[1].step, say) as loggers:
            state, position, results = train_stages(replace(run, loggers=loggers), *start, stop, say)
    best = best_of(config, position, run.selection, run.setup.labels.metrics[0])
    left_out = [name for name, part in run.task.splits.items() if name not in run.data and part[0].label is not None]
    return finish(run.out, run.setup, run.data, state.params, position, results, run.task.notes, best, left_out)


def _in_memory(config: Config, out: Path, now: Mapping[str, Input], quiet: bool, say: Say) -> Run:
    """The run with its task read and encoded and its model loaded; SoRAError where a label or a split is missing.

    now: the digests of the files it reads; the weights have one, or they could not be loaded.
    """
    task = read_task(config, say)
    _require_splits(task, config, say)
    setup = make_setup(config, Labels(task.kind, task.labels, task.metrics), say)
    used = {name: part for name, part in task.splits.items() if config.train.score_test or not name.startswith("test")}
    data = {name: encode(examples, setup.tokenizer, setup.model.config) for name, examples in used.items()}
    for split, part in data.items():
        required = split == "train" or split.startswith("validation")
        require(
            part.labels is not None or not required,
            f"{split}: an example has no label: expected labels on every example, in a table in the column task.label "
            "(--label COLUMN)",
        )
    return Run(out, setup, task, data, now[WEIGHTS].sha256, quiet)


def _require_splits(task: Task, config: Config, say: Say) -> None:
    """SoRAError unless there are examples to train on and to validate on, and to test on where that is asked for.

    Test splits without labels are said to be left out.
    """
    listed = ", ".join(task.splits)
    for split, missing in (("train", "examples to train on"), ("validation", "a validation split")):
        have = any(name.startswith(split) for name in task.splits)
        few = split == "validation" and task.name == "table"
        hint = " (--validation FILE; ten different texts or more to train on have one drawn from them)" if few else ""
        require(have, f"task {task.name} has the splits {listed}: expected {missing}{hint}")
    tests = [name for name in task.splits if name.startswith("test")]
    require(
        bool(tests) or not config.train.score_test,
        f"task {task.name} has the splits {listed}: expected a test split to score, or no train.score_test "
        "(--score-test)",
    )
    for name in tests if config.train.score_test else ():
        if task.splits[name][0].label is None:
            say(f"warning: {name}: no labels, so it is not scored")


def _same_config(out: Path, config: Config) -> None:
    """SoRAError unless this is the configuration that the run began with; kernels may be others, as `changed` says."""
    before = load_config(out / "config.toml", {})
    different = [key for key in differences(before, config) if key != "kernels"]
    require(
        not different, f"{out}: began with another {', '.join(different)}: expected the configuration it began with"
    )
