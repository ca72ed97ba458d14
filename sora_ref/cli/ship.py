"""The commands that write a trained model in another form: `prune`, `merge` and `export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sora_ref.cli import options
from sora_ref.cli.terminal import show
from sora_ref.errors import shown

_stored_as = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16", "bfloat16"]),
    help="What the weights are stored in; by default as trained.",
)
_licence = click.option("--license", "licence", help="For the README, as the hub names it: apache-2.0, mit, …")
_new_folder = click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")


@click.command()
@options.run
@_new_folder
@options.stage
@options.output
def prune(run: Path, out: Path, stage: int | None, as_json: bool, quiet: bool) -> None:
    """Drop every component whose gate is exactly zero; the result is a folder every command accepts."""
    from sora_ref.run.ship import write_pruned

    loaded = options.load(run, stage, quiet)
    ranks = write_pruned(loaded, out)
    before = sum(adapter.rank for adapter in loaded.setup.adapters(loaded.params).values())
    lines = [f"{out}: {sum(ranks.values())} of {before} components kept"]
    show({"out": str(out), "ranks": ranks} | _progress(loaded), lines, as_json)


@click.command()
@options.run
@_new_folder
@_stored_as
@_licence
@options.stage
@options.output
def merge(
    run: Path, out: Path, dtype: str | None, licence: str | None, stage: int | None, as_json: bool, quiet: bool
) -> None:
    """Merge the adapters into the base weights; the result is a Hugging Face folder without adapters."""
    from sora_ref.run.ship import write_merged

    loaded = options.load(run, stage, quiet)
    bounds = write_merged(loaded, out, dtype=dtype, licence=licence)
    lines = [f"{out}: {len(bounds)} modules merged", *_rounding_lines(bounds, dtype, "a merged weight")]
    facts = {"out": str(out), "modules": len(bounds), "rounding": bounds}
    show(facts | _progress(loaded), lines, as_json)


@click.command()
@options.run
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
@options.stage
@options.output
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

    loaded = options.load(run, stage, quiet)
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
    show(facts | _progress(loaded), lines, as_json)


def _progress(loaded: Any) -> dict[str, Any]:
    """How far a run has come that is not finished, as its loading has said already on standard error."""
    return {} if loaded.unfinished is None else {"unfinished": loaded.unfinished}


def _rounding_lines(bounds: Mapping[str, float], dtype: str | None, what: str) -> list[str]:
    """The largest bound of the modules, where a dtype was asked for."""
    if dtype is None or not bounds:
        return []
    worst = max(bounds, key=lambda module: bounds[module])
    return [f"rounding to {dtype} moves no entry of {what} by more than {bounds[worst]:.1e}, the bound of {worst}"]
