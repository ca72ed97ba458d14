"""`sora-ref train`: fine-tune a model, from flags, from a configuration, or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sora_ref.cli import options
from sora_ref.cli.terminal import say, show
from sora_ref.errors import SoRAError

# Flags of `train` and the keys of the configuration they set.
KEYS = {
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
    "method": "method",
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


@click.command()
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
    type=options.KERNELS,
    show_default="backend",
    help="Which operations; backend: the fastest there are, reference: the specification's own.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), help="Of float32 matrix products, on a GPU."
)
@click.option("--model", show_default="minilm", help="A Hugging Face folder, minilm, bert-tiny, or a name on the hub.")
@click.option(
    "--head", type=click.Choice(["mean", "cls"]), show_default="mean", help="Mean pooling, or the pooler of token 0."
)
@click.option("--task", show_default="movies", help="movies, tweets, …, their -rating forms, glue:TASK, or table.")
@click.option("--data", help="The task's folder, or the table to train on.")
@options.task_table
@click.option("--method", show_default="sora", help="sora, lora (gates fixed at 1), or head (no adapters).")
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
@options.output
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
    keys = KEYS if data is None or not _is_table(flags["task"], data) else KEYS | {"data": "task.files.train"}
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
        say=say(quiet),
    )
    show(summary, summary_lines(summary), as_json)


def _is_table(task: str | None, data: str) -> bool:
    """Whether --data is the file of a table, and not a task's folder."""
    return task == "table" or os.path.isfile(data)
