"""The demonstration on a tiny model and task; the real one where weights and data are cached."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_run import MODULES, RANK, SIZES, make_keys, patch_step, sora_ref, tree

from sora_ref.run import demo
from sora_ref.run.artefacts import is_cached
from sora_ref.run.checkpoint import checkpoints
from sora_ref.run.config import load_config
from sora_ref.run.demo import demo_config, nearest_rank, run_demo
from sora_ref.run.interrupt import Interrupted
from sora_ref.run.ship import write_pruned
from sora_ref.run.trained import load_trained

RUNS = {"head-only", "lora", "sora", "sora-zeroed-gradient"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    keys = make_keys(tmp_path_factory.mktemp("demo"))
    return keys | {"adapter.gate": 0.15, "gate.lr": 0.05, "adapter.alpha": 2.0 * RANK}


@pytest.fixture(scope="module")
def done(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", lambda **_: tiny)
        facts, lines = run_demo(out, quick=True, seed=0, backend="numpy", quiet=True, say=lambda line: None)
    return out / "demo-quick", facts, lines


def again(tiny: dict[str, Any], folder: Path, quiet: bool = True) -> tuple[dict[str, Any], list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", lambda **_: tiny)
        return run_demo(folder.parent, quick=True, seed=0, backend="numpy", quiet=quiet, say=lambda line: None)


def test_demo_makes_all_five_runs_of_equal_steps_and_ships_the_pruned_one(done: Any) -> None:
    folder, facts, _ = done
    runs = {path.name for path in folder.iterdir()}
    (nearest,) = (name for name in runs if re.fullmatch(r"lora-r\d+", name))
    assert runs == RUNS | {nearest, "shipped"}
    assert {json.loads((folder / name / "summary.json").read_text())["steps"] for name in RUNS | {nearest}} == {10}
    assert {path.name for path in (folder / "shipped").iterdir()} == {
        "pruned",
        "merged",
        "peft-compact",
        "peft-uniform",
    }
    assert len(facts["modules"]) == MODULES
    assert [report["compared"]["max_abs_diff"] for report in facts["exported"]] == [0.0, 0.0]


def test_runs_differ_in_nothing_but_what_their_names_say(done: Any) -> None:
    from sora_ref.run.config import differences

    folder, _, _ = done
    sora = load_config(folder / "sora" / "config.toml", {})
    expected = {
        "head-only": ["adapter.kinds", "method"],
        "lora": ["method"],
        "sora-zeroed-gradient": ["gate.gradient"],
        "sora": [],
    }
    for name, keys in expected.items():
        assert differences(sora, load_config(folder / name / "config.toml", {})) == keys
    (nearest,) = folder.glob("lora-r*")
    config = load_config(nearest / "config.toml", {})
    r = int(nearest.name.removeprefix("lora-r"))
    assert config.adapter.r == r
    assert config.adapter.alpha / r == sora.adapter.alpha / sora.adapter.r == 2.0


def test_table_has_a_row_for_every_run_with_its_numbers(done: Any) -> None:
    folder, facts, lines = done
    header = next(k for k, line in enumerate(lines) if "test accuracy  components kept" in line)
    assert lines[header - 1] == "10 steps each; null: components that thresholds alone would keep"
    rows = lines[header + 1 : header + 6]
    assert [result["method"] in row for result, row in zip(facts["results"], rows, strict=True)] == [True] * 5
    by_name = {result["method"]: result for result in facts["results"]}
    sora = json.loads((folder / "sora" / "summary.json").read_text())
    row = next(row for row in rows if row.strip().startswith("SoRA, r_max"))
    assert row.split()[-5:] == [
        f"{sora['scores']['test']['accuracy']:.4f}",
        f"{sora['counts']['kept']}/{MODULES * RANK}",
        "0.0",
        f"{sora['counts']['retained']:,}",
        f"{sora['seconds']:.0f}",
    ]
    assert by_name["head only"]["kept"] is None
    assert by_name["head only"]["parameters"] == 0
    assert by_name["LoRA, r = 8"]["null"] is None
    assert by_name["SoRA, gate gradient zeroed"]["kept"] == by_name["SoRA, gate gradient zeroed"]["null"] == 0


def test_demo_shows_agreement_per_module_and_for_the_whole_model(done: Any) -> None:
    _, facts, lines = done
    text = "\n".join(lines)
    assert f"all {MODULES} modules: inside the bound, worst share" in text
    assert f"logits on {SIZES['test']} test examples" in text
    assert set(facts["model"]) == {"pruned", "merged", "unpruned_64", "pruned_64", "merged_64"}
    assert f"{facts['model']['pruned']:.1e}" in text
    accuracies = [f"test accuracy {name}: {value:.4f}" for name, value in facts["test_accuracy"].items()]
    assert set(facts["test_accuracy"]) == {"unpruned", "pruned", "merged"}
    assert all(line in lines for line in accuracies)
    for line in lines:
        assert "\n" not in line


def test_demo_says_that_the_data_decided_and_why_it_thinks_so(done: Any) -> None:
    folder, _, lines = done
    sora, control = (
        json.loads((folder / name / "summary.json").read_text())["counts"]["kept"]
        for name in ("sora", "sora-zeroed-gradient")
    )
    assert sora > control == 0
    assert "nothing survives without the gate's data gradient: every survivor is the data's choice" in lines
    assert any(line.startswith(f"kept by SoRA {sora}, by the same run with") for line in lines)


@pytest.mark.parametrize(
    ("kept", "control", "null", "words"),
    [
        (5, 0, 0.0, "every survivor is the data's choice"),
        (5, 2, 1.5, "the data save at least 3 of the survivors"),
        (5, 1, 2.0, "the data save at least 3 of the survivors"),
        (2, 2, 0.0, "the data do not decide who survives"),
        (0, 0, 0.0, "the data do not decide who survives"),
        (3, 0, 4.5, "the data do not decide who survives"),
    ],
)
def test_verdict_on_who_decided_is_fair(kept: int, control: int, null: float, words: str) -> None:
    sora = {"counts": {"kept": kept}, "null": {"kept": null, "threshold_sum": 1.0}}
    assert words in "".join(demo._who_decided(sora, {"counts": {"kept": control}}))


def test_module_outside_the_bound_is_said_loudly() -> None:
    from sora_ref.run.verify import ModuleAgreement

    row = ModuleAgreement("m", 2, 1, 1e-7, 1e-7, 0.5, 1.25)
    assert "OUTSIDE THE BOUND, worst share 1.2500" in demo._module_lines([row], 3)[-1]
    assert "inside" in demo._module_lines([row._replace(worst_merged=1.0)], 3)[-1]


def test_demo_called_again_trains_nothing_and_says_the_same(done: Any, tiny: dict[str, Any]) -> None:
    folder, facts, lines = done
    before = {name: digest for name, digest in tree(folder).items() if not name.startswith("shipped")}
    with pytest.MonkeyPatch.context() as patch:
        patch_step(patch, lambda *_: pytest.fail("trained again"))
        found, said = again(tiny, folder)
    assert found == facts
    assert said == lines
    assert before == {name: digest for name, digest in tree(folder).items() if not name.startswith("shipped")}


def test_demo_goes_on_where_a_run_was_stopped(done: Any, tiny: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    folder, facts, _ = done
    copied = Path(shutil.copytree(folder, tmp_path / "demo-quick"))
    (copied / "sora" / "summary.json").unlink()
    checkpoints(copied / "sora")[-1].unlink()
    found, _ = again(tiny, copied)
    for row, expected in zip(found["results"], facts["results"], strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}
    assert found["modules"] == facts["modules"]


def test_demo_that_is_stopped_says_that_the_same_command_goes_on(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> dict[str, Any]:
        raise Interrupted("stopped at step 1; --resume goes on from there", signal.SIGTERM)

    monkeypatch.setattr(demo, "train", stopped)
    with pytest.raises(Interrupted, match="head-only: stopped after a checkpoint; the same command goes on") as caught:
        again(tiny, tmp_path / "demo-quick")
    assert caught.value.number == signal.SIGTERM


def test_shipped_models_of_an_earlier_call_are_replaced_and_nothing_else(
    done: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder, _, _ = done
    write_pruned(load_trained(folder / "sora"), tmp_path / "pruned")
    assert (
        load_trained(tmp_path / "pruned").trained.params.keys()
        == load_trained(folder / "shipped" / "pruned").trained.params.keys()
    )


@pytest.mark.parametrize(
    ("retained", "rank"), [(0, 1), (10, 1), (149, 1), (151, 2), (400, 4), (449, 4), (800, 8), (9999, 8)]
)
def test_nearest_rank_is_the_nearest_and_at_least_one(retained: int, rank: int) -> None:
    config = load_config(None, {})
    assert nearest_rank({"total": 800, "retained": retained}, config) == rank


def test_nearest_rank_of_a_model_that_kept_nothing_everywhere_is_one() -> None:
    assert nearest_rank({"total": 800, "retained": 0}, load_config(None, {})) == 1


@pytest.mark.parametrize("quick", [False, True])
def test_demo_settings_let_the_null_model_keep_nothing(quick: bool) -> None:
    """All gates start at g0, and thresholds add up to more than that over the real task's 7,609 training rows."""
    config = load_config(None, demo_config(quick=quick, seed=0, backend="numpy"))
    rows = min(7609, config.task.limit or 7609)
    steps = -(-rows // config.train.batch) * config.train.epochs
    _, gate_lr = config.learning_rates(steps)
    amounts = [config.gate_rule().scalar_amount(config.gate.strength, gate_lr(t)) for t in range(1, steps + 1)]
    assert isinstance(config.adapter.gate, float)
    assert sum(float(amount or 0) for amount in amounts) > config.adapter.gate
    assert config.adapter.alpha / config.adapter.r == 2.0


@pytest.mark.deep
@pytest.mark.weights
def test_real_quick_demo_runs_in_a_process(tmp_path: Path) -> None:
    for name in ("bert-tiny", "hutto2014"):
        if not is_cached(name):
            pytest.skip(f"{name} is not cached: sora-ref fetch {name}")
    import os
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "sora_ref.cli.main",
        "demo",
        "--quick",
        "--out",
        str(tmp_path),
        "--json",
        "--quiet",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert (ran.returncode, ran.stderr) == (0, "")
    facts = json.loads(ran.stdout)
    by_name = {result["method"]: result for result in facts["results"]}
    assert by_name["SoRA, gate gradient zeroed"]["kept"] == by_name["SoRA, gate gradient zeroed"]["null"] == 0
    assert by_name["SoRA, r_max = 8"]["kept"] > 0
    assert all(max(row["worst_pruned"], row["worst_merged"]) <= 1 for row in facts["modules"])
    assert min(result["accuracy"] for result in facts["results"]) > 0.5
    assert sora_ref("inspect", str(tmp_path / "demo-quick" / "sora"), "--quiet", code=0).stdout.startswith("SoRA in")
