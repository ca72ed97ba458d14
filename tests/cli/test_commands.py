"""`sora-ref`: every command does its work, and whatever is wrong is one sentence, with nothing lost."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_run import (
    CONFIG,
    EPOCH,
    SCHEDULE,
    change_weights,
    copy_run,
    flags,
    make_keys,
    make_rows,
    records,
    run_once,
    sora_ref,
    tree,
    write_jsonl,
    write_tokenizer,
    write_tsv,
)

from sora_ref import SPEC_VERSION, __version__
from sora_ref.cli import main as main_module
from sora_ref.cli.commands import cli
from sora_ref.models.bert import BERT
from sora_ref.run.checkpoint import checkpoints
from sora_ref.run.config import load_config

Keys = dict[str, Any]
LORD = "embeddings.LayerNorm.bias"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("cli")) | {"train.epochs": 1, "gate.strength": 0.1}


@pytest.fixture(scope="module")
def trained(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    run_once(run, keys)
    return run


@pytest.fixture(scope="module")
def scheduled(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    run_once(run, keys | SCHEDULE)
    return run


def call(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The console script's own `main`, in this process: exit status, standard output, standard error."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sora-ref", *map(str, arguments)])
        for name in ("draw_ranks", "draw_gates"):
            patch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)
        try:
            main_module.main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def good(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        status, out, err = call(*arguments, capsys=capsys)
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture
def as_json(good: Callable[..., str]) -> Callable[..., Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return lambda *arguments: json.loads(good(*arguments, "--json", "--quiet"), parse_constant=refuse)


@pytest.fixture
def bad(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The sentence of a command that is refused and leaves every file below tmp_path as it was."""

    def run(*arguments: str | Path, leaves: tuple[str, ...] = ()) -> str:
        before = tree(tmp_path)
        status, out, err = call(*arguments, capsys=capsys)
        assert (status, out) == (1, ""), err
        assert re.fullmatch(r"sora-ref: [^\n]+\n", err), err
        assert "Traceback" not in err
        after = tree(tmp_path)
        assert {name: digest for name, digest in after.items() if name.split("/")[0] not in leaves} == before
        return err.removeprefix("sora-ref: ").rstrip("\n")

    return run


# What works.


def test_train_prints_the_summary_and_writes_a_run(keys: Keys, tmp_path: Path, good: Callable[..., str]) -> None:
    out = good("train", "--out", tmp_path / "run", "--quiet", *flags(keys))
    assert out.startswith(f"table: {EPOCH} steps in ")
    assert "components kept: " in out
    assert "thresholds alone would keep" in out
    assert (tmp_path / "run" / "summary.json").exists()


def test_train_takes_a_file_and_flags(keys: Keys, tmp_path: Path, as_json: Callable[..., Any]) -> None:
    from sora_ref.run.config import dump_config

    file = tmp_path / "run.toml"
    file.write_text(dump_config(load_config(None, keys)))
    arguments = ["--seed", "4", "--rank", "2", "--rule", "paper", "--strength", "0.5", "--lr", "0.03", "--batch", "20"]
    arguments += ["--gate-lr", "0.7"]
    arguments += [
        "--dtype",
        "float64",
        "--kernels",
        "reference",
        "--head",
        "cls",
        "--backend",
        "numpy",
        "--epochs",
        "2",
    ]
    summary = as_json("train", "--config", file, "--out", tmp_path / "run", *arguments)
    assert summary["steps"] == 4
    assert summary["counts"]["components"] == 2 * 12
    config = load_config(tmp_path / "run" / "config.toml", {})
    assert (config.seed, config.gate.rule, config.gate.strength, config.train.lr) == (4, "paper", 0.5, 0.03)
    assert config.gate.lr == 0.7
    assert (config.dtype, config.kernels, config.model.head) == ("float64", "reference", "cls")


