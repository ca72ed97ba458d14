"""The commands of `sora-ref`: the table of all of them, and the small ones.

Every command imports what it needs when it runs, so that `sora-ref --help` is instant.
"""

from __future__ import annotations

from pathlib import Path

import click

from sora_ref import SPEC_VERSION, __version__
from sora_ref.cli import apply, options, ship
from sora_ref.cli.check import check
from sora_ref.cli.terminal import say, show
from sora_ref.cli.train import train

COMPLETE = "_SORA_REF_COMPLETE"  # what a shell that completes sets, as click has it


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message=f"sora-ref {__version__}, specification {SPEC_VERSION}")
def cli() -> None:
    """Fine-tune a transformer with SoRA, prune it, prove the pruning, ship it."""


for _command in (train, apply.evaluate, apply.predict, ship.prune, ship.merge, ship.export, check):
    cli.add_command(_command)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@options.stage
@options.output
def inspect(path: Path, stage: int | None, as_json: bool, quiet: bool) -> None:
    """Ranks, gates and counts of a run, a pruned or merged folder, or a PEFT adapter."""
    from sora_ref.run.inspect import inspect_path

    facts, lines = inspect_path(path, stage)
    show(facts, lines, as_json)


@cli.command()
@click.option("--quick", is_flag=True, help="The 4.4M-parameter model and few steps: under a minute.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--backend", default="numpy", show_default=True, help="numpy, or cupy on a GPU.")
@options.output
def demo(quick: bool, out: Path, seed: int, backend: str, as_json: bool, quiet: bool) -> None:
    """The main job on real weights and data: train, prune, prove it, merge, export, compare with controls."""
    from sora_ref.run.demo import run_demo

    facts, lines = run_demo(out, quick=quick, seed=seed, backend=backend, quiet=quiet, say=say(quiet))
    show(facts, lines, as_json)


@cli.command()
@click.argument("names", nargs=-1)
@options.output
def fetch(names: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Fetch the real weights and data (all of them by default) into the cache."""
    from sora_ref.run.artefacts import ARTEFACTS, download

    folders = {name: str(download(name, say=say(quiet))) for name in names or ARTEFACTS}
    show(folders, [f"{name}: {folder}" for name, folder in folders.items()], as_json)


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
