"""What `sora-ref check` does: anyone's SoRA against the specification, clause by clause."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from hypothesis.configuration import set_hypothesis_home_dir

from sora_ref.conformance.checks.catalogue import known_ids, select
from sora_ref.conformance.engine.check import Check, Level
from sora_ref.conformance.engine.loading import load, misspelt
from sora_ref.conformance.engine.outcome import Outcome, Report
from sora_ref.conformance.frontends.call import check_implementation
from sora_ref.conformance.frontends.expected import expected_failures
from sora_ref.conformance.frontends.json_report import as_json
from sora_ref.conformance.frontends.junit import as_junit
from sora_ref.conformance.frontends.text import WORDS, lines
from sora_ref.errors import SoRAError
from sora_ref.storage.files import write_bytes
from sora_ref.storage.json_text import to_json


@dataclasses.dataclass(frozen=True)
class Asked:
    """An implementation, where its module is; the dtype and the seed of what it is asked; the report's file."""

    address: str
    dtype: str | None
    seed: int
    json_file: Path | None


def check_theirs(
    asked: Asked,
    *,
    level: Level,
    max_examples: int,
    only: tuple[str, ...],
    failures: tuple[str, ...],
    junit: Path | None,
    quiet: bool,
) -> bool:
    """Check an implementation, print and write the reports; whether it holds.  The arguments are `check`'s options."""
    known_ids(only)
    expected = expected_failures(failures)
    for path in (asked.json_file, junit):
        _require_writable(path)
    set_hypothesis_home_dir(tempfile.gettempdir())  # it keeps constants, which are of no use here
    with _prints_go_to_standard_error(), _progress(select(level, only), quiet) as say:
        implementation = load(asked.address)
        report = check_implementation(
            implementation,
            level=level,
            dtype=asked.dtype,
            seed=asked.seed,
            max_examples=max_examples,
            only=only,
            expected_failures=expected,
            say=say,
        )
    hints = [*misspelt(implementation), *_idle(expected, report)]
    report = dataclasses.replace(report, notes=(*report.notes, *hints))
    click.echo(_styled(lines(report, implementation, asked.address)), err=_takes_stdout(asked.json_file))
    _write_json(asked.json_file, as_json(report, implementation, asked.address))
    if junit is not None:
        _write(junit, as_junit(report, implementation, asked.address))
    return report.holds


def identify(asked: Asked) -> None:
    """Print and write which of the known variants an implementation is."""
    from sora_ref.conformance.frontends.identify import identify

    _require_writable(asked.json_file)
    with _prints_go_to_standard_error():
        found = identify(load(asked.address), dtype=asked.dtype, seed=asked.seed)
    click.echo("\n".join(found.lines()), err=_takes_stdout(asked.json_file))
    _write_json(asked.json_file, found.as_json())


def listed(level: Level) -> list[str]:
    """A line for every check: id, which begins with the clause; level, version, function, title, and what it needs."""
    checks = select(level)
    ids, functions = (max(map(len, words)) for words in zip(*((x.id, x.stated_by) for x in checks), strict=True))
    return [
        f"{each.id:<{ids}}  {each.level}  {each.since}  {each.stated_by:<{functions}}  {each.title} "
        f"[{', '.join(each.requires)}]"
        for each in checks
    ]


def check_ourselves(level: Level, seed: int, max_examples: int) -> int:
    """Check the specification's own functions, on every backend; the exit status."""
    from sora_ref.conformance.frontends.self_check import self_check

    reports: list[Report] = self_check(click.echo, level=level, seed=seed, max_examples=max_examples)
    return 0 if reports and all(report.holds for report in reports) else 1


def visit_museum(seed: int, max_examples: int, quiet: bool) -> int:
    """Check that every wrong implementation is refused; the exit status."""
    from sora_ref.conformance.museum import Verdict, last_line, run_all

    def say(verdict: Verdict) -> None:
        if not (quiet and verdict.right):
            click.echo(str(verdict))

    verdicts = run_all(say, seed=seed, max_examples=max_examples)
    click.echo(last_line(verdicts))
    return 0 if verdicts and all(verdict.right for verdict in verdicts) else 1


def _idle(expected: Mapping[str, str], report: Report) -> list[str]:
    """A sentence for every expected failure that nothing in the run bears on."""
    looked_at = [each.check for each in report.outcomes if each.status != "skipped"]
    used = {name for each in looked_at for name in (each.id, each.clause)}
    return [f"the expected failure of {name} was not looked at" for name in expected if name not in used]


def _require_writable(path: Path | None) -> None:
    """Said before the checks run, and not after."""
    if path is None or _takes_stdout(path):
        return
    if path.is_dir():
        raise SoRAError(f"{path}: is a folder: expected the name of a file")
    above = Path(os.path.abspath(path)).parents
    folder = next((each for each in above if each.exists()), above[-1])  # a drive of Windows may be absent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise SoRAError(f"{path}: cannot be written: expected a writable folder, and {folder} is none")


def _takes_stdout(path: Path | None) -> bool:
    return str(path) == "-"


def _write_json(path: Path | None, value: Any) -> None:
    if path is None:
        return
    text = to_json(value, indent=2)
    if _takes_stdout(path):
        click.echo(text)
    else:
        _write(path, (text + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; into what is no file, such as a pipe, without putting a file in its place."""
    if path.exists() and not path.is_file():
        with path.open("wb") as out:
            out.write(data)
    else:
        write_bytes(path.resolve(), data)


@contextlib.contextmanager
def _prints_go_to_standard_error() -> Iterator[None]:
    """What an implementation prints is no part of the report."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _progress(checks: tuple[Check, ...], quiet: bool) -> Iterator[Callable[[Outcome], None]]:
    """A line on a terminal that says which check runs, gone when it is done."""
    if quiet or not sys.stderr.isatty():
        yield lambda outcome: None
        return
    done = 0

    def show(text: str) -> None:
        sys.stderr.write("\r\x1b[K" + text)
        sys.stderr.flush()

    def running() -> None:
        text = f"{done + 1}/{len(checks)} {checks[done].id}: {checks[done].title}" if done < len(checks) else ""
        show(text[: shutil.get_terminal_size().columns - 1])  # what wraps is not erased

    def say(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if outcome.status not in ("passed", "skipped"):
            show(f"{outcome.check.id}: {WORDS[outcome.status]}\n")
        running()

    running()
    try:
        yield say
    finally:
        show("")


def _styled(text: list[str]) -> str:
    """Colours, which `click.echo` drops where there is no terminal."""
    colours = {"refused ": "red", "SoRA ": "green", "no badge": "red"}
    styled = []
    for line in text:
        colour = next((colour for start, colour in colours.items() if line.startswith(start)), None)
        styled.append(click.style(line, fg=colour, bold=True) if colour else line)
    return "\n".join(styled)
