"""The eight GLUE tasks of the SoRA paper, read from the benchmark's published folders.

The files are tab-separated without quoting and with a header line, except CoLA's train and dev files, which have none.
What is odd about them, and what is done:

* a row that lacks a field the task uses (QQP has a few) is passed over and counted; further fields are ignored, and so
  is anything in the columns not used;
* a row of MNLI whose annotators did not agree (gold label `-`) is passed over and counted;
* a blank sentence is kept: the benchmark's rows are not ours to choose;
* the test files carry no labels, and those that a file may have are not read;
* MRPC may be present as the original corpus (`msr_paraphrase_train.txt` and `…_test.txt`); its train file then
  parts into train and validation by GLUE's list of id pairs, `dev_ids.tsv`.

An example's id is `SPLIT:ROW` with the row counted from 0 in its file, which is the `index` column where there is
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.run.data.labels import class_index, class_indices, real_number, some
from sora_ref.run.data.rows import place, tsv_rows
from sora_ref.run.data.task import Example, Kind, Task
from sora_ref.run.say import Say


@dataclass(frozen=True)
class GlueTask:
    """One task's files: where they are, which columns count, and how its labels are spelled there.

    `codes` are the labels as spelled in the files, `labels` their names, both in class order and both empty for
    regression; `columns` are those of the labelled files where these have no header line.
    """

    folder: str
    text: str
    pair: str | None
    label: str
    codes: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    cite: str
    columns: tuple[str, ...] | None = None
    files: tuple[tuple[str, str], ...] = (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "test.tsv"))

    @property
    def kind(self) -> Kind:
        """Regression where there are no classes."""
        return "classification" if self.codes else "regression"

    def used(self, split: str) -> tuple[str, ...]:
        """Columns that an example of the split needs."""
        columns = (self.text, self.pair, None if _is_test(split) else self.label)
        return tuple(column for column in columns if column is not None)


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

GLUE: Mapping[str, GlueTask] = MappingProxyType(
    {
        "cola": GlueTask(
            folder="CoLA",
            text="sentence",
            pair=None,
            label="label",
            codes=_BINARY,
            labels=("unacceptable", "acceptable"),
            metrics=("matthews",),
            cite="CoLA: Warstadt et al. (2019)",
            columns=("source", "label", "note", "sentence"),
        ),
        "sst2": GlueTask(
            folder="SST-2",
            text="sentence",
            pair=None,
            label="label",
            codes=_BINARY,
            labels=("negative", "positive"),
            metrics=("accuracy",),
            cite="SST-2: Socher et al. (2013)",
        ),
        "mrpc": GlueTask(
            folder="MRPC",
            text="#1 String",
            pair="#2 String",
            label="Quality",
            codes=_BINARY,
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            cite="MRPC: Dolan & Brockett (2005)",
        ),
        "qqp": GlueTask(
            folder="QQP",
            text="question1",
            pair="question2",
            label="is_duplicate",
            codes=_BINARY,
            labels=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            cite="QQP: Iyer et al. (2017)",
        ),
        "stsb": GlueTask(
            folder="STS-B",
            text="sentence1",
            pair="sentence2",
            label="score",
            codes=(),
            labels=(),
            metrics=("pearson", "spearman"),
            cite="STS-B: Cer et al. (2017)",
        ),
        "mnli": GlueTask(
            folder="MNLI",
            text="sentence1",
            pair="sentence2",
            label="gold_label",
            codes=_NLI,
            labels=_NLI,
            metrics=("accuracy",),
            cite="MNLI: Williams et al. (2018)",
            files=(
                ("train", "train.tsv"),
                ("validation_matched", "dev_matched.tsv"),
                ("validation_mismatched", "dev_mismatched.tsv"),
                ("test_matched", "test_matched.tsv"),
                ("test_mismatched", "test_mismatched.tsv"),
            ),
        ),
        "qnli": GlueTask(
            folder="QNLI",
            text="question",
            pair="sentence",
            label="label",
            codes=_ENTAILMENT,
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            cite="QNLI: Rajpurkar et al. (2016)",
        ),
        "rte": GlueTask(
            folder="RTE",
            text="sentence1",
            pair="sentence2",
            label="label",
            codes=_ENTAILMENT,
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            cite="RTE: Dagan et al. (2005), Bar-Haim et al. (2006), Giampiccolo et al. (2007), Bentivogli (2009)",
        ),
    }
)


class _Row(NamedTuple):
    number: int
    line: int
    fields: Mapping[str, str]


def read_glue(folder: Path, task: str, *, say: Say | None = None) -> Task:
    """Read a task from its published folder, or from the folder above it.

    Splits: `train`, `validation` and, where the file is there, `test`; for MNLI `validation_matched` and
    `validation_mismatched`, and so for test. `say` hears how many rows were passed over.

    Raises `SoRAError` for an unknown task, a missing folder, file or column, a label outside the task's, and the
    faults of `tsv_rows`.
    """
    if task not in GLUE:
        raise SoRAError(f"unknown GLUE task {shown(task)}: expected one of {', '.join(GLUE)}")
    spec = GLUE[task]
    home = _home(Path(folder), spec)
    splits = {}
    for split, path, rows in _sources(home, spec):
        splits[split] = tuple(_examples(path, rows, spec, split, say))
    return Task(
        name=f"glue:{task}",
        kind=spec.kind,
        labels=spec.labels,
        metrics=spec.metrics,
        splits=splits,
        source=f"GLUE: Wang et al. (2019); {spec.cite}; licence as stated by that data set's authors.",
    )


def glue_files(folder: Path, task: str) -> list[Path]:
    """The files that `read_glue` reads; `SoRAError` where it finds no folder of the task."""
    spec = GLUE[task]
    home = _home(Path(folder), spec)
    corpus = ("dev_ids.tsv", _MSR_TRAIN, _MSR_TEST)
    names = corpus if _is_corpus(home, spec) else tuple(name for _, name in spec.files)
    return [home / name for name in names if (home / name).is_file()]


def _home(folder: Path, spec: GlueTask) -> Path:
    """Folder that holds the train file: `folder` or its subfolder of the task's name."""
    train = spec.files[0][1]
    for home in (folder, folder / spec.folder):
        if (home / train).is_file() or _is_corpus(home, spec):
            return home
    raise SoRAError(f"no {train} of {spec.folder} in {folder} or {folder / spec.folder}: expected GLUE's folder layout")


