"""A run goes on with the files that it began with, or says by name which one is another now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling import sample
from tiny_run import (
    change_weights,
    copy_run,
    interrupted,
    killed_at,
    last,
    make_keys,
    make_rows,
    outcome,
    run_once,
    tree,
    write_jsonl,
    write_tokenizer,
)

from sora_ref.errors import SoRAError
from sora_ref.run import training as train_module
from sora_ref.run.config import load_config
from sora_ref.run.input_digests import Change, Inputs, digests, read_inputs, write_inputs
from sora_ref.run.inputs import input_files
from sora_ref.run.trained import load_trained

Keys = dict[str, Any]
SWAPPED = {"good": "bad", "bad": "good"}


def swap_labels(folder: Path) -> None:
    rows = [{**row, "label": SWAPPED[row["label"]]} for row in make_rows("train")]
    write_jsonl(folder / "task" / "train.jsonl", rows)


def cut_to_nine_rows(folder: Path) -> None:
    write_jsonl(folder / "task" / "train.jsonl", make_rows("train")[:9])


def change_validation(folder: Path) -> None:
    path = folder / "task" / "validation.tsv"
    path.write_text(path.read_text().replace("film", "cast"))


def change_test(folder: Path) -> None:
    path = folder / "task" / "test.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def change_config(folder: Path) -> None:
    path = folder / "tiny" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 1e-3}))


def change_tokenizer(folder: Path) -> None:
    from tiny_run import PLAIN, SPECIAL, VOCABULARY

    rest = [word for word in VOCABULARY if word not in (*SPECIAL, *PLAIN)]
    write_tokenizer(folder / "tiny", (*SPECIAL, *reversed(PLAIN), *rest))


def change_model(folder: Path) -> None:
    change_weights(folder / "tiny", {"embeddings.LayerNorm.bias": np.ones(8, np.float32)})


def add_vocabulary(folder: Path) -> None:
    (folder / "tiny" / "vocab.txt").write_text("[PAD]\n")


CHANGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("task/train.jsonl", swap_labels, "not the file the run began with"),
    ("task/train.jsonl", cut_to_nine_rows, "not the file the run began with"),
    ("task/validation.tsv", change_validation, "not the file the run began with"),
    ("task/test.csv", change_test, "not the file the run began with"),
    ("tiny/config.json", change_config, "not the file the run began with"),
    ("tiny/tokenizer.json", change_tokenizer, "not the file the run began with"),
    ("tiny/model.safetensors", change_model, "not the file the run began with"),
    ("tiny/vocab.txt", add_vocabulary, "new, for the run began without it"),
]
IDS = [change.__name__ for _, change, _ in CHANGES]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Keys]:
    """Where all tests work, a copy of what is there when they begin, and the keys: the paths in a run are its own."""
    folder, kept = tmp_path_factory.mktemp("inputs") / "here", tmp_path_factory.mktemp("kept") / "inputs"
    keys = make_keys(folder)
    interrupted(folder / "run", keys)
    return folder, copy_run(folder, kept), keys


@pytest.fixture
def folder(before: tuple[Path, Path, Keys]) -> Path:
    """A model, a task, and a run on them that was killed, as if nothing had touched them."""
    here, kept, _ = before
    shutil.rmtree(here)
    return copy_run(kept, here)


@pytest.fixture
def keys(before: tuple[Path, Path, Keys]) -> Keys:
    return before[2]


@pytest.fixture
def run(folder: Path) -> Path:
    return folder / "run"


@pytest.mark.parametrize(("name", "change", "kind"), CHANGES, ids=IDS)
def test_changed_file_is_refused_by_its_name_before_anything_is_written(
    folder: Path, keys: Keys, run: Path, name: str, change: Callable[[Path], None], kind: str
) -> None:
    before = tree(run)
    change(folder)
    with pytest.raises(SoRAError) as caught:
        run_once(run, keys, resume=True)
    assert str(caught.value).startswith(f"{folder / name}: {kind}")
    assert str(caught.value).endswith(": expected it as it was, or --accept-changed-data to go on all the same")
    assert tree(run) == before


@pytest.mark.parametrize("name", ["task/train.jsonl", "task/test.csv", "tiny/config.json", "tiny/tokenizer.json"])
def test_file_that_is_gone_is_refused_by_its_name(folder: Path, keys: Keys, run: Path, name: str) -> None:
    before = tree(run)
    (folder / name).unlink()
    with pytest.raises(SoRAError, match=f"{folder / name}: gone, though the run began with it"):
        run_once(run, keys, resume=True)
    assert tree(run) == before


@pytest.mark.parametrize(("name", "change", "kind"), sample(CHANGES, CHANGES[1], CHANGES[5], CHANGES[7]), ids=IDS)
def test_accepted_change_is_said_recorded_and_not_asked_for_again(
    folder: Path, keys: Keys, run: Path, name: str, change: Callable[[Path], None], kind: str
) -> None:
    before = read_inputs(run)
    change(folder)
    said: list[str] = []
    with killed_at(1), pytest.raises(BrokenPipeError):
        run_once(run, keys, resume=True, accept=True, say=said.append)
    assert any(line.startswith(f"warning: {folder / name}: {kind}") and line.endswith("; accepted") for line in said)
    after = read_inputs(run)
    assert before is not None
    assert after is not None
    (accepted,) = after.accepted
    (changed,) = accepted.files
    assert changed in ("task/train", "task/validation", "task/test", f"model/{Path(name).name}")
    assert accepted.step == 3
    assert accepted.files == before.changes(after.files)
    run_once(run, keys, resume=True)
    assert read_inputs(run) == after
    assert last(run).position.step == (4 if change is cut_to_nine_rows else 10)


def test_new_classes_are_refused_even_where_changes_are_accepted(folder: Path, keys: Keys, run: Path) -> None:
    """The head's outputs mean the classes of before."""
    for split in ("train.jsonl", "validation.tsv", "test.csv"):
        path = folder / "task" / split
        path.write_text(
            path.read_text().replace('"good"', '"up"').replace("\tgood\t", "\tup\t").replace(",good,", ",up,")
        )
    before = tree(run)
    with pytest.raises(
        SoRAError, match=r"step-00000003\.safetensors: trained on other classes: expected \('bad', 'up'\)"
    ):
        run_once(run, keys, resume=True, accept=True)
    assert tree(run) == before


