"""The summary's numbers against counts by hand, and the null model against its formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import CONFIG, EPOCH, MODULES, RANK, last, make_config, make_keys, run_once

from sora_ref.errors import SoRAError
from sora_ref.models.bert import BERT
from sora_ref.run.summary import read_summary, summary_lines
from sora_ref.run.tasks import read_task
from sora_ref.run.trained import load_trained
from sora_ref.run.training import train

Keys = dict[str, Any]
D, F = CONFIG.hidden_size, CONFIG.intermediate_size


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("summary"))


@pytest.mark.exact("SORA-COUNT-1", "SORA-COUNT-2")
def test_counts_and_ranks_are_those_one_counts_by_hand(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, gate__strength=0.1)
    params = last(tmp_path / "run").params
    ranks, retained, total = {}, 0, 0
    for module in BERT.modules(CONFIG):
        out, in_ = {"intermediate.dense": (F, D), "output.dense": (D, F)}.get(module.split(".", 3)[3], (D, D))
        assert params[f"{module}.sora_A"].shape == (RANK, in_)
        ranks[module] = sum(1 for g in params[f"{module}.sora_g"].tolist() if g != 0)
        retained += ranks[module] * (in_ + out)
        total += RANK * (in_ + out)
    kept = sum(ranks.values())
    head = 2 * D + 2
    assert 0 < kept < MODULES * RANK
    assert summary["ranks"] == ranks
    assert summary["counts"] == {
        "components": MODULES * RANK,
        "kept": kept,
        "total": total,
        "retained": retained,
        "gates": MODULES * RANK,
        "with_gates": retained + kept,
        "head": head,
        "with_head": retained + head,
        "released": total + head - 2 * D * (MODULES * RANK - kept),
    }
    assert (summary["steps"], summary["task"], summary["stages"]) == (2 * EPOCH, "table", [])


def test_scores_are_the_share_of_right_predictions_on_every_split_but_train(keys: Keys, tmp_path: Path) -> None:
    from sora_ref.run.predict import predict_records

    summary = run_once(tmp_path / "run", keys)
    assert set(summary["scores"]) == {"validation", "test"}
    loaded = load_trained(tmp_path / "run")
    for split in ("validation", "test"):
        examples = read_task(loaded.setup.config).splits[split]
        records = predict_records(loaded, examples)
        right = sum(
            ("bad", "good")[int(e.label or 0)] == r["prediction"] for e, r in zip(examples, records, strict=True)
        )
        assert summary["scores"][split]["accuracy"] == right / len(examples)


def test_head_counts_norms_and_biases_that_were_trained(keys: Keys, tmp_path: Path) -> None:
    summary = run_once(tmp_path / "run", keys, train__also=["norms", "biases"], train__epochs=1)
    norms, biases = 2 * 5 * D, 2 * (5 * D + F)
    assert summary["counts"]["head"] == 2 * D + 2 + norms + biases


def test_sum_of_thresholds_is_that_of_the_rule(keys: Keys, tmp_path: Path) -> None:
    """ξ a step for a constant one; lr_t·λ for the paper's."""
    summary = run_once(tmp_path / "run", keys, gate__rule="paper", gate__strength=0.5, gate__lr=0.25, train__epochs=1)
    _, gate_lr = make_config(keys, gate__lr=0.25).learning_rates(EPOCH)
    assert summary["null"]["threshold_sum"] == sum(gate_lr(t) * 0.5 for t in range(1, EPOCH + 1))


def test_summary_is_read_back_as_it_was_returned(keys: Keys, tmp_path: Path) -> None:
    assert read_summary(tmp_path / "none") is None
    summary = run_once(tmp_path / "run", keys, train__epochs=1)
    assert read_summary(tmp_path / "run") == summary


@pytest.mark.parametrize("text", ["", "{", "\x00", "3", "[1]"])
def test_damaged_summary_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(SoRAError, match=r"summary\.json: .*expected the summary of a run"):
        read_summary(tmp_path)


