"""The commands that apply a trained model: `eval` and `predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sora_ref.cli import options
from sora_ref.cli.terminal import say, show
from sora_ref.errors import SoRAError, brief, printable
from sora_ref.storage.json_text import to_json


@click.command(name="eval")
@options.run
@click.option("--split", help="One split of the task; all labelled ones by default.")
@options.table
@click.option("--label", metavar="COLUMN", help="Its column of labels; by default likewise.")
@options.stage
@options.work
@options.output
def evaluate(
    run: Path,
    split: str | None,
    stage: int | None,
    backend: str | None,
    dtype: str | None,
    kernels: str | None,
    as_json: bool,
    quiet: bool,
    **table: Any,
) -> None:
    """Score a trained model on its task, or on a table of labelled rows."""
    from sora_ref.run.evaluate import score_task
    from sora_ref.run.given import task_of_table
    from sora_ref.run.summary import score_words
    from sora_ref.run.tasks import read_task
    from sora_ref.run.warm_up import warm_up

    given = _given(table)
    if given is not None and split is not None:
        raise click.UsageError("expected either --split or --input")
    loaded = options.load(run, stage, quiet, backend=backend, dtype=dtype, kernels=kernels)
    config, labels = loaded.setup.config, loaded.setup.labels
    if given is None:
        task = read_task(config, say(quiet), labels=labels, split=split)
    else:
        task = task_of_table(config, labels, given, say(quiet))
    warm_up(loaded.setup, loaded.params, quiet=quiet)
    found = score_task(loaded.setup, loaded.params, task)
    if split is not None and not found:
        raise SoRAError(f"split {split} of task {task.name} has no labels: expected some to score against")
    lines = [f"{name}: {score_words(scores)}" for name, scores in found.items()]
    show(found if loaded.unfinished is None else found | {"unfinished": loaded.unfinished}, lines, as_json)


@click.command()
@options.run
@click.argument("texts", nargs=-1)
@click.option("--text2", "seconds", multiple=True, metavar="TEXT", help="The second text of each of TEXTS, in turn.")
@options.table
@click.option("--out", type=click.Path(path_type=Path), help="A new JSONL file; standard output by default.")
@options.stage
@options.work
@options.output
def predict(
    run: Path,
    texts: tuple[str, ...],
    seconds: tuple[str, ...],
    out: Path | None,
    stage: int | None,
    backend: str | None,
    dtype: str | None,
    kernels: str | None,
    as_json: bool,
    quiet: bool,
    **table: Any,
) -> None:
    """Predict for TEXTS, for the lines of standard input, or for the rows of a table.

    One JSON line each with --json, --out or a table.  Standard input is read where TEXTS is - or nothing is given; the
    two texts of a pair have a tab between them.
    """
    from sora_ref.run.data import Tally
    from sora_ref.run.given import STDIN, examples_of_lines, examples_of_table, examples_of_texts, say_skipped
    from sora_ref.run.predict import predict_stream
    from sora_ref.run.warm_up import warm_up
    from sora_ref.storage.stream import require_new

    skipped = Tally() if table.pop("skip_bad_rows") else None
    given = _given(table)
    lines = given is None and (texts == ("-",) or not (texts or seconds or sys.stdin.isatty()))
    if (given is not None and bool(texts or seconds)) or (given is None and not texts and not lines):
        raise click.UsageError("expected either TEXTS or --input")
    if out is not None:
        require_new(out)
    loaded = options.load(run, stage, quiet, backend=backend, dtype=dtype, kernels=kernels)
    config = loaded.setup.config
    if given is not None:
        examples = examples_of_table(config, given, skipped)
    elif lines:
        examples = examples_of_lines(config, sys.stdin.buffer, skipped)
    else:
        examples = iter(examples_of_texts(config, texts, seconds))
    warm_up(loaded.setup, loaded.params, quiet=quiet)
    _write_predictions(predict_stream(loaded, examples), out, as_json or given is not None, quiet)
    say_skipped(given.path if given else STDIN, skipped, say(quiet))


def _given(table: dict[str, Any]) -> Any:
    """The table that the flags name; None where there is none."""
    from sora_ref.run.given import STDIN, Given

    path = table.pop("table")
    if path is None:
        named = [name for name in ("format", "text", "pair", "label", "id") if table.get(name) is not None]
        if named:
            raise click.UsageError(f"--{named[0]} is of a table: expected --input too")
        return None
    stdin = str(path) == "-"
    return Given(STDIN if stdin else path, sys.stdin.buffer if stdin else None, **table)


def _write_predictions(records: Any, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Write or print the records as they come."""
    from tqdm import tqdm

    from sora_ref.storage.stream import new_text

    bar = tqdm(records, unit="row", disable=quiet or (out is None and sys.stdout.isatty()), mininterval=1.0, delay=2.0)
    if out is not None:
        with new_text(out) as write:
            for _, record in bar:
                write(to_json(record) + "\n")
        return
    for example, record in bar:
        if as_json:
            click.echo(to_json(record))
        else:
            sure = f"  ({record['probability']:.3f})" if "probability" in record else ""
            texts = example.text if example.pair is None else f"{example.text}  |  {example.pair}"
            click.echo(f"{brief(str(record['prediction']))}{sure}  {printable(texts.replace(chr(10), ' '))}")