def test_train_resumes_with_the_runs_own_configuration(
    trained: Path, tmp_path: Path, as_json: Callable[..., Any]
) -> None:
    run = copy_run(trained, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    assert as_json("train", "--out", run, "--resume") == summary
    (run / "summary.json").unlink()
    assert as_json("train", "--out", run, "--resume") == summary


def test_eval_scores_every_labelled_split_or_the_one_asked_for(trained: Path, as_json: Callable[..., Any]) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    found = as_json("eval", trained)
    assert set(found) == {"train", "validation", "test"}
    assert {split: found[split] for split in ("validation", "test")} == summary["scores"]
    assert as_json("eval", trained, "--split", "test") == {"test": summary["scores"]["test"]}
    assert as_json("eval", checkpoints(trained)[-1], "--split", "test") == {"test": summary["scores"]["test"]}
    assert set(as_json("eval", trained, "--dtype", "float64", "--backend", "numpy")) == set(found)


def test_eval_prints_a_line_a_split(trained: Path, good: Callable[..., str]) -> None:
    assert re.fullmatch(r"(\w+: accuracy \d\.\d{4}, f1 \d\.\d{4}\n){3}", good("eval", trained, "--quiet"))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_commands_take_a_stage_of_the_scheduler(
    scheduled: Path, tmp_path: Path, as_json: Callable[..., Any], stage: int
) -> None:
    performance = records(scheduled, "stage")[stage]["performance"]
    found = as_json("eval", scheduled, "--stage", str(stage), "--split", "validation")
    assert found["validation"]["accuracy"] == performance["generalization"]
    assert as_json("inspect", scheduled, "--stage", str(stage))["counts"]["with_gates"] == performance["nonzero"]
    ranks = as_json("prune", scheduled, "--stage", str(stage), "--out", tmp_path / "pruned")["ranks"]
    assert ranks == as_json("inspect", scheduled, "--stage", str(stage))["ranks"]


def test_predict_takes_texts(trained: Path, good: Callable[..., str], as_json: Callable[..., Any]) -> None:
    lines = good("predict", trained, "a good film", "bad", "", "--quiet").splitlines()
    assert [re.fullmatch(r"(good|bad)  \(\d\.\d{3}\)  (.*)", line)[2] for line in lines] == ["a good film", "bad", ""]  # type: ignore[index]
    record = as_json("predict", trained, "a good film")
    assert record["id"] == "0"
    assert record["probabilities"].keys() == {"bad", "good"}


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_predict_takes_tables_and_writes_a_json_line_a_row(
    trained: Path, tmp_path: Path, good: Callable[..., str], suffix: str
) -> None:
    rows = make_rows("test")
    path = tmp_path / f"table.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        write_tsv(path, rows, {"tsv": "\t", "csv": ","}[suffix])
    out = good("predict", trained, "--input", path, "--id", "name", "--quiet")
    found = [json.loads(line) for line in out.splitlines()]
    assert [record["id"] for record in found] == [row["name"] for row in rows]
    assert good("predict", trained, "--input", path, "--id", "name", "--quiet", "--out", tmp_path / "new" / "out") == ""
    assert (tmp_path / "new" / "out").read_text() == out
    accuracy = sum(r["prediction"] == row["label"] for r, row in zip(found, rows, strict=True)) / len(rows)
    assert accuracy == json.loads((trained / "summary.json").read_text())["scores"]["test"]["accuracy"]
    unnamed = good("predict", trained, "--input", path, "--text", "text", "--quiet")
    assert next(json.loads(line)["id"] for line in unnamed.splitlines()).startswith(f"table.{suffix}:")


def test_prune_merge_export_and_what_they_write_are_accepted_everywhere(
    trained: Path, tmp_path: Path, good: Callable[..., str], as_json: Callable[..., Any]
) -> None:
    scores = as_json("eval", trained)
    kept = json.loads((trained / "summary.json").read_text())["counts"]["kept"]
    assert good("prune", trained, "--out", tmp_path / "pruned", "--quiet") == (
        f"{tmp_path / 'pruned'}: {kept} of 36 components kept\n"
    )
    assert good("merge", trained, "--out", tmp_path / "merged", "--quiet") == (
        f"{tmp_path / 'merged'}: 12 modules merged\n"
    )
    for name in ("pruned", "merged"):
        assert as_json("eval", tmp_path / name) == scores
        assert as_json("predict", tmp_path / name, "a good film")["prediction"] in ("good", "bad")
        assert as_json("inspect", tmp_path / name)["counts"]["kept"] == (kept if name == "pruned" else 0)
        pruned_again = as_json("prune", tmp_path / name, "--out", tmp_path / f"{name}-again")
        assert sum(pruned_again["ranks"].values()) == (kept if name == "pruned" else 0)
    for layout in ("compact", "uniform"):
        found = as_json("export", tmp_path / "pruned", "--out", tmp_path / layout, "--layout", layout)
        assert found["layout"] == layout
        assert found["compared"]["max_abs_diff"] == 0
        facts = as_json("inspect", tmp_path / layout)
        assert facts["kind"] == "PEFT adapter"
    out = good("export", trained, "--out", tmp_path / "named", "--base-model", "me/tiny", "--quiet")
    assert f"{kept} components in" in out
    assert "largest difference 0" in out
    assert as_json("inspect", tmp_path / "named")["base"] == "me/tiny"
    assert as_json("merge", tmp_path / "pruned", "--out", tmp_path / "merged-3")["modules"] == 12


def test_inspect_shows_ranks_gates_and_counts(
    trained: Path, good: Callable[..., str], as_json: Callable[..., Any]
) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    facts = as_json("inspect", trained)
    assert facts["counts"] == summary["counts"]
    assert facts["ranks"] == summary["ranks"]
    assert set(facts["scales"].values()) == {2.0}
    assert set(facts["gates"]) == set(BERT.modules(CONFIG))
    text = good("inspect", trained, "--quiet")
    assert f"components kept: {summary['counts']['kept']} of 36" in text
    assert len(re.findall(r"^  encoder\.\S+ +rank \d of 3  s 2  g( 0| [+-]\d\.\d{3}){3}$", text, re.M)) == 12
    shutil.move(str(trained / "summary.json"), str(trained / "aside"))
    try:
        steps = facts["step"]  # without a summary, a run is not complete
        assert as_json("inspect", trained) == facts | {"unfinished": {"step": steps, "of": steps}}
    finally:
        shutil.move(str(trained / "aside"), str(trained / "summary.json"))


def test_fetch_of_names_prints_their_folders(
    as_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sora_ref.run.artefacts.download", lambda name, say: tmp_path / name)
    assert as_json("fetch", "minilm") == {"minilm": str(tmp_path / "minilm")}
    assert list(as_json("fetch")) == ["minilm", "bert-tiny", "hutto2014"]


def test_version_and_help_are_complete() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"sora-ref {__version__}, specification {SPEC_VERSION}\n"
    assert set(cli.commands) == {
        "train",
        "eval",
        "predict",
        "prune",
        "merge",
        "export",
        "inspect",
        "demo",
        "fetch",
        "check",
        "completion",
    }
    for name, command in cli.commands.items():
        if name == "completion":
            continue
        help_text = CliRunner().invoke(cli, [name, "--help"]).output
        assert command.help is not None
        assert "--json" in help_text
        assert "--quiet" in help_text


# What does not.


def test_wrong_usage_exits_with_2_and_clicks_sentence(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)  # else `predict` reads it
    for arguments in (
        ["train"],
        ["train", "--out", "x", "--rank", "two"],
        ["train", "--out", "x", "--dtype", "float16"],
        ["nothing"],
        ["eval"],
        ["eval", str(trained), "--stage", "-1"],
        ["export", str(trained), "--out", "x", "--layout", "flat"],
        ["predict", str(trained)],
        ["predict", str(trained), "text", "--input", "x.tsv"],
        ["prune", str(trained)],
        ["train", "--out", "x", "--no-such-flag"],
    ):
        status, out, err = call(*arguments, capsys=capsys)
        assert (status, out) == (2, "")
        assert err.startswith("Usage: sora-ref")
        assert "Error: " in err
        assert "Traceback" not in err


@pytest.fixture
def own(keys: Keys, tmp_path: Path) -> Keys:
    """The keys with a model and files of their own, to be damaged."""
    model = Path(shutil.copytree(keys["model.path"], tmp_path / "model"))
    files = {split: str(shutil.copy(path, tmp_path / Path(path).name)) for split, path in keys["task.files"].items()}
    return keys | {"model.path": str(model), "task.files": files}


def refused(own: Keys, tmp_path: Path, bad: Callable[..., str], *more: str, **changes: Any) -> str:
    given = own | {key.replace("__", "."): value for key, value in changes.items()}
    return bad("train", "--out", tmp_path / "out", "--quiet", *flags(given), *more)


def path_of(own: Keys, name: str) -> Path:
    return Path(own["model.path"]) / name


MODEL_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no such folder: expected a Hugging Face folder of BERT"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: no such file"),
    "no tokeniser": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json: damaged, not JSON"),
    "config no object": (lambda f: (f / "config.json").write_text("[]"), "Expected `object`, got `array`"),
    "config not text": (lambda f: (f / "config.json").write_bytes(b"\xff"), r"config\.json: damaged, not JSON"),
    "another model": (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "expected 'bert'"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged or truncated"),
    "weights cut": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-5]),
        "is damaged or truncated",
    ),
    "tensor missing": (lambda f: change_weights(f, {LORD: None}), f"no tensor {LORD}"),
    "wrong shape": (lambda f: change_weights(f, {LORD: np.zeros(7, np.float32)}), r"has shape \(7,\): expected \(8,\)"),
    "nan": (lambda f: change_weights(f, {LORD: np.full(8, np.nan, np.float32)}), "values that are not finite"),
    "tokeniser not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "not a tokeniser"),
    "tokeniser of another": (
        lambda f: write_tokenizer(f, [*(f"w{k}" for k in range(99)), "[CLS]", "[SEP]", "[UNK]"]),
        "the tokeniser belongs to another model",
    ),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGE)
