"""What reaches a terminal or a pipe: whole, printable, and never a traceback where nobody listens any more."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from sora_ref.errors import LONGEST, SoRAError, one_line, printable
from sora_ref.storage.json_text import to_json

_ESCAPED = "sora-ref"


def open_streams() -> None:
    """Make the three standard streams safe to use; to be called once, by the console script.

    A descriptor that was closed at the start is opened on the null device, or else the next file to be opened would
    have its number, and whatever is printed would be written into it.  What the encoding of standard output has no
    character for is written as in JSON, by its number.  Raises SoRAError where standard output was closed: a result
    would be lost without a word.
    """
    closed = sys.stdout is None
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (open as long as the process lives)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if closed:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        raise SoRAError(f"standard output is closed: expected a place for the result, were it {os.devnull}")
    codecs.register_error(_ESCAPED, _escaped)
    reconfigure: Callable[..., None] | None = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # not where a test or a notebook put something else in its place
        reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def close_streams() -> None:
    """Let go of what cannot be written any more, so that the end of the process says nothing of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(quiet: bool) -> Callable[[str], None]:
    """What tells of progress, line by line, on standard error; of warnings alone where it is to be quiet."""

    def tell(line: str) -> None:
        if not quiet or line.startswith("warning: "):
            click.echo(one_line(line), err=True)

    return tell


def show(facts: Any, lines: list[str], as_json: bool) -> None:
    """The result on standard output, for a program or for a person."""
    click.echo(to_json(facts, indent=2) if as_json else printable("\n".join(lines)))


def show_usage(error: click.ClickException, stream: TextIO) -> None:
    """click's own words on wrong usage, every line of them printable and short."""
    said = io.StringIO()
    error.show(said)
    for line in said.getvalue().splitlines():
        stream.write((one_line(line) if len(line) > LONGEST else printable(line)) + "\n")
