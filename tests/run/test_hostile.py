"""A string that commands a terminal, and is endless, goes through every route by which one reaches a user."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_run import SPLITS, copy_run, flags, make_config, make_keys, make_rows, run_once, write_jsonl

from sora_ref.cli import main as main_module
from sora_ref.errors import LONGEST
from sora_ref.run.checkpoint import checkpoints
from sora_ref.run.training import train
from sora_ref.storage.sealed import read_sealed, sealed_bytes

Keys = dict[str, Any]
CONTROLS = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028\x7f\r"
HOSTILE = CONTROLS + "x" * 20_000
NAME = "\x1b[2J\u202e" + "x" * 200  # as long as a file's may be


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("hostile")) | {"train.epochs": 1}


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_once(folder, keys)
    return folder


@pytest.fixture(scope="module")
def labelled(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on classes with such names."""
    folder = tmp_path_factory.mktemp("labelled")
    names = {"bad": CONTROLS + "bad", "good": CONTROLS + "good"}
    files = {}
    for split in SPLITS:
        rows = [{**row, "label": names[row["label"]]} for row in make_rows(split)]
        files[split] = str(write_jsonl(folder / f"{split}.jsonl", rows))
    run_once(folder / "run", keys | {"task.files": files})
    return folder / "run"


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The console script in this process; whatever it says is safe to be shown.  Gives status and standard output."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["sora-ref", *map(str, arguments)])
            for name in ("draw_ranks", "draw_gates"):
                patch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)
            try:
                main_module.main()
                status = 0
            except SystemExit as stopped:
                status = int(stopped.code or 0)
        out, err = capfd.readouterr()
        assert status in (0, 1, 2), err
        for text in (out, err):
            assert {unicodedata.category(c) for c in text if c != "\n"} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} == set()
            assert all(len(line) <= LONGEST + len("sora-ref: ") + 2 for line in text.split("\n"))
        assert (status != 1) or (out, err.count("\n")) == ("", 1)
        return status, out

    return run


REFUSED: dict[str, tuple[str, ...]] = {
    "command": (HOSTILE,),
    "option": ("train", f"--{HOSTILE}"),
    "choice": ("export", "RUN", "--out", "x", "--layout", HOSTILE),
    "whole number": ("train", "--out", "x", "--rank", HOSTILE),
    "argument too many": ("inspect", "RUN", HOSTILE),
    "run": ("eval", NAME),
    "stage": ("eval", "RUN", "--stage", "9" * 5000),
    "split": ("eval", "RUN", "--split", HOSTILE),
    "artefact": ("fetch", HOSTILE),
    "shell": ("completion", HOSTILE),
    "implementation": ("check", HOSTILE),
    "name in a module": ("check", f"os:{HOSTILE}"),
    "check": ("check", "--list", "--level", HOSTILE),
    "configuration": ("train", "--config", NAME, "--out", "x"),
    "key": ("train", "--set", f"{HOSTILE}=1", "--out", "x"),
    "key of a table": ("train", "--set", f"train.{HOSTILE}=1", "--out", "x"),
    "no key": ("train", "--set", HOSTILE, "--out", "x"),
    "value": ("train", "--set", f"train.lr={HOSTILE}", "--out", "x"),
    "task": ("train", "--task", HOSTILE, "--out", "x"),
    "model": ("train", "--model", HOSTILE, "--out", "x"),
    "backend": ("eval", "RUN", "--backend", HOSTILE),
    "rule": ("train", "--rule", HOSTILE, "--out", "x"),
    "table": ("predict", "RUN", "--input", NAME),
    "column": ("predict", "RUN", "--input", "TABLE", "--text", HOSTILE),
    "second column": ("predict", "RUN", "--input", "TABLE", "--pair", HOSTILE),
    "column of names": ("predict", "RUN", "--input", "TABLE", "--id", HOSTILE),
    "out": ("prune", "RUN", "--out", f"TABLE/{NAME}"),
}


