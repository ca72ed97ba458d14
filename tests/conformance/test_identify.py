"""Identification: every known variant is told from the others by what it does, whatever it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling import sample

from sora_ref.backends import get
from sora_ref.conformance import VARIANTS, Choices, Implementation, Layer, Plan
from sora_ref.conformance.frontends.identify import UNKNOWN, Identification, identify
from sora_ref.conformance.frontends.self_check import Reference
from sora_ref.conformance.museum.baseline import PlainSoRA

Floats = Any


def found(result: Identification, question: str) -> str:
    return next(each.found for each in result.findings if each.question == question)


@pytest.mark.parametrize("seed", sample(range(3), 0))
@pytest.mark.parametrize("rule", list(VARIANTS))
def test_every_named_rule_is_identified_alone(rule: str, seed: int) -> None:
    result = identify(Reference(get("numpy"), rule), seed=seed)
    assert result.variants == (rule,)
    assert result.verdict == f"identified as `{rule}`"
    assert all(each.descend == VARIANTS[rule].descend for each in result.matches)


@pytest.mark.parametrize("rule", sample(VARIANTS, "paper", "released"))
def test_float32_leaves_the_right_rule_among_the_matches(rule: str) -> None:
    assert rule in identify(Reference(get("numpy"), rule), dtype="float32").variants


def test_what_is_declared_does_not_matter() -> None:
    class Liar(PlainSoRA):
        choices = VARIANTS["released"]

    assert identify(Liar).variants == ("paper",)


class Reads(PlainSoRA):
    """The paper's rule with the threshold of another learning rate."""

    lr = staticmethod(lambda plan, t: plan.lrs[t])
    decay = 0.0
    term = 0.0

    def gate_step(self, g: Floats, grad: Floats, plan: Plan, t: int) -> Floats:
        grad = grad + self.decay * g + self.term / max(len(g), 1) * np.sign(g)
        return self.prox(g - plan.lrs[t] * grad, self.lr(plan, t) * plan.strength)


@pytest.mark.parametrize(
    ("attributes", "question", "answer"),
    [
        ({"lr": staticmethod(lambda plan, t: plan.peak)}, "the learning rate it reads", "base"),
        ({"lr": staticmethod(lambda plan, t: plan.lrs[t + 1])}, "the learning rate it reads", "next"),
        ({"lr": staticmethod(lambda plan, t: 1.0)}, "the threshold's amount", "xi"),
        ({"decay": 0.1}, "weight decay of gates", "0.1"),
        ({"decay": 0.01}, "weight decay of gates", "0.01"),
    ],
)
def test_one_choice_that_differs_is_found(attributes: dict[str, Any], question: str, answer: str) -> None:
    result = identify(type("Other", (Reads,), attributes))
    assert result.variants == ()
    assert len(result.matches) == 1
    assert found(result, question) == answer
    assert result.verdict.startswith("closest to paper (") or answer == "xi"


@pytest.mark.parametrize("term", [1e-3, 10.0])
def test_second_l1_term_in_the_loss_is_found_in_whole_steps(term: float) -> None:
    class Doubled(PlainSoRA):
        def step(self, layer: Layer, grads: Any, plan: Plan, t: int) -> Layer:
            g = layer.g
            return super().step(layer, {**grads, "dg": grads["dg"] + term / len(g) * np.sign(g)}, plan, t)

    assert found(identify(Doubled), "a second L1 term in the loss") == str(term)


def test_an_unknown_rule_is_said_to_be_none_of_the_known_ones() -> None:
    class Hard(PlainSoRA):
        def prox(self, v: Floats, xi: float) -> Floats:
            return np.where(np.abs(v) > xi, v, 0.0)

    result = identify(Hard)
    assert result.verdict == UNKNOWN
    assert found(result, "the threshold map") == UNKNOWN


class Odd(PlainSoRA):
    """Everything that is not the gate's step done otherwise."""

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        rng = np.random.default_rng(seed)
        A, B = rng.normal(0, 0.02, (r, in_)), rng.normal(0, 0.5, (out, r))
        return Layer(np.zeros((out, in_)), np.zeros(out), A, np.full(r, 0.1), B, alpha)

    def prune(self, layer: Layer) -> Layer:
        keep = np.flatnonzero(np.abs(layer.g) > 1e-5)
        keep = keep if len(keep) else np.array([0])
        s = layer.s * len(layer.g) / len(keep)
        return Layer(layer.W0, None, layer.A[keep], layer.g[keep], layer.B[:, keep], s)

    def delta(self, layer: Layer) -> Floats:
        return layer.s * layer.B @ layer.A

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:
        layer = super().load(folder, W0, b)
        return layer._replace(g=np.ones_like(layer.g))


def test_table_of_choices_says_what_is_done_and_what_the_specification_says() -> None:
    result = identify(Odd)
    table = {each.question: each for each in result.findings}
    expected = {
        "A at the beginning": "normal, with deviation 0.02",
        "B at the beginning": "deviation 0.5",
        "gates at the beginning": "the constant 0.1",
        "the scale s": "α",
        "s after pruning": "recomputed",
        "the tolerance of pruning": "between 1e-06 and 1e-04",
        "a module without open gates": "rank 1",
        "the bias after pruning": "lost",
        "merging": "another weight",
        "the gate in a saved file": "lost",
    }
    found_ = {question: table[question].found for question in expected}
    assert {q: f.split(" 0.")[0] for q, f in found_.items()} == {q: e.split(" 0.")[0] for q, e in expected.items()}
    assert [question for question in expected if table[question].agrees] == ["gates at the beginning"]
    text = "\n".join(result.lines())
    assert "the bias after pruning" in text
    assert text.endswith("Odd is identified as `paper`") or text.endswith("plain NumPy is identified as `paper`")
    right = identify(PlainSoRA)
    assert all(each.agrees for each in right.findings if each.specification)


def test_without_capabilities_nothing_is_shown_and_nothing_fails() -> None:
    class Bare(Implementation):
        def forward(self, layer: Layer, x: Floats) -> Floats:
            return PlainSoRA().forward(layer, x)

    result = identify(Bare)
    assert result.matches == ()
    assert all(each.found.startswith("not shown") for each in result.findings)
    assert result.as_json()["variants"] == []


def test_choices_of_a_rule_read_as_that_rule() -> None:
    assert {rule: choices.describe() for rule, choices in VARIANTS.items()} == {rule: rule for rule in VARIANTS}
    assert Choices(reads_lr="base").describe() == "paper (reads_lr base)"
    assert Choices(descend="adamw", amount="xi", threshold="released").describe() == "adamw, xi, released"
