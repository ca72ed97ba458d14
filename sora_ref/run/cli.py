"""The commands of `sora-ref`.

Every command imports what it needs when it runs, so that `sora-ref --help` is instant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sora_ref import SPEC_VERSION, __version__
from sora_ref.errors import SoRAError, shown
from sora_ref.run import use
from sora_ref.run.options import load as _load
from sora_ref.run.options import output as _output
from sora_ref.run.options import run as _run
from sora_ref.run.options import stage as _stage
from sora_ref.run.options import task_table as _task_table
from sora_ref.run.terminal import say as _say
from sora_ref.run.terminal import show as _show

COMPLETE = "_SORA_REF_COMPLETE"  # what a shell that completes sets, as click has it

# Flags of `train` and the keys of the configuration they set.
_KEYS = {
    "seed": "seed",
    "backend": "backend",
    "dtype": "dtype",
    "kernels": "kernels",
    "precision": "precision",
    "model": "model.path",
    "head": "model.head",
    "task": "task.name",
    "data": "task.path",
    "validation": "task.files.validation",
    "test": "task.files.test",
    "text": "task.text",
    "pair": "task.pair",
    "label": "task.label",
    "id": "task.id",
    "kind": "task.kind",
    "skip_bad_rows": "task.skip_bad_rows",
    "rank": "adapter.r",
    "rule": "gate.rule",
    "strength": "gate.strength",
    "epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "early_stopping": "train.early_stopping",
    "keep_best": "train.keep_best",
    "score_test": "train.score_test",
    "batch": "train.batch",
    "lr": "train.lr",
    "gate_lr": "gate.lr",
    "log_to": "train.loggers",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message=f"sora-ref {__version__}, specification {SPEC_VERSION}")
def cli() -> None:
    """Fine-tune a transformer with SoRA, prune it, prove the pruning, ship it."""


cli.add_command(use.evaluate)
cli.add_command(use.predict)


_stored_as = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16", "bfloat16"]),
    help="What the weights are stored in; by default as trained.",
)
_licence = click.option("--license", "licence", help="For the README, as the hub names it: apache-2.0, mit, …")
_new_folder = click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file; flags override it.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run directory.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--accept-changed-data", is_flag=True, help="With --resume: go on although data or model are other ones now."
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any key of the file, e.g. train.clip=0.1.")
@click.option("--seed", type=int, show_default="0", help="Of every random draw.")
@click.option("--backend", show_default="numpy", help="numpy, or cupy on a GPU.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    show_default="float32",
    help="Of the work; float64 for checks.",
)
@click.option(
    "--kernels",
    type=click.Choice(["backend", "reference"]),
    show_default="backend",
    help="Faster operations, or the specification's.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), help="Of float32 matrix products, on a GPU."
)
@click.option(
    "--model", show_default="minilm", help="A Hugging Face BERT folder, minilm, bert-tiny, or a name on the hub."
)
@click.option(
    "--head", type=click.Choice(["mean", "cls"]), show_default="mean", help="Mean pooling, or the pooler of token 0."
)
@click.option("--task", show_default="movies", help="movies, tweets, …, their -rating forms, glue:TASK, or table.")
@click.option("--data", help="The task's folder, or the table to train on.")
@_task_table
@click.option("--rank", type=int, show_default="8", help="r_max of every module.")
@click.option("--rule", show_default="paper", help="The gate rule, e.g. paper, adamw-xi, released.")
@click.option("--strength", type=float, show_default="0.0022", help="xi or lambda of the gate rule.")
@click.option("--epochs", type=int, show_default="1", help="Passes over the training split.")
@click.option("--max-steps", type=int, help="At most so many optimiser steps.")
@click.option(
    "--early-stopping", type=int, metavar="N", help="End after N evaluations in a row without a better score."
)
@click.option(
    "--keep-best", is_flag=True, default=None, help="Keep the best evaluation's parameters, best.safetensors."
)
@click.option("--score-test", is_flag=True, default=None, help="At the end, score the test split too.")
@click.option("--batch", type=int, show_default="32", help="Examples a step.")
@click.option("--lr", type=float, show_default="0.001", help="Peak learning rate; the gates have --gate-lr.")
@click.option("--gate-lr", type=float, show_default="8.0", help="The gates' own; under rules but paper, as --lr.")
@click.option(
    "--log-to", multiple=True, type=click.Choice(["tensorboard", "mlflow"]), help="Also there; may be given twice."
)
@_output
def train(
    config: Path | None,
    out: Path,
    resume: bool,
    accept_changed_data: bool,
    sets: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Fine-tune a model; with [schedule] in the configuration, run the sparsifying scheduler."""
    from sora_ref.run.config import load_config
    from sora_ref.run.keys import parse_override
    from sora_ref.run.summary import summary_lines
    from sora_ref.run.training import train as run_training

    if accept_changed_data and not resume:
        raise click.UsageError("--accept-changed-data goes with --resume")
    data = flags["data"]
    keys = _KEYS if data is None or not _is_table(flags["task"], data) else _KEYS | {"data": "task.files.train"}
    overrides = {keys[flag]: value for flag, value in flags.items() if value not in (None, ())}
    names = {keys[flag]: f"--{flag.replace('_', '-')}" for flag in flags}
    for key, value in map(parse_override, sets):
        if names.get(key, "").startswith("--set"):
            raise SoRAError(f"{names[key]} is given twice: expected one value")
        overrides[key], names[key] = value, f"--set {key}"
    if resume and config is None and (out / "config.toml").is_file():
        config = out / "config.toml"
    summary = run_training(
        load_config(config, overrides, names),
        out,
        resume=resume,
        accept_changed_data=accept_changed_data,
        quiet=quiet,
        say=_say(quiet),
    )
    _show(summary, summary_lines(summary), as_json)


