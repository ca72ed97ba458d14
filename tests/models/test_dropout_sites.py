"""Where a network asks for dropout masks, and what a mask does there, exact in binary arithmetic.

A site multiplies what passes by 2 where all is kept at p = 1/2, and by 0 where nothing is kept.  The parameters that
what passes is linear in, multiplied by the same number, must give the same bits, and by the chain rule the same
gradients, times that number for those parameters themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest
from strategies import all_equal
from tiny_bert import CONFIG, KINDS, Case, as_host, cases, make_case

from sora_ref.models import MODEL_SPEC, Architecture, Dropout, HeadName, classifier_backward, classifier_forward
from sora_ref.models.bert import BERT

HIDDEN, ATTENTION, ADAPTER = 0.5, 0.25, 0.75
CASE = make_case(31, lengths=(3, 2))


@dataclass(frozen=True)
class Sites(Dropout):
    """Writes down what it is asked for; masks the sites in `kept`, and keeps all there or nothing."""

    kept: Mapping[str, bool] = field(default_factory=dict)
    asked: list[tuple[str, str, int, float]] = field(default_factory=list)

    def rows(self, site: str, width: int, p: float) -> Any:
        return self._answer("rows", site, width, p, (self._padded, width))

    def square(self, site: str, heads: int, p: float) -> Any:
        return self._answer("square", site, heads, p, (heads, self._padded, self._padded))

    def vector(self, site: str, width: int, p: float) -> Any:
        return self._answer("vector", site, width, p, (width,))

    def _answer(self, kind: str, site: str, size: int, p: float, shape: tuple[int, ...]) -> Any:
        self.asked.append((kind, site, size, p))
        return np.full((len(self.examples), *shape), self.kept[site]) if site in self.kept else None


def sites(case: Case, hidden: float, attention: float, adapter: float, **kept: Any) -> Sites:
    return Sites(0, 0, hidden, attention, adapter, case.examples, case.lengths, as_host, **kept)


def results(case: Case, dropout: Dropout | None) -> dict[str, Any]:
    """Logits, and the gradient of a fixed form in them by every parameter."""
    logits, cache = classifier_forward(case.model, case.params, case.batch, scales=case.scales, dropout=dropout)
    dlogits = np.random.default_rng(32).standard_normal(logits.shape)
    return {"logits": logits, **classifier_backward(dlogits, cache, case.params)}


def asked_of(kinds: tuple[str, ...], head: Literal["cls", "mean"] = "cls") -> list[tuple[str, str, int, float]]:
    case = make_case(30, kinds=kinds, lengths=(3, 2), head=head)
    dropout = sites(case, HIDDEN, ATTENTION, ADAPTER)
    classifier_forward(case.model, case.params, case.batch, scales=case.scales, dropout=dropout)
    return dropout.asked


@pytest.mark.exact("SORA-INIT-1")
@pytest.mark.parametrize("head", ["cls", "mean"])
def test_masks_are_asked_for_by_site_in_the_order_of_the_forward(head: Literal["cls", "mean"]) -> None:
    expected = [("rows", "embeddings", 8, HIDDEN)]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        expected += [
            ("rows", f"{layer}.attention.self.query", 8, ADAPTER),
            ("rows", f"{layer}.attention.self.key", 8, ADAPTER),
            ("rows", f"{layer}.attention.self.value", 8, ADAPTER),
            ("square", f"{layer}.attention", 2, ATTENTION),
            ("rows", f"{layer}.attention.output.dense", 8, ADAPTER),
            ("rows", f"{layer}.attention.output", 8, HIDDEN),
            ("rows", f"{layer}.intermediate.dense", 8, ADAPTER),
            ("rows", f"{layer}.output.dense", 12, ADAPTER),
            ("rows", f"{layer}.output", 8, HIDDEN),
        ]
    expected.append(("vector", "classifier", 8, HIDDEN))
    assert asked_of(KINDS, head) == expected
    assert asked_of((), head) == [asked for asked in expected if asked[3] != ADAPTER]
    some = [asked for asked in expected if asked[3] != ADAPTER or asked[1].endswith(".query")]
    assert asked_of(("query",), head) == some


AS_BERT = (
    *(("rows", f"attention.self.{part}", 8, ADAPTER) for part in ("query", "key", "value")),
    ("square", "attention", 2, ATTENTION),
    ("rows", "attention.output.dense", 8, ADAPTER),
    ("rows", "attention.output", 8, HIDDEN),
    ("rows", "intermediate.dense", 8, ADAPTER),
    ("rows", "output.dense", 12, ADAPTER),
    ("rows", "output", 8, HIDDEN),
)
DISTILBERT = (
    *(("rows", f"attention.{part}_lin", 8, ADAPTER) for part in "qkv"),
    ("square", "attention", 2, ATTENTION),
    ("rows", "attention.out_lin", 8, ADAPTER),
    ("rows", "ffn.lin1", 8, ADAPTER),
    ("rows", "ffn.lin2", 12, ADAPTER),
    ("rows", "output", 8, HIDDEN),
)
OF_KIND: dict[str, tuple[str, tuple[tuple[str, str, int, float], ...], dict[str, tuple[str, ...]]]] = {
    "bert": ("encoder.layer", AS_BERT, {"cls": ("classifier",), "mean": ("classifier",)}),
    "roberta": (
        "encoder.layer",
        AS_BERT,
        {"cls": ("classifier.dense", "classifier.out_proj"), "mean": ("classifier",)},
    ),
    "distilbert": ("transformer.layer", DISTILBERT, {"cls": ("classifier",), "mean": ("classifier",)}),
}


@pytest.mark.exact("SORA-INIT-1")
@cases()
def test_every_architecture_asks_for_the_masks_of_its_own_sites(
    architecture: Architecture, config: Any, head: HeadName
) -> None:
    """DistilBERT drops nothing behind attention's output layer, RoBERTa in front of both layers of its head."""
    layers, inside, heads = OF_KIND[architecture.model_type]
    case = make_case(34, architecture=architecture, config=config, head=head, lengths=(3, 2))
    dropout = sites(case, HIDDEN, ATTENTION, ADAPTER)
    classifier_forward(case.model, case.params, case.batch, scales=case.scales, dropout=dropout)
    expected = [("rows", "embeddings", 8, HIDDEN)]
    for layer in range(2):
        expected += [(kind, f"{layers}.{layer}.{site}", size, p) for kind, site, size, p in inside]
    assert dropout.asked == [*expected, *(("vector", site, 8, HIDDEN) for site in heads[head])]


