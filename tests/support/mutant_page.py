"""What mutmut's results say: which mutants there are, who died, what is wrong with that, and docs/mutants.md."""

from __future__ import annotations

import ast
import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

Verdict = Literal["killed", "timeout", "survived", "unclear", "open"]
NULL = "__mutmut_0"  # mutmut counts from 1; of a number it does not know it runs the original function
LEAST_SCORE = 95  # per cent


class Change(NamedTuple):
    """A mutant by what it does, which outlives mutmut's running numbers: the lines of a function before and after."""

    file: str
    function: str
    original: str
    mutant: str


class Mutant(NamedTuple):
    """A change, and what became of it."""

    change: Change
    verdict: Verdict


class Reason(NamedTuple):
    """Why no test can tell a change from the original."""

    change: Change
    why: str


@dataclass(frozen=True)
class Results:
    """All mutants; and the verdicts on those that change nothing, by file and function."""

    mutants: Sequence[Mutant]
    nulls: Mapping[tuple[str, str], Verdict]

    def of(self, *verdicts: Verdict) -> list[Change]:
        """The changes with one of these verdicts."""
        return [mutant.change for mutant in self.mutants if mutant.verdict in verdicts]

    def part(self, file: str) -> Results:
        """Those of one file."""
        return Results([mutant for mutant in self.mutants if mutant.change.file == file], self.nulls)

    @property
    def score(self) -> float:
        """Per cent of all mutants that died; one that ran out of time did."""
        return 100 * len(self.of("killed", "timeout")) / max(len(self.mutants), 1)


@dataclass(frozen=True)
class Run:
    """Of what the page tells: when, how long, with which versions."""

    date: str
    minutes: float
    workers: int
    versions: str


CONTROLS = (  # one on each side of the link sora_ref/models
    Change("sora_ref/prox.py", "soft_threshold", "return x - xp.clip(x, -xi, xi)", "return x + xp.clip(x, -xi, xi)"),
    Change("sora_ref/models/layers.py", "tanh_backward", "return dy * (1 - y * y)", "return dy * (1 + y * y)"),
)


def read_results(tree: Path) -> Results:
    """What mutmut left below `tree`/mutants."""
    mutants, nulls = [], dict[tuple[str, str], Verdict]()
    for meta in sorted((tree / "mutants").rglob("*.py.meta")):
        source = meta.with_suffix("")
        file = source.relative_to(tree / "mutants").as_posix()
        functions = _generated_functions(source.read_text(encoding="utf-8"))
        for key, code in json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items():
            name = key.rpartition(".")[2]
            mangled = name.partition("__mutmut_")[0]
            if name.endswith(NULL):
                nulls[file, _readable(mangled)] = verdict(code)
            else:
                difference = _difference(functions[f"{mangled}__mutmut_orig"], functions[name])
                mutants.append(Mutant(Change(file, _readable(mangled), *difference), verdict(code)))
    return Results(mutants, nulls)


def verdict(code: int | None) -> Verdict:
    """The meaning of an exit code of pytest, or of the signal mutmut ended it with."""
    if code is None:
        return "open"
    if code in (1, 3):
        return "killed"
    if code in (-24, 24, 36, 152, 255):
        return "timeout"
    return "survived" if code in (0, 5, 33) else "unclear"


def _generated_functions(source: str) -> dict[str, list[str]]:
    """By name, the lines of each function mutmut wrote, under one name for all."""
    lines = source.splitlines()
    return {
        node.name: [
            line.replace(node.name, _readable(node.name).rpartition(".")[2])
            for line in lines[node.lineno - 1 : node.end_lineno]
        ]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and "__mutmut_" in node.name
    }


def _difference(original: Sequence[str], mutant: Sequence[str]) -> tuple[str, str]:
    """The lines that differ, before and after, without their indentation."""
    changed = [op for op in SequenceMatcher(None, original, mutant, autojunk=False).get_opcodes() if op[0] != "equal"]
    before = (line.strip() for _, i, j, _, _ in changed for line in original[i:j])
    after = (line.strip() for _, _, _, i, j in changed for line in mutant[i:j])
    return " ".join(before), " ".join(after)


def _readable(name: str) -> str:
    """x_soft_threshold__mutmut_7 -> soft_threshold; xǁAdamWǁupdate__mutmut_7 -> AdamW.update."""
    mangled = name.partition("__mutmut_")[0]
    return mangled.removeprefix("x_") if mangled.startswith("x_") else mangled[2:].replace("ǁ", ".")


def read_reasons(path: Path) -> list[Reason]:
    """The survivors known to be equivalent: tables of a file, a function, an original, its mutants and a reason."""
    return [
        Reason(Change(table["file"], table["function"], table["original"], mutant), table["reason"])
        for table in tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", [])
        for mutant in table["mutants"]
    ]


