"""The null model against its formula and against steps made by hand; the words beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sora_ref.gate import ADAMW_METRIC, ADAMW_XI, RELEASED
from sora_ref.methods.method import Ending
from sora_ref.methods.survivors import in_words, null_model, survivors

ENDING = Ending(9, 36, 0.5, 10, ADAMW_XI, "data", None, False)


def null(**changes: Any) -> Any:
    return null_model(ENDING._replace(**changes))


@pytest.mark.exact("SORA-NULL-1")
def test_null_model_of_normal_gates_is_erfc_of_the_thresholds() -> None:
    share = math.erfc(0.5 / math.sqrt(2))
    assert null() == {"threshold_sum": 0.5, "kept_share": share, "kept": 36 * share}


@pytest.mark.exact("SORA-NULL-1")
@pytest.mark.parametrize(
    ("gate", "share"), [(0.75, 1.0), (0.5, 0.0), (0.25, 0.0), (-0.75, 1.0), (-0.25, 0.0), (0.0, 0.0)]
)
def test_null_model_of_constant_gates_keeps_all_or_nothing(gate: float, share: float) -> None:
    """|g0| > Σξ: at equality the last threshold takes what is left."""
    assert null(gate=gate) == {"threshold_sum": 0.5, "kept_share": share, "kept": 36 * share}


@pytest.mark.exact("SORA-NULL-1")
@pytest.mark.parametrize("steps", [1, 4])
def test_null_model_of_the_released_rule_is_what_its_threshold_leaves(steps: int) -> None:
    """Its dead zone is 2ξ and its shift ξ, so T steps need more than (T + 1)ξ: by iterating the three lines."""
    xi = 0.0625
    at: dict[str, Any] = {"rule": RELEASED, "threshold_sum": steps * xi, "steps": steps}
    assert null(**at)["threshold_sum"] == (steps + 1) * xi
    for start in (np.arange(1, 100) / 64 + 1 / 512).tolist():
        g = start
        for _ in range(steps):
            g = g - xi if g > xi else g
            g = 0.0 if abs(g) < xi else g
        assert (g != 0) == (null(**at, gate=start)["kept_share"] == 1.0)


def test_null_model_is_left_out_where_there_is_none() -> None:
    assert null(rule=ADAMW_METRIC) is None
    assert null(scheduled=True) is None


def words(kept: int, share: float, components: int = 288, **changes: Any) -> str:
    alone = {"threshold_sum": 0.5, "kept_share": share, "kept": share * components}
    return in_words(ENDING._replace(kept=kept, components=components, **changes), alone)


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        (266, "within chance: nothing in their number says that the data chose them"),
        (251, "within chance: nothing in their number says that the data chose them"),
        (250, "the data chose"),
        (271, "the data chose"),
    ],
)
def test_survivors_of_normal_gates_are_chance_within_two_standard_deviations(kept: int, verdict: str) -> None:
    """260.7 of 288 by thresholds alone: √(288·p·(1−p)) is 4.97, so chance is 250.8 to 270.6."""
    said = words(kept, 260.7 / 288)
    assert said == f"{kept} of 288; thresholds alone would keep 260.7 ± 5.0: {verdict}"


@pytest.mark.parametrize(
    ("kept", "share", "gate", "end"),
    [
        (137, 0.0, 0.5, "would keep none (the thresholds add up to 0.5, gates began at 0.5): the data chose"),
        (0, 0.0, 0.5, "none outlived the thresholds; lower gate.strength"),
        (
            288,
            1.0,
            1.0,
            "the data did not choose them; raise gate.strength or gate.lr (4 times as high), or train longer",
        ),
        (266, 1.0, 1.0, "the data chose which went, not which stayed"),
    ],
)
def test_survivors_of_gates_that_begin_at_one_number_are_all_or_none_of_chance(
    kept: int, share: float, gate: float, end: str
) -> None:
    said = words(kept, share, gate=gate)
    assert said.startswith(f"{kept} of 288; thresholds alone would keep {'all' if share else 'none'} (")
    assert said.endswith(end)


def test_words_say_where_there_is_no_null_model_and_where_the_data_had_no_say() -> None:
    metric = survivors(ENDING._replace(kept=5, components=9, rule=ADAMW_METRIC))
    assert metric.null is None
    assert metric.words.startswith("5 of 9; there is no null model for rule adamw-metric: ")
    assert "no null model under the scheduler" in survivors(ENDING._replace(scheduled=True)).words
    assert "the data had no say" in words(5, 0.5, 9, gate_gradient="zero")
