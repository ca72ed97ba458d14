"""`--resume` goes on with a run or refuses by what is there; it never begins one.  Two never train in one folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run import copy_run, interrupted, make_keys, outcome, patch_step, run_once, tree

from sora_ref import training_step
from sora_ref.errors import SoRAError
from sora_ref.run.checkpoint import checkpoints, read_checkpoint
from sora_ref.run.found import Found, look, sweep
from sora_ref.run.ship import write_merged, write_peft, write_pruned
from sora_ref.run.trained import find_checkpoint, load_trained
from sora_ref.run.training import Resume

Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="module")
def finished(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    run_once(run, keys)
    return run


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "empty"])
def test_resume_of_nothing_is_refused_and_leaves_nothing(keys: Keys, tmp_path: Path, make: Any) -> None:
    out = tmp_path / "typo"
    make(out)
    with pytest.raises(SoRAError, match="typo: no run there: expected the directory of one to go on with"):
        run_once(out, keys, resume=True)
    assert not out.exists() or list(out.iterdir()) == []


def test_resume_if_any_begins_in_an_empty_folder_and_goes_on_where_there_is_a_run(
    keys: Keys, finished: Path, tmp_path: Path
) -> None:
    run_once(tmp_path / "fresh", keys, resume="if-any")
    run_once(interrupted(tmp_path / "run", keys), keys, resume="if-any")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "fresh") == outcome(finished)


def test_folders_that_a_run_was_shipped_into_are_refused_by_what_they_hold(finished: Path, tmp_path: Path) -> None:
    loaded = load_trained(finished)
    write_pruned(loaded, tmp_path / "pruned")
    write_merged(loaded, tmp_path / "merged")
    write_peft(loaded, tmp_path / "exported", "compact")
    before = tree(tmp_path)
    keys = make_keys(tmp_path.with_name("others"))
    kinds = {"pruned": "holds a pruned adapter", "merged": "holds a model", "exported": "holds a PEFT adapter"}
    resumes: tuple[Resume, ...] = (True, "if-any")
    for name, kind in kinds.items():
        assert look(tmp_path / name) is Found.ELSE
        for resume in resumes:
            with pytest.raises(SoRAError, match=f"{name}: {kind}.*: expected the directory of a run to go on with"):
                run_once(tmp_path / name, keys, resume=resume)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("config.toml",), "has a configuration and no checkpoint"),
        (("checkpoints/step-00000003.safetensors",), "has checkpoints and no config.toml"),
        (("thesis.tex", "versions.json"), "is no run directory"),
        (
            ("versions.json", "config.toml", "checkpoints/step-best.safetensors"),
            "has a configuration and no checkpoint",
        ),
    ],
)
def test_folder_of_other_things_is_neither_resumed_nor_begun_in(
    keys: Keys, tmp_path: Path, names: tuple[str, ...], kind: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine\n")
    before = tree(tmp_path)
    for resume, sentence in ((True, kind), ("if-any", kind), (False, "not empty: expected a new folder")):
        with pytest.raises(SoRAError, match=sentence):
            run_once(tmp_path, keys, resume=resume)  # type: ignore[arg-type]
    assert tree(tmp_path) == before


def test_file_in_place_of_a_folder_is_refused(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for resume in (True, False):
        with pytest.raises(SoRAError, match="run: "):
            run_once(tmp_path / "run", keys, resume=resume)
    assert (tmp_path / "run").read_text() == "mine"


def test_refused_run_leaves_no_folder(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match="gone"):
        run_once(tmp_path / "new" / "run", keys, model__path=str(tmp_path / "gone"))
    assert list(tmp_path.iterdir()) == []


def test_only_exact_names_are_checkpoints(keys: Keys, tmp_path: Path) -> None:
    """What a user lays beside them is never taken for the newest, and never removed."""
    run = interrupted(tmp_path / "run", keys)
    mine = [
        "step-best",
        "step-00000001-mybest",
        "step-0000009",
        "step-000000009",
        "step-00000002.copy",
        "step-٠٠٠٠٠٠٠٩",
    ]
    for name in mine:
        shutil.copy(checkpoints(run)[0], run / "checkpoints" / f"{name}.safetensors")
    assert [read_checkpoint(path).position.step for path in checkpoints(run)] == [0, 3]
    assert find_checkpoint(run)[1].name == "step-00000003.safetensors"
    run_once(run, keys, resume=True)
    assert [path.name for path in checkpoints(run)] == ["step-00000009.safetensors", "step-00000010.safetensors"]
    assert all((run / "checkpoints" / f"{name}.safetensors").exists() for name in mine)


def test_checkpoints_beyond_eight_digits_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (99999999, 100000000, 1000000000):
        (tmp_path / "checkpoints" / f"step-{step:08d}.safetensors").touch()
    assert [path.name[5:-12] for path in checkpoints(tmp_path)] == ["99999999", "100000000", "1000000000"]


def test_second_process_in_a_run_directory_gets_the_first_ones_id(keys: Keys, tmp_path: Path) -> None:
    """Here the same process, while it trains: neither begins, goes on, nor sweeps."""
    said: list[str] = []
    real = training_step

    def step(*args: Any, **options: Any) -> Any:
        if not said:
            scrap = tmp_path / "run" / "checkpoints" / ".step-00000006.safetensors.x7_kq2ab"
            scrap.write_bytes(b"half")
            before = tree(tmp_path / "run")
            with pytest.raises(SoRAError) as caught:
                run_once(tmp_path / "run", keys, resume=True)
            said.append(str(caught.value))
            assert tree(tmp_path / "run") == before
            assert load_trained(tmp_path / "run").trained.position.step == 0
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch_step(patch, step)
        run_once(tmp_path / "run", keys)
    assert said == [f"{tmp_path / 'run'}: process {os.getpid()} is writing there: expected one process at a time"]
    assert (tmp_path / "run" / "summary.json").exists()


def test_complete_run_in_a_folder_that_cannot_be_written_is_still_read(
    keys: Keys, finished: Path, tmp_path: Path
) -> None:
    run = copy_run(finished, tmp_path / "run")
    (run / ".lock").unlink()
    before = tree(run)
    run_once(run, keys, resume=True)
    assert look(run) is Found.RUN
    assert tree(run) == before


@pytest.mark.parametrize("name", ["config.toml", "inputs.json", "mlflow.json", "best.safetensors", "gates.png"])
def test_scraps_of_what_a_run_writes_are_swept_and_others_are_not(tmp_path: Path, name: str) -> None:
    for kept in (name, f".{name}", f".{name}.notes", f".my-{name}.0123abcd", f".{name}.0123abcd"):
        (tmp_path / kept).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [name, f".{name}", f".{name}.notes", f".my-{name}.0123abcd"]
    )