def linear_in() -> dict[str, tuple[tuple[float, float, float], list[str], list[str]]]:
    """Site -> p's that are 1/2 there alone; the parameters, and the modules by scale, that what passes is linear in."""
    hidden, attention, adapter = (0.5, 0.75, 0.75), (0.75, 0.5, 0.75), (0.75, 0.75, 0.5)
    table: dict[str, Any] = {module: (adapter, [], [module]) for module in BERT.modules(CONFIG)}
    table["embeddings"] = hidden, ["embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"], []
    table["classifier"] = hidden, ["classifier.weight"], []
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for site, p, module in (
            ("attention", attention, "attention.self.value"),
            ("attention.output", hidden, "attention.output.dense"),
            ("output", hidden, "output.dense"),
        ):
            dense = f"{layer}.{module}"
            table[f"{layer}.{site}"] = p, [f"{dense}.weight", f"{dense}.bias"], [dense]
    return table


LINEAR_IN = linear_in()


@pytest.mark.exact("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize(("keep", "factor"), [(True, 2), (False, 0)], ids=["all", "nothing"])
@pytest.mark.parametrize("site", LINEAR_IN)
def test_a_site_multiplies_what_passes_forward_and_backward(site: str, keep: bool, factor: int) -> None:
    p, names, modules = LINEAR_IN[site]
    params = {name: value * (factor if name in names else 1) for name, value in CASE.params.items()}
    scales = {module: s * (factor if module in modules else 1) for module, s in CASE.scales.items()}
    found = results(CASE, sites(CASE, *p, kept={site: keep}))
    expected = results(replace(CASE, params=params, scales=scales), None)
    for name in names:
        expected[name] = expected[name] * factor
    assert found.keys() == expected.keys()
    assert [name for name in found if not all_equal(found[name], expected[name])] == []
    assert not all_equal(found["logits"], results(CASE, None)["logits"])


@pytest.mark.exact("SORA-LINEAR-1")
def test_without_a_mask_no_probability_changes_a_bit() -> None:
    found, expected = results(CASE, sites(CASE, HIDDEN, ATTENTION, ADAPTER)), results(CASE, None)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("head", ["cls", "mean"])
def test_the_operations_given_are_those_used_and_get_masks_and_probabilities_together(
    head: Literal["cls", "mean"],
) -> None:
    """12 linear layers in the encoder, one or two in the head; in evaluation no mask, and p = 0 beside it."""
    case, linear, attention = make_case(33, lengths=(3, 2), head=head), list[Any](), list[Any]()

    def linear_forward(*args: Any, keep: Any = None, p: Any = 0.0, **named: Any) -> Any:
        linear.append((keep is not None, p))
        return MODEL_SPEC.sora_linear_forward(*args, keep=keep, p=p, **named)

    def attention_forward(*args: Any, **named: Any) -> Any:
        attention.append((args[5] is not None, args[6]))
        return MODEL_SPEC.attention_forward(*args, **named)

    ops = MODEL_SPEC.replace(sora_linear_forward=linear_forward, attention_forward=attention_forward)
    _, cache = classifier_forward(case.model, case.params, case.batch, scales=case.scales, ops=ops)
    own = {"cls": 2, "mean": 1}[head]
    assert linear == [(False, 0)] * (12 + own)
    assert attention == [(False, 0)] * 2
    assert (cache.head.keep, cache.head.hidden_dropout) == (None, 0)

    linear.clear()
    attention.clear()
    kept = dict.fromkeys(LINEAR_IN, True)
    dropout = sites(case, HIDDEN, ATTENTION, ADAPTER, kept=kept)
    _, cache = classifier_forward(case.model, case.params, case.batch, scales=case.scales, ops=ops, dropout=dropout)
    assert linear == [(True, ADAPTER)] * 12 + [(False, 0)] * own
    assert attention == [(True, ATTENTION)] * 2
    assert cache.head.hidden_dropout == HIDDEN