def _is_table(task: str | None, data: str) -> bool:
    """Whether --data is the file of a table, and not a task's folder."""
    return task == "table" or os.path.isfile(data)


@cli.command()
@_run
@_new_folder
@_stage
@_output
def prune(run: Path, out: Path, stage: int | None, as_json: bool, quiet: bool) -> None:
    """Drop every component whose gate is exactly zero; the result is a folder every command accepts."""
    from sora_ref.run.ship import write_pruned

    loaded = _load(run, stage, None, None, quiet)
    ranks = write_pruned(loaded, out)
    before = sum(adapter.rank for adapter in loaded.setup.adapters(loaded.params).values())
    lines = [f"{out}: {sum(ranks.values())} of {before} components kept"]
    _show({"out": str(out), "ranks": ranks} | _progress(loaded), lines, as_json)


@cli.command()
@_run
@_new_folder
@_stored_as
@_licence
@_stage
@_output
def merge(
    run: Path, out: Path, dtype: str | None, licence: str | None, stage: int | None, as_json: bool, quiet: bool
) -> None:
    """Merge the adapters into the base weights; the result is a Hugging Face folder without adapters."""
    from sora_ref.run.ship import write_merged

    loaded = _load(run, stage, None, None, quiet)
    bounds = write_merged(loaded, out, dtype=dtype, licence=licence)
    lines = [f"{out}: {len(bounds)} modules merged", *_rounding_lines(bounds, dtype, "a merged weight")]
    facts = {"out": str(out), "modules": len(bounds), "rounding": bounds}
    _show(facts | _progress(loaded), lines, as_json)