def test_damaged_model_is_one_sentence(own: Keys, tmp_path: Path, bad: Callable[..., str], damage: str) -> None:
    act, words = MODEL_DAMAGE[damage]
    act(Path(own["model.path"]))
    sentence = refused(own, tmp_path, bad)
    assert re.search(words, sentence)
    assert sentence
    assert not (tmp_path / "out").exists()


TABLE_DAMAGE: dict[str, tuple[str, str]] = {
    "empty": ("", "no rows"),
    "header alone": ("name\ttext\tlabel\trating\n", "no rows"),
    "another column": ("name\tsentence\tlabel\nx\tgood\tgood\n", "no column 'text'"),
    "label outside": ("name\ttext\tlabel\nx\tgood\tfine\n", "the label 'fine' is not in the set"),
    "blank text": ("name\ttext\tlabel\nx\t \tgood\n", "blank"),
    "short row": ("name\ttext\tlabel\nx\tgood\n", "2 fields: expected 3"),
    "twice an id": ("name\ttext\tlabel\nx\tgood\tgood\nx\tbad\tbad\n", "every id once"),
}


@pytest.mark.parametrize("damage", TABLE_DAMAGE)
def test_damaged_table_is_one_sentence_with_its_name(
    own: Keys, tmp_path: Path, bad: Callable[..., str], damage: str
) -> None:
    text, words = TABLE_DAMAGE[damage]
    Path(own["task.files"]["validation"]).write_text(text)
    sentence = refused(own, tmp_path, bad)
    assert words in sentence
    assert "validation.tsv" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task__name": "moves"}, "unknown task 'moves' (did you mean movies?)"),
        ({"task__name": "glue:rte"}, "task.files is of the task table, and the task is 'glue:rte'"),
        ({"task__files": {"train": "/nowhere.tsv"}}, "/nowhere.tsv: no such file: expected a text file"),
        ({"task__files": {}}, "the task table lacks task.files.train (--data FILE): expected a file to train on"),
        ({"task__files": {"dev": "x"}}, "task.files has the split 'dev': expected some of train, validation, test"),
        ({"task__label": "name"}, "is not in the set"),
        ({"task__kind": "regression"}, "is not a finite number"),
        ({"backend": "jax"}, "unknown backend 'jax': expected one of numpy, cupy"),
        ({"gate__rule": "lasso"}, "expected one of paper"),
        ({"train__epochs": 0}, "train.epochs"),
        ({"model__max_length": 3}, "max_length is 3: expected more than the 3 special tokens"),
        ({"adapter__kinds": ["ffn"]}, "adapter.kinds has ffn"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_setting_that_cannot_be_is_one_sentence(
    own: Keys, tmp_path: Path, bad: Callable[..., str], changes: Keys, words: str
) -> None:
    assert words in refused(own, tmp_path, bad, **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_cupy_that_is_not_installed_is_one_sentence(
    own: Keys, trained: Path, tmp_path: Path, bad: Callable[..., str]
) -> None:
    assert "backend 'cupy': its library is not installed" in refused(own, tmp_path, bad, backend="cupy")
    assert "'cupy'" in bad("eval", trained, "--backend", "cupy", "--quiet")


CHECKPOINT_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) * 2 // 3],
    "a bit flipped": lambda data: data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"no tensors at all, but long enough to be some",
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGE)
def test_damaged_checkpoint_is_one_sentence_for_every_command(
    trained: Path, tmp_path: Path, bad: Callable[..., str], damage: str
) -> None:
    run = copy_run(trained, tmp_path / "run")
    (run / "summary.json").unlink()
    newest = checkpoints(run)[-1]
    newest.write_bytes(CHECKPOINT_DAMAGE[damage](newest.read_bytes()))
    for arguments in (
        ["eval", run],
        ["predict", run, "good"],
        ["inspect", run],
        ["prune", run, "--out", tmp_path / "new"],
        ["merge", run, "--out", tmp_path / "new"],
        ["export", run, "--out", tmp_path / "new"],
        ["train", "--out", run, "--resume"],
    ):
        sentence = bad(*arguments, "--quiet")
        assert newest.name in sentence
    assert f"remove it to resume from {checkpoints(run)[0].name}" in sentence


