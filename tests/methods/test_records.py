"""A method is its record: one that is added to the table trains, resumes, prunes and merges without another edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_run import last, make_keys, run_once

from sora_ref import training_step
from sora_ref.methods import METHODS, Method
from sora_ref.models.bert import BERT
from sora_ref.run.ship import write_merged
from sora_ref.run.trained import load_trained

BIASES = Method(name="biases", title="biases alone", add=None, step=training_step, own=frozenset({"biases"}))


@pytest.fixture(autouse=True)
def table_with_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("config", "setup", "initial"):
        monkeypatch.setattr(f"sora_ref.run.{module}.METHODS", {**METHODS, BIASES.name: BIASES})


def test_method_that_adapts_no_module_trains_the_parameters_of_the_model_that_it_names(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    summary = run_once(tmp_path / "run", keys, method=BIASES.name)
    assert (summary["counts"]["components"], summary["survivors"]) == (0, None)
    trained = last(tmp_path / "run").params
    assert all(BERT.is_bias(name) and not BERT.is_norm(name) for name in trained if name != "classifier.weight")
    loaded = load_trained(tmp_path / "run")
    moved = [name for name, value in trained.items() if not np.array_equal(value, loaded.setup.frozen.get(name, value))]
    assert moved == [name for name in trained if name in loaded.setup.frozen] != []
    assert run_once(tmp_path / "run", keys, resume=True, method=BIASES.name) == summary
    write_merged(loaded, tmp_path / "merged")
    merged = load_trained(tmp_path / "merged")
    assert all(np.array_equal(merged.setup.frozen[name], trained[name]) for name in moved)
