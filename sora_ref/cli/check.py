"""`sora-ref check`: its options; what it does stands in `checking`, which loads the kit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sora_ref.conformance.engine.check import Level

_file = click.Path(path_type=Path, allow_dash=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("address", required=False, metavar="[PKG.MODULE:NAME]")
@click.option(
    "--level", type=click.Choice(["core", "full"]), default="full", show_default=True, help="What is required."
)
@click.option(
    "--dtype", type=click.Choice(["float64", "float32"]), help="Of the arrays; the implementation's best by default."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds, equal examples.")
@click.option("--max-examples", type=click.IntRange(min=1), default=50, show_default=True, help="For every check.")
@click.option("--only", multiple=True, metavar="ID", help="This check or clause, and others so named; no badge then.")
@click.option("--expect-failure", multiple=True, metavar="ID=REASON", help="Known not to hold; wrong where it holds.")
@click.option("--json", "json_file", type=_file, metavar="FILE", help="The report as JSON; - is standard output.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="The report as JUnit XML.")
@click.option("--identify", is_flag=True, help="Find out which of the known variants it is, and print its choices.")
@click.option("--self", "itself", is_flag=True, help="Check the specification's own functions, on every backend.")
@click.option("--museum", is_flag=True, help="Check that every wrong implementation is refused for the right clause.")
@click.option("--list", "listing", is_flag=True, help="List the checks, and the function that states each clause.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.pass_context
def check(
    context: click.Context,
    address: str | None,
    level: Level,
    dtype: str | None,
    seed: int,
    max_examples: int,
    only: tuple[str, ...],
    expect_failure: tuple[str, ...],
    json_file: Path | None,
    junit: Path | None,
    identify: bool,
    itself: bool,
    museum: bool,
    listing: bool,
    quiet: bool,
) -> None:
    """Check anyone's SoRA against the specification, clause by clause.

    PKG.MODULE:NAME is a class that shows it (or an instance, or a function that makes one): a subclass of
    sora_ref.conformance.Implementation.  Importing its module runs that module's code; the current folder is searched
    first, and this is the one command that runs code of it.  The status is 0 only if all required clauses hold.
    """
    ours = itself or museum or listing
    if (address is not None) + itself + museum + listing != 1:
        raise click.UsageError("expected either pkg.module:Name or one of --self, --museum and --list")
    if ours and (dtype or identify or json_file):
        raise click.UsageError("--dtype, --identify and --json belong to an implementation: expected pkg.module:Name")
    if (ours or identify) and (only or expect_failure or junit):
        raise click.UsageError("--only, --expect-failure and --junit belong to the checks of an implementation")
    from sora_ref.cli import checking

    if listing:
        click.echo("\n".join(checking.listed(level)))
    if itself:
        context.exit(checking.check_ourselves(level, seed, max_examples))
    if museum:
        context.exit(checking.visit_museum(seed, max_examples, quiet))
    if address is None:
        return
    asked = checking.Asked(address, dtype, seed, json_file)
    if identify:
        checking.identify(asked)
        return
    holds = checking.check_theirs(
        asked, level=level, max_examples=max_examples, only=only, failures=expect_failure, junit=junit, quiet=quiet
    )
    context.exit(0 if holds else 1)