def _is_corpus(home: Path, spec: GlueTask) -> bool:
    return spec is GLUE["mrpc"] and (home / _MSR_TRAIN).is_file() and not (home / "train.tsv").is_file()


def _sources(home: Path, spec: GlueTask) -> Iterator[tuple[str, Path, Iterator[_Row]]]:
    """Yield (split, file, rows of the split); a missing test file is no split, any other missing file is an error."""
    if _is_corpus(home, spec):
        yield from _corpus_sources(home, spec)
        return
    for split, name in spec.files:
        path = home / name
        if not _is_test(split):
            yield split, path, _rows(path, spec.used(split), spec.columns)
        elif path.is_file():
            yield split, path, _rows(path, spec.used(split))


def _is_test(split: str) -> bool:
    return split.startswith("test")


_MSR_TRAIN = "msr_paraphrase_train.txt"
_MSR_TEST = "msr_paraphrase_test.txt"
_MSR_IDS = ("#1 ID", "#2 ID")


def _corpus_sources(home: Path, spec: GlueTask) -> Iterator[tuple[str, Path, Iterator[_Row]]]:
    """MRPC's splits out of the original corpus."""
    listed, train, test = home / "dev_ids.tsv", home / _MSR_TRAIN, home / _MSR_TEST
    if not listed.is_file():
        raise SoRAError(f"{listed} is missing: expected GLUE's id pairs of the validation examples beside {_MSR_TRAIN}")
    chosen = {tuple(fields) for _, fields in tsv_rows(listed)}
    for split, wanted in (("train", False), ("validation", True)):
        yield split, train, _listed(_rows(train, (*spec.used(split), *_MSR_IDS)), chosen, wanted)
    if test.is_file():
        yield "test", test, _rows(test, spec.used("test"))


def _listed(rows: Iterable[_Row], chosen: set[tuple[str, ...]], wanted: bool) -> Iterator[_Row]:
    """Rows whose pair of ids is among the chosen ones, or is not."""
    for row in rows:
        if (tuple(row.fields.get(column, "") for column in _MSR_IDS) in chosen) is wanted:
            yield row


def _rows(path: Path, used: tuple[str, ...], columns: tuple[str, ...] | None = None) -> Iterator[_Row]:
    """Yield the rows by column, short ones with the fields they have; the first line names the columns if None."""
    lines = tsv_rows(path)
    if columns is None:
        line, names = next(lines, (1, []))
        columns = tuple(names)
        missing = [column for column in used if column not in columns]
        if missing:
            raise SoRAError(f"{place(path, line)}: no column {shown(missing[0])}; found {some(columns)}")
    for number, (line, fields) in enumerate(lines):
        yield _Row(number, line, dict(zip(columns, fields, strict=False)))


def _examples(path: Path, rows: Iterable[_Row], spec: GlueTask, split: str, say: Say | None) -> Iterator[Example]:
    labelled, codes = not _is_test(split), class_indices(spec.codes)
    short = undecided = 0
    for row in rows:
        if any(column not in row.fields for column in spec.used(split)):
            short += 1
        elif labelled and row.fields[spec.label] == "-":
            undecided += 1
        else:
            yield Example(
                id=f"{split}:{row.number}",
                text=row.fields[spec.text],
                pair=None if spec.pair is None else row.fields[spec.pair],
                label=_label(place(path, row.line), row.fields[spec.label], codes) if labelled else None,
            )
    if say is not None and short:
        say(f"{printable(str(path))}: rows passed over because they lack a field: {short}")
    if say is not None and undecided:
        say(f"{printable(str(path))}: rows passed over because their annotators did not agree: {undecided}")


def _label(where: str, value: str, codes: Mapping[str, int]) -> int | float:
    return class_index(where, value, codes) if codes else real_number(where, value)