@pytest.mark.parametrize("command", ["eval", "predict", "prune", "merge", "export", "inspect"])
def test_what_is_no_run_is_one_sentence(tmp_path: Path, bad: Callable[..., str], command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "x.safetensors").touch()
    more = {"predict": ["good"], "eval": [], "inspect": []}.get(command, ["--out", str(tmp_path / "new")])
    for name in ("empty", "file", "x.safetensors", "gone"):
        sentence = bad(command, tmp_path / name, *more, "--quiet")
        assert str(tmp_path / name) in sentence
        assert "expected" in sentence


@pytest.mark.parametrize("text", ["", "seed = ", "sed = 1", "\x00"], ids=["empty", "no TOML", "unknown key", "no text"])
def test_damaged_configuration_of_a_run_is_one_sentence(
    trained: Path, tmp_path: Path, bad: Callable[..., str], text: str
) -> None:
    run = copy_run(trained, tmp_path / "run")
    (run / "config.toml").write_text(text)
    if text:
        assert "config.toml" in bad("eval", run, "--quiet")
        assert "config.toml" in bad("train", "--out", run, "--resume", "--quiet")


def test_unknown_stage_and_split_are_one_sentence(trained: Path, bad: Callable[..., str]) -> None:
    assert "no stage 7: expected one that the run has finished" in bad("eval", trained, "--stage", "7", "--quiet")
    assert "no split 'dev': expected one of train, validation, test" in bad(
        "eval", trained, "--split", "dev", "--quiet"
    )
    assert "no stage 0" in bad("inspect", trained, "--stage", "0")


