"""`sora_ref.run.train` and `sora_ref.run.load`: the command line's work in Python."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_keys, make_rows, outcome, run_once

import sora_ref.run
from sora_ref.errors import SoRAError
from sora_ref.run.config import dump_config, load_config
from sora_ref.run.data import Example
from sora_ref.run.predict import predict_records
from sora_ref.run.trained import load_trained

Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("notebook")) | {"train.epochs": 1}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_ranks", "draw_gates"):
        monkeypatch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run_once(out, keys)
    return out


def test_train_gives_what_the_command_line_gives(keys: Keys, run: Path, tmp_path: Path) -> None:
    summary = sora_ref.run.train(tmp_path / "run", keys, quiet=True)
    assert summary["steps"] == 5
    assert outcome(tmp_path / "run") == outcome(run)


def test_train_takes_a_file_with_keys_on_top_and_names_as_strings(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(dump_config(load_config(None, keys)))
    summary = sora_ref.run.train(str(tmp_path / "run"), {"train.batch": 20}, config=str(file), quiet=True)
    assert summary["steps"] == 2


def test_train_says_bad_input_in_one_sentence(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=r"^train\.epochs is 0: expected an integer >= 1$"):
        sora_ref.run.train(tmp_path / "run", keys | {"train.epochs": 0})
    assert not (tmp_path / "run").exists()


def test_train_runs_in_a_thread_and_shows_progress_on_standard_error(
    keys: Keys, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(sora_ref.run.train(tmp_path / "run", keys)))
    thread.start()
    thread.join()
    assert found[0]["steps"] == 5
    assert outcome(tmp_path / "run") == outcome(run)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "5/5" in printed.err


def test_resume_takes_the_runs_own_configuration(keys: Keys, run: Path, tmp_path: Path) -> None:
    before = outcome(run)
    assert sora_ref.run.train(run, resume=True, quiet=True)["steps"] == 5
    assert outcome(run) == before
    with pytest.raises(SoRAError):
        sora_ref.run.train(tmp_path / "none", keys, resume=True, quiet=True)
    assert sora_ref.run.train(tmp_path / "new", keys, resume="if-any", quiet=True)["steps"] == 5


def test_loaded_model_predicts_what_the_command_line_predicts(run: Path) -> None:
    texts = [str(row["text"]) for row in make_rows("test")]
    model = sora_ref.run.load(run)
    assert model.labels == ("bad", "good")
    examples = [Example(str(k), text, None, None) for k, text in enumerate(texts)]
    assert model.predict(texts) == predict_records(load_trained(run), examples)
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("texts", "pairs", "words"),
    [
        ("a film", None, "texts is str: expected a list of strings"),
        ([1], None, "texts is list: expected a list of strings"),
        (["a"], ["b"], "the run was trained on single texts: .*"),
        (["a"], "b", "pairs is str: expected a list of strings"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(run: Path, texts: Any, pairs: Any, words: str) -> None:
    with pytest.raises(SoRAError, match=f"^{words}$"):
        sora_ref.run.load(run).predict(texts, pairs)


def test_model_of_pairs_wants_pairs(keys: Keys, tmp_path: Path) -> None:
    sora_ref.run.train(tmp_path / "run", keys | {"task.pair": "name"}, quiet=True)
    model = sora_ref.run.load(str(tmp_path / "run"))
    for pairs in (None, ["a", "b"]):
        with pytest.raises(SoRAError, match=r"trained on pairs of texts, and 1 came with [02] second ones"):
            model.predict(["good"], pairs)
    assert model.predict(["good"], ["film"])[0]["prediction"] in ("bad", "good")


def test_importing_the_package_of_runs_loads_nothing_heavy_and_its_functions_stay_functions() -> None:
    code = (
        "import sys, sora_ref, sora_ref.run; "
        "print(*sorted({'msgspec', 'tqdm', 'tokenizers', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules))); "
        "import sora_ref.cli.commands, sora_ref.run.training, sora_ref.run.notebook; "
        "print(callable(sora_ref.run.train), callable(sora_ref.run.load))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "True True"]