def test_lines_say_scores_counts_null_model_and_stages() -> None:
    survivors = "2 of 4; thresholds alone would keep 1.3 ± 0.9: the data chose"
    summary = {
        "task": "t", "steps": 3, "seconds": 1.4, "scores": {"test": {"accuracy": 0.5, "f1": 0.25}},
        "counts": {"kept": 2, "components": 4, "retained": 1000, "total": 2000, "with_gates": 1002,
                   "with_head": 1010, "released": 9},
        "survivors": survivors,
        "stages": [
            {"stage": 0, "strength": 0.5, "performance": {"nonzero": 1234, "memorization": 0.5, "generalization": 0.25},
             "memorization_percent": 100.0, "generalization_percent": None}
        ],
    }  # fmt: skip
    assert summary_lines(summary) == [
        "t: 3 steps in 1 s of training",
        "  test: accuracy 0.5000, f1 0.2500",
        f"  components kept: {survivors}",
        "  adapter parameters: 1,000 of 2,000 (with gates 1,002, with head 1,010; the released counter would say 9)",
        "  stage 0, strength 0.5: 1,234 non-zero, memorization 0.5000 (100.0 %), generalization 0.2500 (undefined)",
    ]
    assert summary_lines({**summary, "survivors": None})[2] == "  components kept: 2 of 4"


def test_run_whose_log_of_gates_was_removed_ends_without_their_picture(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(tmp_path / "run", keys)
    for name in ("summary.json", "gates.jsonl"):
        (tmp_path / "run" / name).unlink()
    monkeypatch.setattr("sora_ref.run.summary.draw_ranks", lambda *_: None)
    train(make_config(keys), tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "gates.png").exists()


def test_run_that_no_data_pull_at_keeps_what_chance_keeps_and_says_so(keys: Keys, tmp_path: Path) -> None:
    """A learning rate of 0 for the gates and constant thresholds: |N(0, 1)| beyond their sum stays."""
    summary = run_once(tmp_path / "run", keys, gate__lr=0.0, gate__strength=0.05, train__epochs=1)
    assert summary["survivors"].endswith("within chance: nothing in their number says that the data chose them")
    assert f"  components kept: {summary['survivors']}" in summary_lines(summary)


def test_run_with_the_default_gates_says_that_the_data_chose_or_that_it_was_too_short(
    keys: Keys, tmp_path: Path
) -> None:
    default: Keys = {"adapter__gate": 1.0, "gate__rule": "paper", "train__epochs": 1}
    short = run_once(tmp_path / "short", keys, **default, gate__lr=8.0, gate__strength=2.2e-3)
    assert short["null"]["threshold_sum"] < 1
    assert "thresholds alone would keep all" in short["survivors"]
    long = run_once(tmp_path / "long", keys, **default, gate__lr=350.0, gate__strength=2.2e-3)
    assert long["null"] == {"threshold_sum": long["null"]["threshold_sum"], "kept_share": 0.0, "kept": 0.0}
    assert long["counts"]["kept"] > 0
    assert long["survivors"].endswith(": the data chose")


def test_score_that_is_undefined_is_still_json(keys: Keys, tmp_path: Path) -> None:
    """A correlation with constant predictions is no number, for which JSON has no word but null."""
    constant: dict[str, Any] = {
        "method": "head",
        "train__lr": 0.0,
        "task__kind": "regression",
        "task__label": "rating",
    }
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sora_ref.run.summary.score", lambda *_: {"pearson": float("nan"), "spearman": float("nan")})
        run_once(folder, keys, **constant, train__epochs=1)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def test_page_on_run_directories_names_every_file_and_every_field(keys: Keys, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "run-directory.md").read_text(encoding="utf-8")
    out = tmp_path / "run"
    summary = run_once(out, keys)
    names = {path.name.partition("-")[0] for path in out.rglob("*") if path.is_file()}
    for file in names - {"step"}:
        assert f"`{file}`" in page, file
    assert "`checkpoints/step-NNNNNNNN.safetensors`" in page
    for field in summary:
        assert f"`{field}`" in page or f"`{field}." in page, field
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for field in {field for record in logged for field in record} - {"accuracy", "f1"}:
        assert f"`{field}`" in page, field