@pytest.mark.parametrize("route", REFUSED)
def test_what_is_refused_is_quoted_short_and_printable(
    route: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write_jsonl(tmp_path / "table.jsonl", make_rows("test"))
    words = [word.replace("RUN", str(run)).replace("TABLE", str(table)) for word in REFUSED[route]]
    assert call(*words)[0] in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["table.jsonl"]


@pytest.mark.parametrize("key", ["task.text", "task.label", "task.id", "task.name", "model.path", "backend"])
def test_values_of_a_configuration_are_quoted_short_and_printable(
    key: str, keys: Keys, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    file = tmp_path / "run.toml"
    table, name = key.rpartition(".")[::2]
    file.write_text((f"[{table}]\n" if table else "") + f"{name} = {json.dumps(HOSTILE)}\n")
    given = {name: value for name, value in keys.items() if name != key}
    assert call("train", "--config", file, "--out", tmp_path / "out", "--quiet", *flags(given))[0] == 1
    file.write_text(f"{json.dumps(HOSTILE)} = 1\n")
    assert call("train", "--config", file, "--out", tmp_path / "out")[0] == 1


def test_classes_of_such_names_work_and_are_printed_escaped(
    labelled: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    for words in (("eval", labelled), ("inspect", labelled), ("predict", labelled, CONTROLS + "good")):
        assert call(*words, "--quiet")[0] == 0
    json_words: tuple[tuple[str | Path, ...], ...] = (("inspect", labelled), ("predict", labelled, "good"))
    for more in json_words:
        status, out = call(*more, "--quiet", "--json")
        assert status == 0
        assert holds(json.loads(out), CONTROLS + "good"), "JSON means what it meant"
    for command in ("prune", "merge", "export"):
        folder = tmp_path / (CONTROLS + command)
        assert call(command, labelled, "--out", folder)[0] == 0
        assert call("inspect", folder)[0] == 0


def holds(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        return any(holds(part, text) for pair in value.items() for part in pair)
    return any(holds(part, text) for part in value) if isinstance(value, list) else value == text


def test_tensors_facts_and_logs_of_such_names_are_refused_escaped(
    run: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    def changed(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
        folder = copy_run(run, tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        path = checkpoints(folder)[-1]
        tensors, facts = read_sealed(path, "a checkpoint")
        change(tensors, facts)
        path.write_bytes(sealed_bytes(tensors, facts))
        (folder / "summary.json").unlink()
        return folder

    for change in (
        lambda tensors, facts: tensors.update({HOSTILE: np.zeros(1, np.float32)}),
        lambda tensors, facts: tensors.update({f"params/{HOSTILE}": np.zeros(1, np.float32)}),
        lambda tensors, facts: tensors.update({f"params/{HOSTILE}.sora_A": np.zeros(1, np.float32)}),
        lambda tensors, facts: facts["scales"].update({HOSTILE: 1.0}),
        lambda tensors, facts: facts["labels"].update({"kind": HOSTILE}),
        lambda tensors, facts: facts.update({"format": HOSTILE}),
    ):
        folder = changed(change)
        for words in (("eval", folder), ("train", "--out", folder, "--resume", "--quiet")):
            assert call(*words)[0] == 1
    for name in ("metrics.jsonl", "gates.jsonl"):
        folder = changed(lambda tensors, facts: None)
        with (folder / name).open("a") as log:
            log.write(json.dumps({HOSTILE: 1, "step": HOSTILE, "kind": HOSTILE}) + "\n")
        assert call("train", "--out", folder, "--resume", "--quiet")[0] == 1
    folder = changed(lambda tensors, facts: None)
    (folder / "versions.json").write_text(json.dumps({"numpy": HOSTILE, HOSTILE: HOSTILE}))
    assert call("train", "--out", folder, "--resume", "--quiet")[0] == 0


def test_models_and_adapters_of_such_names_are_refused_or_listed_escaped(
    run: Path, keys: Keys, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    assert call("export", run, "--out", tmp_path / "adapter")[0] == 0
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    for key in (*config, HOSTILE):
        file.write_text(json.dumps(config | {key: HOSTILE}))
        call("inspect", tmp_path / "adapter")
    file.write_text(json.dumps(config))
    save_file({HOSTILE: np.zeros((2, 2), np.float32)}, tmp_path / "adapter" / "adapter_model.safetensors")
    assert call("inspect", tmp_path / "adapter")[0] == 1

    model = copy_run(Path(keys["model.path"]), tmp_path / "model")
    file = model / "config.json"
    config = json.loads(file.read_text())
    for key in config:
        file.write_text(json.dumps(config | {key: HOSTILE}))
        call("train", "--out", tmp_path / f"out-{key}", "--quiet", *flags(keys | {"model.path": str(model)}))


def test_the_name_of_a_run_is_printable_beside_its_progress(
    keys: Keys, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sora_ref.run.summary.draw_ranks", lambda *_: None)
        patch.setattr("sora_ref.run.summary.draw_gates", lambda *_: None)
        train(make_config(keys), tmp_path / CONTROLS)
    err = capfd.readouterr().err
    assert "owned" in err
    assert {c for c in err if unicodedata.category(c)[0] == "C"} <= {"\r", "\n"}


def test_a_table_of_such_names_is_refused_escaped(
    run: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    for suffix, text in (
        ("tsv", f"{HOSTILE}\ta\nx\ty\n"),
        ("csv", f'"{HOSTILE}",a\n"x\n'),
        ("jsonl", json.dumps({HOSTILE: HOSTILE}) + "\n"),
        ("jsonl", HOSTILE + "\n"),
    ):
        path = tmp_path / f"{NAME}.{suffix}"
        path.write_text(text)
        assert call("predict", run, "--input", path)[0] == 1