def test_existing_output_is_one_sentence(trained: Path, tmp_path: Path, own: Keys, bad: Callable[..., str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for command in ("prune", "merge", "export"):
        assert "exists already" in bad(command, trained, "--out", tmp_path / "out", "--quiet")
    assert "not empty" in refused(own, tmp_path, bad)


@pytest.mark.parametrize("place", ["file/below", "/proc/sora-ref-run"])
def test_directory_that_cannot_be_written_is_one_sentence(
    own: Keys, trained: Path, tmp_path: Path, bad: Callable[..., str], place: str
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / place
    for command in ("prune", "merge", "export"):
        assert str(out.parent) in bad(command, trained, "--out", out, "--quiet")
    assert str(out.parent) in bad("train", "--out", out, "--quiet", *flags(own))
    assert str(out.parent) in bad("predict", trained, "good", "--out", out, "--quiet")


def test_run_directory_that_is_a_file_is_one_sentence(own: Keys, tmp_path: Path, bad: Callable[..., str]) -> None:
    (tmp_path / "out").write_text("mine")
    for more in ([], ["--resume"]):
        assert str(tmp_path / "out") in refused(own, tmp_path, bad, *more)


def test_prediction_table_without_its_column_is_one_sentence(
    trained: Path, tmp_path: Path, bad: Callable[..., str]
) -> None:
    path = write_tsv(tmp_path / "table.tsv", make_rows("test"))
    assert "no column 'sentence'" in bad("predict", trained, "--input", path, "--text", "sentence", "--quiet")
    assert "no such file" in bad("predict", trained, "--input", tmp_path / "gone.tsv", "--quiet")
    path.write_text("")
    assert "no rows" in bad("predict", trained, "--input", path, "--quiet")
    assert "suffix" in bad("predict", trained, "--input", shutil.copy(path, tmp_path / "table.txt"), "--quiet")


def test_disk_that_fills_up_in_training_is_one_sentence_and_the_run_goes_on_afterwards(
    own: Keys, tmp_path: Path, bad: Callable[..., str], good: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = os.fsync

    def fill(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 9:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    sentence = bad("train", "--out", tmp_path / "out", "--quiet", *flags(own), leaves=("out",))
    assert "No space left on device" in sentence
    monkeypatch.undo()
    good("train", "--out", tmp_path / "out", "--quiet", "--resume")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (MemoryError("Unable to allocate 1.2 EiB."), 1, "out of memory (Unable to allocate 1.2 EiB): lower"),
        (OverflowError("int too large to convert to float"), 1, "a number is too large for this machine (int too"),
        (RuntimeError("can't start new thread"), 1, "no more threads can be started: expected room for some"),
        (ImportError("x.so: cannot map"), 1, "a library cannot be loaded (x.so: cannot map): expected a sound"),
        (ModuleNotFoundError("no x", name="x"), 1, "this command needs more packages (x is missing): pip install"),
        (ImportError("cannot import name", name="sora_ref.x"), 70, "a bug of sora-ref, please report it: ImportError"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (RuntimeError("two\nlines"), 70, "a bug of sora-ref, please report it: RuntimeError: two lines"),
    ],
)
def test_whatever_else_happens_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("sora_ref.run.inspect.inspect_path", fail)
    monkeypatch.delenv("SORA_REF_DEBUG", raising=False)
    found, out, err = call("inspect", "x", capsys=capsys)
    assert (found, out) == (status, "")
    assert re.fullmatch(r"\n?sora-ref: [^\n]+\n", err)  # click ends the line that ^C stands on
    assert words in err


def test_debugging_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora_ref.run.inspect.inspect_path", lambda *_: 1 / 0)
    monkeypatch.setenv("SORA_REF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        call("inspect", "x", capsys=capsys)


# In processes of their own: what the terminal sees.


def test_installed_script_trains_and_says_its_progress_on_standard_error(keys: Keys, tmp_path: Path) -> None:
    done = sora_ref("train", "--out", str(tmp_path / "run"), "--json", *flags(keys), code=0)
    assert json.loads(done.stdout)["steps"] == EPOCH
    assert re.search(r"5/5 .*loss \d\.\d{3}, gates at zero \d+/36", done.stderr)
    assert (tmp_path / "run" / "ranks.png").exists()
    assert (tmp_path / "run" / "gates.png").exists()


def test_error_in_a_process_is_one_line(tmp_path: Path) -> None:
    done = sora_ref("eval", str(tmp_path), code=1)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert done.stderr.startswith(f"sora-ref: {tmp_path}: no config.toml in it")


def test_loss_that_is_no_number_is_one_line_with_no_warnings_around_it(keys: Keys, tmp_path: Path) -> None:
    given = keys | {"train.lr": 1e30, "train.epochs": 3}
    done = sora_ref("train", "--quiet", "--out", str(tmp_path / "run"), *flags(given), code=1, PYTHONWARNINGS="default")
    assert re.fullmatch(r"sora-ref: .*the loss is .*expected a finite one.*\n", done.stderr)


def test_closed_pipe_is_no_traceback(trained: Path) -> None:
    command = f"{sys.executable} -m sora_ref.cli.main inspect {trained} | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.returncode in (0, 1, 141)  # click exits with 1 where a pipe is closed