@cli.command()
@_run
@_new_folder
@click.option(
    "--layout",
    type=click.Choice(["compact", "uniform", "folded"]),
    default="compact",
    show_default=True,
    help="Each module's own rank and scale; one rank and alpha for all, as servers want; own ranks under one alpha.",
)
@click.option(
    "--base-model", help="What the adapter calls its base model; by default its name on the hub, or of its folder."
)
@click.option(
    "--without-head", is_flag=True, help="LoRA matrices alone in the adapter, as vLLM and llama.cpp want; head beside."
)
@_stored_as
@_licence
@_stage
@_output
def export(
    run: Path,
    out: Path,
    layout: Any,
    base_model: str | None,
    without_head: bool,
    dtype: str | None,
    licence: str | None,
    stage: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a PEFT LoRA adapter, read it back and compare."""
    from sora_ref.run.ship import write_peft

    loaded = _load(run, stage, None, None, quiet)
    report = write_peft(loaded, out, layout, base_model, without_head=without_head, dtype=dtype, licence=licence)
    same = report.comparison
    lines = [
        f"{out}: {report.task_type}, layout {report.layout}, {sum(report.ranks.values())} components in "
        f"{sum(rank > 0 for rank in report.ranks.values())} of {len(report.ranks)} modules",
        f"read back: {same.tensors} tensors, largest difference {same.max_abs_diff:g}",
        *_rounding_lines(report.rounding, dtype, "an adapter's weight change"),
    ]
    if report.placeholder:
        lines.append(f"every module is at rank 0, which PEFT refuses: {report.placeholder} carries a zero of rank 1")
    if report.local_base:
        lines.append(
            f"the adapter calls its base model {shown(report.base_model)}, which is no name on a hub: "
            "--base-model says what others know it by"
        )
    facts = {
        "out": str(out),
        "layout": report.layout,
        "base_model": report.base_model,
        "dtype": report.dtype,
        "ranks": dict(report.ranks),
        "rounding": dict(report.rounding),
        "compared": same._asdict(),
    }
    _show(facts | _progress(loaded), lines, as_json)


def _progress(loaded: Any) -> dict[str, Any]:
    """How far a run has come that is not finished, as its loading has said already on standard error."""
    return {} if loaded.unfinished is None else {"unfinished": loaded.unfinished}


def _rounding_lines(bounds: Mapping[str, float], dtype: str | None, what: str) -> list[str]:
    """The largest bound of the modules, where a dtype was asked for."""
    if dtype is None or not bounds:
        return []
    worst = max(bounds, key=lambda module: bounds[module])
    return [f"rounding to {dtype} moves no entry of {what} by more than {bounds[worst]:.1e}, the bound of {worst}"]


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@_stage
@_output
def inspect(path: Path, stage: int | None, as_json: bool, quiet: bool) -> None:
    """Ranks, gates and counts of a run, a pruned or merged folder, or a PEFT adapter."""
    from sora_ref.run.inspect import inspect_path

    facts, lines = inspect_path(path, stage)
    _show(facts, lines, as_json)


@cli.command()
@click.option("--quick", is_flag=True, help="The 4.4M-parameter model and few steps: under a minute.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--backend", default="numpy", show_default=True, help="numpy, or cupy on a GPU.")
@_output
def demo(quick: bool, out: Path, seed: int, backend: str, as_json: bool, quiet: bool) -> None:
    """The main job on real weights and data: train, prune, prove it, merge, export, compare with controls."""
    from sora_ref.run.demo import run_demo

    facts, lines = run_demo(out, quick=quick, seed=seed, backend=backend, quiet=quiet, say=_say(quiet))
    _show(facts, lines, as_json)


@cli.command()
@click.argument("names", nargs=-1)
@_output
def fetch(names: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Fetch the real weights and data (all of them by default) into the cache."""
    from sora_ref.run.fetch import ARTEFACTS
    from sora_ref.run.fetch import fetch as fetch_one

    folders = {name: str(fetch_one(name, say=_say(quiet))) for name in names or ARTEFACTS}
    _show(folders, [f"{name}: {folder}" for name, folder in folders.items()], as_json)


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def check(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Check anyone's SoRA against the specification, clause by clause.

    It imports the module that it is given, from the current folder first: that module's code runs.  This is the one
    command that runs code of the current folder.
    """
    try:
        from sora_ref.conformance.cli import check as command
    except ModuleNotFoundError as error:
        if str(error.name).startswith("sora_ref") or not {"-h", "--help"}.intersection(arguments):
            raise
        click.echo(
            f"{context.get_help()}\n\n  Its options are listed once it is installed: pip install 'sora_ref[check]'"
        )
        return
    with command.make_context("check", list(arguments), parent=context.parent) as inner:
        command.invoke(inner)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and options in your shell.

    For bash, put this into ~/.bashrc:  eval "$(sora-ref completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # click has these three
    click.echo(made(cli, {}, "sora-ref", COMPLETE).source())
