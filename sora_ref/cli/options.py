"""Options that several commands of `sora-ref` share, and how they load a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from sora_ref.cli.terminal import say

F = TypeVar("F", bound=Callable[..., Any])

KERNELS = click.Choice(["backend", "numba", "numpy", "cuda", "reference"])


def work(function: F) -> F:
    """Backend, dtype and kernels, for commands that apply a trained model."""
    function = click.option("--kernels", type=KERNELS, help="By default those that it was trained with.")(function)
    function = click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Dtype of the work.")(function)
    return click.option("--backend", help="numpy, or cupy on a GPU.")(function)


def output(function: F) -> F:
    """How the result is printed, and whether progress is."""
    function = click.option("--quiet", is_flag=True, help="No progress on standard error.")(function)
    return click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")(function)


run = click.argument("run", type=click.Path(path_type=Path))
stage = click.option("--stage", type=click.IntRange(min=0), help="A stage of the sparsifying scheduler.")


def table(function: F) -> F:
    """The file that is read in place of the run's task, and its columns."""
    options = [
        click.option("--input", "table", type=click.Path(path_type=Path), help="A table; - for standard input."),
        click.option("--format", type=click.Choice(["tsv", "csv", "jsonl"]), help="Of the table; else by its suffix."),
        click.option("--text", metavar="COLUMN", help="Its column of texts; by default that of the run's task."),
        click.option("--pair", metavar="COLUMN", help="Its column of second texts; by default likewise."),
        click.option("--id", metavar="COLUMN", help="Its column of names; FILE:LINE without one."),
        click.option("--skip-bad-rows", is_flag=True, help="Pass over rows with a fault, count them, list the first."),
    ]
    return _all(options, function)


def task_table(function: F) -> F:
    """The further files of the task table, and their columns."""
    options = [
        click.option("--validation", metavar="FILE", help="Of --task table; without one a tenth of the texts."),
        click.option("--test", metavar="FILE", help="Of --task table."),
        click.option("--text", metavar="COLUMN", help="The tables' column of texts."),
        click.option("--pair", metavar="COLUMN", help="Their column of second texts."),
        click.option("--label", metavar="COLUMN", help="Their column of labels."),
        click.option("--id", metavar="COLUMN", help="Their column of names; FILE:LINE without one."),
        click.option(
            "--kind",
            type=click.Choice(["classification", "regression"]),
            show_default="classification",
            help="What the labels are.",
        ),
        click.option("--skip-bad-rows", is_flag=True, default=None, help="Pass over rows with a fault, and say so."),
    ]
    return _all(options, function)


def _all(options: Sequence[Callable[[F], F]], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def load(run: Path, stage: int | None, quiet: bool, **work: str | None) -> Any:
    """The trained model of a run, a `trained.Loaded`; what is given of `work` overrules the run's configuration."""
    from sora_ref.run.trained import load_trained

    overrides = {key: value for key, value in work.items() if value is not None}
    return load_trained(run, stage=stage, overrides=overrides, say=say(quiet))