def test_run_without_digests_goes_on_with_one_warning_and_has_them_then(keys: Keys, run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run_once(whole, keys)
    (run / "inputs.json").unlink()
    said: list[str] = []
    run_once(run, keys, resume=True, say=said.append)
    assert [line for line in said if line.startswith("warning")] == [
        f"warning: {run / 'inputs.json'}: no such file, so whether data and model are those of before is not known"
    ]
    assert outcome(run) == outcome(whole)


def test_weights_are_compared_even_without_digests(folder: Path, keys: Keys, run: Path) -> None:
    (run / "inputs.json").unlink()
    change_model(folder)
    with pytest.raises(SoRAError, match="its weights are not those the run began with"):
        run_once(run, keys, resume=True)


def test_moved_copy_of_a_model_is_the_same_model(folder: Path, keys: Keys, run: Path) -> None:
    """What counts is what was read, not where it lay: a cache folder may be another one."""
    now = digests(input_files(load_config(run / "config.toml", {})))
    shutil.move(folder / "tiny", folder / "moved")
    there = digests(input_files(load_config(run / "config.toml", {"model.path": str(folder / "moved")})))
    assert Inputs(now).changes(there) == {}
    assert {found.path for found in now.values()} != {found.path for found in there.values()}


def test_file_that_changes_between_digest_and_reading_is_refused(
    folder: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_module.read_task

    def read_late(*arguments: Any) -> Any:
        swap_labels(folder)
        return real(*arguments)

    monkeypatch.setattr(train_module, "read_task", read_late)
    with pytest.raises(SoRAError, match="'task/train' changed while it was read"):
        run_once(folder / "other", keys)
    assert not (folder / "other").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": {"a": 3}}', "[" * 100_000, '{"files": {"a": {"path": "b"}}}']
)
def test_damaged_record_is_a_sentence(keys: Keys, run: Path, text: str) -> None:
    (run / "inputs.json").write_text(text)
    with pytest.raises(SoRAError, match=r"inputs\.json: .*(damaged|nested)"):
        run_once(run, keys, resume=True)


def test_record_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = Inputs(digests({"task/a": tmp_path / "a", "task/b": tmp_path / "b"}))
    assert set(before.files) == {"task/a"}
    (tmp_path / "b").write_text("two")
    now = digests({"task/b": tmp_path / "b"})
    accepted = before.accept(now, 7)
    write_inputs(tmp_path, accepted)
    assert read_inputs(tmp_path) == accepted
    assert accepted.accepted[0].files == {
        "task/a": Change(before.files["task/a"].sha256, None),
        "task/b": Change(None, now["task/b"].sha256),
    }


@pytest.mark.parametrize("change", [change_config, change_tokenizer, add_vocabulary])
def test_model_folder_that_changed_since_the_training_is_refused_by_every_reader(
    folder: Path, run: Path, change: Callable[[Path], None]
) -> None:
    load_trained(run)
    change(folder)
    with pytest.raises(
        SoRAError, match=r"tiny/.*: expected the model that .*step-00000003\.safetensors was trained on"
    ):
        load_trained(copy_run(run, folder / "copy"))
