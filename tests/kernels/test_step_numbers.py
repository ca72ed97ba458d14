"""Which steps can be told in numbers, and that those who share a rule share them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sora_ref import ADAMW_XI, PAPER, RELEASED, SGD, AdamW
from sora_ref.gate import ADAMW_METRIC, ADAMW_METRIC_LITERAL
from sora_ref.kernels.step_numbers import StepNumbers, step_numbers
from sora_ref.ops import Update
from sora_ref.optim import Moments


def update(rule: Any, lr: float = 0.25, strength: float = 0.0, decay: bool = False, **arrays: Any) -> Update:
    given = {name: np.ones(3, np.float32) for name in ("theta", "grad", "m", "v")} | arrays
    moments = Moments(given["m"], given["v"])
    return Update(given["theta"], given["grad"], moments, rule, lr, strength, decay)


def one(rule: Any, t: int = 1, **changes: Any) -> StepNumbers | None:
    return step_numbers({"p": update(rule, **changes)}, t)["p"]


@pytest.mark.exact
def test_numbers_are_those_of_the_rule() -> None:
    sgd = one(SGD(weight_decay=0.5), decay=True)
    assert sgd == StepNumbers(False, rate=0.25, shrink=0.125, threshold=0, amount=0.0, metric=0)
    own = one(AdamW((0.5, 0.75), eps=0.125, weight_decay=0.5), 2, decay=True)
    assert own == StepNumbers(True, 0.25 / 0.75, 0.125, 0, 0.0, 0, 0.5, 0.5, 0.75, 0.25, 1 - 0.75**2, 0.125)
    assert own == one(AdamW((0.5, 0.75), 0.125, 0.5), 2, decay=True, strength=2.0), "no gate has a strength"
    raw = one(RELEASED.replace(descend=AdamW((0.5, 0.75), eps_on="raw", decays="after")), strength=0.5)
    assert raw is not None
    assert (raw.raw, raw.after, raw.correction, raw.threshold, raw.amount) == (True, True, 0.5, 2, 0.5)


@pytest.mark.exact("SORA-GATE-1")
@pytest.mark.parametrize(
    ("rule", "amount", "metric"),
    [(PAPER, 0.125, 0), (ADAMW_XI, 0.5, 0), (ADAMW_METRIC, 0.125, 1), (ADAMW_METRIC_LITERAL, 0.125, 2)],
    ids=lambda given: getattr(given, "name", ""),
)
def test_amount_of_a_gate_is_formed_as_its_rule_says(rule: Any, amount: float, metric: int) -> None:
    own = one(rule, strength=0.5)
    assert own is not None
    assert (own.threshold, own.amount, own.metric, own.shrink) == (1, amount, metric, 0.0)


@pytest.mark.exact
def test_a_gate_decays_whenever_its_rule_says_so() -> None:
    own = one(PAPER.replace(descend=SGD(weight_decay=0.5)), decay=False)
    assert own is not None
    assert own.shrink == 0.125


@pytest.mark.exact
@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (SGD(), {"t": 0}),
        (SGD(), {"lr": -0.5}),
        (SGD(), {"lr": math.inf}),
        (SGD(), {"lr": math.nan}),
        (SGD(), {"lr": np.float32(0.5)}),
        (SGD(), {"grad": np.ones((3, 1), np.float32)}),
        (SGD(), {"grad": np.ones(3)}),
        (AdamW(), {"m": np.ones(2, np.float32)}),
        (AdamW(), {"v": np.ones(3)}),
        (SGD(weight_decay=0.5), {"lr": 0.0, "decay": True}),
        (ADAMW_XI, {"strength": -0.5}),
        (ADAMW_XI, {"strength": math.nan}),
        (ADAMW_XI, {"strength": np.float64(0.5)}),
        (ADAMW_XI, {"strength": 1e39}),
        (ADAMW_XI.replace(threshold=lambda x, amount: x), {}),
        (ADAMW_XI.replace(amount=lambda strength, lr, metric, moments: strength), {}),
        (ADAMW_METRIC.replace(descend=SGD()), {}),
    ],
)
def test_what_is_refused_and_what_kernels_lack_is_not_put_into_numbers(rule: Any, changes: dict[str, Any]) -> None:
    assert one(rule, **changes) is None


@pytest.mark.exact
def test_parameters_of_one_rule_share_its_numbers_and_no_others() -> None:
    rule = AdamW(weight_decay=0.5)
    wide: dict[str, Any] = {name: np.ones(3) for name in ("theta", "grad", "m", "v")}
    updates = {
        "a": update(rule),
        "b": update(rule, grad=np.zeros(3, np.float32)),
        "wrong": update(rule, grad=np.zeros(2, np.float32)),
        "lr": update(rule, lr=0.5),
        "decayed": update(rule, decay=True),
        "gate": update(ADAMW_XI, strength=1e39),
        "wide": update(ADAMW_XI, strength=1e39, **wide),
    }
    found = step_numbers(updates, 1)
    assert list(found) == list(updates)
    assert found["a"] is found["b"]
    assert [own is None for own in found.values()] == [False, False, True, False, False, True, False]
    assert found == {name: step_numbers({name: given}, 1)[name] for name, given in updates.items()}
    assert len({found["a"], found["lr"], found["decayed"], found["wide"]}) == 4