def unexplained(results: Results, reasons: Sequence[Reason]) -> list[Change]:
    """The survivors without a reason; a change that a function offers twice needs its reason twice."""
    return list((Counter(results.of("survived")) - Counter(reason.change for reason in reasons)).elements())


def faults(results: Results, reasons: Sequence[Reason]) -> list[str]:
    """Everything that keeps these results from being a proof; each one sentence."""
    still_open = results.of("open")
    stale = Counter(reason.change for reason in reasons) - Counter(results.of("survived"))
    found = [f"{len(still_open)} mutants have not been run"] if still_open else []
    found += [f"neither killed nor alive: {_named(change)}" for change in results.of("unclear")]
    found += [f"the control did not die: {_named(change)}" for change in CONTROLS if change not in results.of("killed")]
    found += [f"{name}: what changes nothing was {told}" for name, told in results.nulls.items() if told != "survived"]
    found += [f"{file}: nothing that changes nothing" for file in set(_files(results)) - {f for f, _ in results.nulls}]
    found += [f"survived without a reason: {_named(change)}" for change in unexplained(results, reasons)]
    found += [f"the reason is of no survivor: {_named(change)}" for change in stale.elements()]
    if results.score < LEAST_SCORE:
        found.append(f"{results.score:.2f} % were killed: expected at least {LEAST_SCORE} %")
    return found


def page(results: Results, reasons: Sequence[Reason], run: Run) -> str:
    """docs/mutants.md."""
    total, survivors = len(results.mutants), len(results.of("survived"))
    return f"""# The tests, tested

Written by `make mutants` on {run.date}; {run.minutes:.0f} minutes with {run.workers} workers; {run.versions}.

mutmut changes one thing at a time in the specification's core and in the layers of `models`: an operator, a number, an
argument, a name.  The tests must notice each change.  **{results.score:.2f} % of {total} mutants were killed**;
{survivors} survived, and each of them is listed below with the reason why no test here can tell it from the original.
The tests run with five examples of each property, without the slow ones that start other processes or prove theorems.

Two kinds of control say that these verdicts are about the mutated files, and not about an installed copy of them.
{len(CONTROLS)} mutants had to die, and did: {_listed_controls()}.  And {len(results.nulls)} "mutants"
that change nothing, one in each file at least and enough of them to make every test run, had to survive, and did: no
test fails for a reason of its own.

mutmut leaves decorated functions and the code outside functions alone.  `make mutants-sample`, which is part of the
continuous integration, breaks some of that by hand: the table of gate rules, defaults of the optimisers, names of
layers.

## Counts

{_table(results)}

*Timeout* counts as killed: the mutant ran 15 times as long as its tests do.

## Survivors

{_survivors(results, reasons)}"""


def summary(results: Results, reasons: Sequence[Reason]) -> str:
    """The counts, and the survivors without a reason, in a form to paste into the table of reasons."""
    entries = [
        f"[[survivor]]\nfile = {json.dumps(file)}\nfunction = {json.dumps(function)}\n"
        f"original = {json.dumps(original, ensure_ascii=False)}\nmutants = [\n"
        + "".join(f"    {json.dumps(change.mutant, ensure_ascii=False)},\n" for change in changes)
        + ']\nreason = ""\n'
        for (file, function, original), changes in groupby(unexplained(results, reasons), lambda change: change[:3])
    ]
    return "\n".join([*entries, _table(results)])


def _table(results: Results) -> str:
    rows = [[f"`{file}`", *_counts(results.part(file))] for file in _files(results)]
    lines = ["| file | mutants | killed | timeout | survived | killed % |", "|---|--:|--:|--:|--:|--:|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in [*rows, ["all", *_counts(results)]]])


def _counts(results: Results) -> list[str]:
    by_verdict = [len(results.of(verdict)) for verdict in ("killed", "timeout", "survived")]
    return [*map(str, [len(results.mutants), *by_verdict]), f"{results.score:.2f}"]


def _survivors(results: Results, reasons: Sequence[Reason]) -> str:
    survived = set(results.of("survived"))
    told = [reason for reason in reasons if reason.change in survived]
    parts = []
    for file, of_file in groupby(
        sorted(told, key=lambda reason: reason.change.file), lambda reason: reason.change.file
    ):
        parts.append(f"### `{file}`\n")
        for (function, original, why), same in groupby(
            of_file, lambda r: (r.change.function, r.change.original, r.why)
        ):
            mutants = "".join(f"+ {reason.change.mutant}\n" for reason in same)
            parts.append(f"`{function}`: {why}\n\n```diff\n- {original}\n{mutants}```\n")
    return "\n".join(parts)


def _listed_controls() -> str:
    return "; ".join(f"`{change.mutant}` in `{change.function}` of `{change.file}`" for change in CONTROLS)


def _files(results: Results) -> list[str]:
    return sorted({mutant.change.file for mutant in results.mutants})


def _named(change: Change) -> str:
    return f"{change.file}, {change.function}: {change.original!r} -> {change.mutant!r}"
