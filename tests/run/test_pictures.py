"""The two pictures: that they are pictures, and show what they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.image import imread
from tiny_run import CONFIG, make_config, make_keys

from sora_ref.errors import SoRAError
from sora_ref.models.bert import BERT
from sora_ref.run import pictures
from sora_ref.run.pictures import draw_gates, draw_ranks
from sora_ref.run.training import train

MODULES = BERT.modules(CONFIG)
HEAT_MAP = int(120 * (1.6 + 1.1 * 6)), int(120 * (1.5 + 0.42 * 2))  # pixels of six kinds and two layers


def figure_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, as well as saving them."""
    drawn: list[Any] = []
    real = pictures._save

    def save(figure: Any, path: Path) -> None:
        drawn.append(figure)
        real(figure, path)

    monkeypatch.setattr(pictures, "_save", save)
    return drawn


def check(path: Path, width: int, height: int) -> None:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = imread(path)
    assert image.shape[:2] == (height, width)
    assert len(np.unique(image[..., :3].reshape(-1, 3), axis=0)) > 10  # more than an empty sheet


def history(*gates: list[float]) -> list[dict[str, Any]]:
    return [{"step": 10 * k, "gates": {"a": values[:1], "b": values[1:]}} for k, values in enumerate(gates)]


def test_heat_map_has_a_cell_of_the_rank_for_every_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = figure_of(monkeypatch)
    ranks = {module: n % 5 for n, module in enumerate(MODULES)}
    draw_ranks(tmp_path / "ranks.png", BERT, ranks, 8)
    axes = drawn[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[*list(range(5)), 0], [1, 2, 3, 4, 0, 1]]
    assert axes.images[0].get_clim() == (0, 8)
    assert [text.get_text() for text in axes.texts] == [str(n % 5) for n in range(12)]
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["query", "key", "value"]
    assert f"{sum(ranks.values())} of {8 * 12} components" in axes.get_title()
    check(tmp_path / "ranks.png", *HEAT_MAP)


def test_heat_map_leaves_cells_of_modules_without_an_adapter_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figure_of(monkeypatch)
    draw_ranks(tmp_path / "ranks.png", BERT, {MODULES[1]: 2, MODULES[6]: 1}, 2)
    grid = np.asarray(drawn[0].axes[0].images[0].get_array().filled(np.nan))
    np.testing.assert_array_equal(grid, [[np.nan, 2], [1, np.nan]])
    assert len(drawn[0].axes[0].texts) == 2


def test_heat_map_of_rank_zero_is_drawn(tmp_path: Path) -> None:
    draw_ranks(tmp_path / "ranks.png", BERT, dict.fromkeys(MODULES, 0), 0)
    check(tmp_path / "ranks.png", *HEAT_MAP)


def test_gates_are_lines_over_the_steps_apart_by_whether_they_end_at_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figure_of(monkeypatch)
    draw_gates(tmp_path / "gates.png", history([1.0, -0.5, 0.25], [0.5, 0.0, 0.25], [0.25, 0.0, 0.0]))
    lines = {tuple(line.get_ydata()): line for line in drawn[0].axes[0].lines[:3]}
    assert set(lines) == {(1.0, 0.5, 0.25), (-0.5, 0.0, 0.0), (0.25, 0.25, 0.0)}
    assert all(list(line.get_xdata()) == [0, 10, 20] for line in lines.values())
    assert {text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()} == {"kept: 1", "zero at the end: 2"}
    assert lines[1.0, 0.5, 0.25].get_color() != lines[-0.5, 0.0, 0.0].get_color()
    check(tmp_path / "gates.png", 960, 480)


def test_gates_are_followed_by_their_module_and_not_by_their_place_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run may write its modules in another order."""
    drawn = figure_of(monkeypatch)
    records = [{"step": 0, "gates": {"b": [2.0], "a": [1.0]}}, {"step": 1, "gates": {"a": [1.0], "b": [2.0]}}]
    draw_gates(tmp_path / "gates.png", records)
    assert {tuple(line.get_ydata()) for line in drawn[0].axes[0].lines[:2]} == {(1.0, 1.0), (2.0, 2.0)}


@pytest.mark.parametrize("values", [[[1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.5, 0.5]]])
def test_gates_that_all_end_alike_are_drawn(tmp_path: Path, values: list[list[float]]) -> None:
    draw_gates(tmp_path / "gates.png", history(*values))
    check(tmp_path / "gates.png", 960, 480)


def test_no_gates_at_all_are_no_reason_to_warn(tmp_path: Path) -> None:
    draw_gates(tmp_path / "gates.png", [{"step": 0, "gates": {"a": []}}, {"step": 1, "gates": {"a": []}}])


def test_run_draws_both_without_a_display(tmp_path: Path) -> None:
    """And again from the same logs: the picture depends on nothing else."""
    config = make_config(make_keys(tmp_path), train__epochs=1)
    summary = train(config, tmp_path / "run", quiet=True)
    check(tmp_path / "run" / "ranks.png", *HEAT_MAP)
    check(tmp_path / "run" / "gates.png", 960, 480)
    draw_ranks(tmp_path / "again.png", BERT, summary["ranks"], 3)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "run" / "ranks.png").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "run" / "gates.jsonl").read_text().splitlines()]
    draw_gates(tmp_path / "again.png", records)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "run" / "gates.png").read_bytes()


def test_head_alone_and_plain_lora_have_no_gates_to_draw(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    train(make_config(keys, train__epochs=1, method="head"), tmp_path / "head", quiet=True)
    train(make_config(keys, train__epochs=1, method="lora"), tmp_path / "lora", quiet=True)
    assert [(tmp_path / run / name).exists() for run in ("head", "lora") for name in ("ranks.png", "gates.png")] == [
        False, False, True, False
    ]  # fmt: skip


def test_pictures_do_not_depend_on_a_matplotlibrc(tmp_path: Path) -> None:
    """One in the current folder is read by matplotlib before anything else, and may ask for LaTeX, a process."""
    ranks, gates = {MODULES[1]: 2, MODULES[6]: 1}, history([0.5, -0.5, 0.25], [0.25, 0.0, 0.0])
    for folder, settings in (
        ("plain", {}),
        ("odd", {"text.usetex": True, "figure.facecolor": "red", "savefig.dpi": 7}),
    ):
        with rc_context(settings):
            (tmp_path / folder).mkdir()
            draw_ranks(tmp_path / folder / "ranks.png", BERT, ranks, 2)
            draw_gates(tmp_path / folder / "gates.png", gates)
            assert all(rcParams[key] == value for key, value in settings.items()), "and they are left as they were"
    for name in ("ranks.png", "gates.png"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "odd" / name).read_bytes()


@pytest.mark.parametrize(
    "module",
    [
        "encoder.layer.0.attention.self.querry",
        "encoder.layer.999999999.output.dense",
        "encoder.layer.x.output.dense",
        "\x1b[31mencoder",
        "",
    ],
)
def test_module_that_no_bert_has_is_one_short_sentence_and_no_picture(tmp_path: Path, module: str) -> None:
    with pytest.raises(SoRAError, match=r"^a module .*: expected encoder\.layer\.N\.") as caught:
        draw_ranks(tmp_path / "ranks.png", BERT, {module: 1}, 2)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "ranks.png").exists()
