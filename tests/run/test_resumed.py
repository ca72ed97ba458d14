"""What resuming a run asks for, refuses and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stopping import Keys, Killed, kill, stop, stopped
from tiny_run import SCHEDULE, copy_run, last, lines, make_keys, outcome, run_once, tree

from sora_ref.errors import SoRAError
from sora_ref.kernels import REFERENCE
from sora_ref.kernels.numpy.table import KERNELS
from sora_ref.run.checkpoint import checkpoints, read_checkpoint
from sora_ref.run.versions import changed, versions


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def scheduled(keys: Keys) -> Keys:
    """Three stages of an epoch, on fewer modules."""
    return keys | SCHEDULE | {"adapter.kinds": ["query", "intermediate"]}


@pytest.fixture(scope="module")
def whole(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run ends with."""
    run = tmp_path_factory.mktemp("whole") / "run"
    run_once(run, keys)
    return outcome(run)


def test_complete_run_is_left_as_it_is(keys: Keys, tmp_path: Path) -> None:
    said: list[str] = []
    first = run_once(tmp_path / "run", keys)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert run_once(tmp_path / "run", keys, resume=True, say=said.append) == first
    assert said == [f"{tmp_path / 'run'}: already complete"]
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("complete", [False, True])
def test_resume_with_another_configuration_is_refused_by_the_names_of_its_keys(
    keys: Keys, tmp_path: Path, complete: bool
) -> None:
    run = tmp_path / "run"
    if complete:
        run_once(run, keys)
    else:
        stopped(run, keys)
    before = tree(run)
    with pytest.raises(
        SoRAError, match=r"run: began with another gate\.lr, seed, train\.lr: expected the configuration it"
    ):
        run_once(run, keys, resume=True, seed=5, train__lr=0.5)
    assert tree(run) == before


def test_resume_may_have_other_kernels_and_says_so(keys: Keys, tmp_path: Path) -> None:
    said: list[str] = []
    stopped(tmp_path / "run", keys)
    run_once(tmp_path / "run", keys, resume=True, kernels="reference", say=said.append)
    assert any("kernels was numpy and is reference; the resumed run may differ" in line for line in said)
    assert (tmp_path / "run" / "summary.json").is_file()


def test_resume_may_have_another_number_of_workers(keys: Keys, whole: dict[str, Any], tmp_path: Path) -> None:
    stopped(tmp_path / "run", keys)
    run_once(tmp_path / "run", keys, resume=True, workers=3)
    assert outcome(tmp_path / "run") == whole


def test_resume_says_where_from_and_warns_of_versions_that_changed(keys: Keys, tmp_path: Path) -> None:
    run, said = stopped(tmp_path / "run", keys), list[str]()
    path = run / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numpy": "0.1", "machine": "abacus"}))
    run_once(run, keys, resume=True, say=said.append)
    now = versions(KERNELS)
    assert said == [
        f"warning: machine was abacus and is {now['machine']}; the resumed run may differ in its last bits",
        f"warning: numpy was 0.1 and is {now['numpy']}; the resumed run may differ in its last bits",
        f"{run}: resumed at step 3 of 10",
    ]


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "\ufffd"])
def test_versions_that_cannot_be_compared_are_a_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "versions.json"
    path.write_text(text)
    (line,) = changed(path, REFERENCE)
    assert line == f"{path} cannot be read, so versions cannot be compared"
    path.unlink()
    assert changed(path, REFERENCE) == [line]


def test_damaged_checkpoint_is_refused_with_the_one_before_it_from_which_the_run_ends_the_same(
    keys: Keys, whole: dict[str, Any], tmp_path: Path
) -> None:
    run = stopped(tmp_path / "run", keys, after=7)
    newest = checkpoints(run)[-1]
    data = newest.read_bytes()
    newest.write_bytes(data[: len(data) // 2])
    before = tree(run)
    with pytest.raises(SoRAError, match=r"step-00000006\..*remove it to resume from step-00000003\.safetensors"):
        run_once(run, keys, resume=True)
    assert tree(run) == before
    newest.unlink()
    run_once(run, keys, resume=True)
    assert outcome(run) == whole


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "config.toml").read_text()
    assert text.count(old) == 1
    (run / "config.toml").write_text(text.replace(old, new))


@pytest.mark.exact("SORA-LINEAR-2")
@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("alpha = 6.0", "alpha = 3.0", {"adapter__alpha": 3.0}),
        ("\nr = 3", "\nr = 2", {"adapter__r": 2}),
        ('method = "sora"', 'method = "lora"', {"method": "lora"}),
    ],
)
def test_configuration_edited_in_the_run_directory_is_refused_where_the_checkpoint_shows_it(
    keys: Keys, tmp_path: Path, old: str, new: str, changes: Keys
) -> None:
    """Scales, shapes and names are in the checkpoint; s in particular is never computed anew."""
    run = stopped(tmp_path / "run", keys)
    edit(run, old, new)
    with pytest.raises(SoRAError, match=r"step-00000003\.safetensors"):
        run_once(run, keys, resume=True, **changes)


def test_lost_log_of_a_sparsifying_run_never_changes_its_numbers(scheduled: Keys, tmp_path: Path) -> None:
    """Refused: stages that are done are not trained again with what a later one left."""
    run = tmp_path / "run"
    stop(15, run, scheduled, kill, Killed)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(SoRAError, match=r"metrics\.jsonl: results of 0 stages"):
        run_once(run, scheduled, resume=True)


def test_earlier_run_directory_is_not_written_to_before_anything_was_checked(keys: Keys, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", keys)
    copied = copy_run(run, tmp_path / "copy")
    with pytest.raises(SoRAError, match=r"another model\.path"):
        run_once(copied, keys, resume=True, model__path=str(tmp_path / "gone"))
    assert tree(copied) == tree(run)


def test_foreign_folder_is_not_taken_for_a_run_to_resume(keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "config.toml").write_text("mine = true\n")
    before = tree(folder)
    with pytest.raises(SoRAError):
        run_once(folder, keys, resume=True)
    assert tree(folder) == before


def test_seconds_of_a_resumed_run_add_up(keys: Keys, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", keys)
    before = last(run).position.seconds
    run_once(run, keys, resume=True)
    assert last(run).position.seconds > before > 0
    assert read_checkpoint(checkpoints(run)[0]).position.seconds < last(run).position.seconds
    assert lines(run / "metrics.jsonl")[0]["step"] == 2
