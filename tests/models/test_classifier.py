"""The heads, and the whole network's gradient: its direction, its microbatches, its order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space
from tiny_bert import CONFIG, KINDS, Case, Rounding, check_vjp, complex_step, make_case

from sora_ref import SoRAError, combine_microbatches
from sora_ref.bounds import gamma
from sora_ref.models import (
    Batch,
    Classifier,
    classifier_backward,
    classifier_forward,
)
from sora_ref.models.bert import BERT
from sora_ref.models.heads import mean_weights

Head = Literal["cls", "mean"]
F64 = 2.0**-53
SEEDS = st.integers(0, 999)
HEADS = st.sampled_from(["cls", "mean"])
OUTPUTS = st.sampled_from([1, 3])
SUBSETS = st.lists(st.sampled_from(KINDS), unique=True)
RATES = st.sampled_from([0.0, 0.3])


def check_derivative(case: Case, seed: int, *, by_name: bool) -> None:
    def loss(params: Any) -> Any:
        return case.loss(case.forward(params=params)[0])[0]

    def gradients(params: Any) -> Any:
        results = case.results(str(next(iter(params.values())).dtype))
        return {name: results[name] for name in params}

    check_vjp(loss, gradients, case.params, np.random.default_rng(seed), by_name=by_name)


@pytest.mark.measured("SORA-LINEAR-3")
@given(seed=SEEDS, head=HEADS, outputs=OUTPUTS, kinds=SUBSETS, p=RATES)
def test_the_gradient_is_the_derivative_of_the_loss(
    seed: int, head: Head, outputs: int, kinds: list[str], p: float
) -> None:
    case = make_case(seed, head=head, outputs=outputs, kinds=kinds, lengths=(4, 2), p=p)
    check_derivative(case, seed, by_name=False)


@pytest.mark.measured("SORA-LINEAR-3")
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("head", ["cls", "mean"])
def test_each_gradient_by_its_name_is_the_derivative_of_the_loss(head: Head, outputs: int) -> None:
    check_derivative(make_case(21, head=head, outputs=outputs, p=0.3), 22, by_name=True)


@pytest.mark.measured("SORA-STEP-2")
@given(seed=SEEDS, head=HEADS, outputs=OUTPUTS, p=RATES, split=st.permutations(range(4)), at=st.integers(1, 3))
def test_gradients_sum_over_microbatches_and_forget_the_order_of_examples(
    seed: int, head: Head, outputs: int, p: float, split: list[int], at: int
) -> None:
    case = make_case(seed, head=head, outputs=outputs, p=p)

    def mean(parts: list[list[int]], dtype: str = "float64") -> Any:
        summed = [case.take(rows).results(dtype) for rows in parts]
        logits = np.empty((4, outputs), dtype)
        for rows, result in zip(parts, summed, strict=True):
            logits[rows] = result.pop("logits")
        return {"logits": logits, **combine_microbatches(summed, 4)}

    whole = [[0, 1, 2, 3]]
    rounding = Rounding.of(lambda dtype: mean(whole, dtype))
    rounding.check(mean([split[:at], split[at:]]), mean(whole))


@pytest.mark.measured
@given(seed=SEEDS, head=HEADS, more=st.integers(1, 2))
def test_padding_changes_neither_logits_nor_gradients_beyond_rounding(seed: int, head: Head, more: int) -> None:
    case = make_case(seed, head=head)
    expected = case.results()
    found = case.pad(more, token=5).results()
    positions = "embeddings.position_embeddings.weight"
    assert not np.any(found[positions][max(case.lengths) :]), "padding must not train the places it stands in"
    Rounding.of(case.results).check(found, expected)


def test_a_sequence_without_tokens_leaves_logits_and_gradients_finite() -> None:
    for head in ("cls", "mean"):
        case = make_case(1, head=head, lengths=(3, 3))
        mask = case.batch.mask.copy()
        mask[1] = False
        results = replace(case, batch=case.batch._replace(mask=mask)).results()
        assert all(np.all(np.isfinite(value)) for value in results.values())
        if head == "mean":
            assert np.array_equal(results["logits"][1], case.params["classifier.bias"]), "the mean of nothing is 0"


@pytest.mark.exact
@given(seed=SEEDS, head=HEADS, data=st.data())
def test_wanted_gradients_are_those_entries_of_the_full_gradient_bitwise(
    seed: int, head: Head, data: st.DataObject
) -> None:
    case = make_case(seed, head=head, p=0.2)
    full = case.results()
    wanted = data.draw(st.lists(st.sampled_from(sorted(case.params)), unique=True, max_size=8))
    some = case.results(wanted=wanted)
    assert sorted(some) == sorted([*wanted, "logits", "loss"])
    assert all(some[name].tobytes() == full[name].tobytes() for name in wanted)
    assert set(full) == {*case.params, "logits", "loss"}


@pytest.mark.measured
def test_the_cls_head_reads_the_first_state_through_tanh() -> None:
    """d products and their sum with the bias round d + 1 times at most, here and in the head, and so do their sizes.

    tanh has slope 1 at most; each of the two is taken to err by an ulp at most, 2u: measured, and promised by none.
    """
    case = make_case(2, head="cls")
    logits, cache = case.forward()
    h, W, b = hidden(case)[:, 0], case.params["pooler.dense.weight"], case.params["pooler.dense.bias"]
    sizes, n = np.abs(h) @ np.abs(W).T + np.abs(b), h.shape[1] + 1
    assert np.all(np.abs(cache.head.out.x - np.tanh(h @ W.T + b)) <= 2 * gamma(2 * n, F64) * sizes + 4 * F64)
    assert logits.shape == (4, 3)


@pytest.mark.bounded
def test_the_mean_head_reads_the_mean_of_the_states() -> None:
    """Σ (1/n)·h over t places rounds t + 1 times at most, Σh/n by hand no more often, and the sizes neither."""
    case = make_case(2, head="mean")
    _, cache = case.forward()
    n = case.batch.mask.shape[1] + 1
    for found, h, tokens in zip(cache.head.out.x, hidden(case), case.lengths, strict=True):
        sizes = np.abs(h[:tokens]).mean(axis=0)
        assert np.all(np.abs(found - h[:tokens].mean(axis=0)) <= 2 * gamma(2 * n, F64) * sizes)


def hidden(case: Case) -> npt.NDArray[Any]:

    out: npt.NDArray[Any] = BERT.forward(CONFIG, case.params, case.batch, scales=case.scales)[0]
    return out


def test_classifier_dropout_scales_what_it_keeps() -> None:
    case = replace(make_case(3, head="mean", p=0.3, kinds=()), scales={})
    _, cache = case.forward()
    assert cache.head.keep is not None
    assert cache.head.out.x.shape == cache.head.keep.shape
    assert not np.any(cache.head.out.x[~cache.head.keep])
    assert np.all(cache.head.out.x[cache.head.keep] != 0)


@pytest.mark.exact
def test_mean_weights_share_one_among_the_tokens_and_nothing_among_none(floats: Space) -> None:
    mask = floats.asarray([[True, True, False, False], [False] * 4, [True] * 4], "bool")
    weights = floats.to_numpy(mean_weights(mask, floats.asarray([0.0]).dtype))
    assert weights.tolist() == [[0.5, 0.5, 0, 0], [0] * 4, [0.25] * 4]


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("head", "outputs"), [("cls", 3), ("mean", 1)])
def test_the_classifier_runs_in_every_array_space(floats: Space, head: Head, outputs: int, dtype: str) -> None:
    case = make_case(4, head=head, outputs=outputs, p=0.2)

    def put(names: Collection[str], kind: str) -> dict[str, Any]:
        return {name: floats.asarray(case.params[name], kind) for name in names}

    ids, types, mask = case.batch
    batch = Batch(floats.asarray(ids, "int64"), floats.asarray(types, "int64"), floats.asarray(mask, "bool"))
    dropout = case.dropout(lambda keep: floats.asarray(keep, "bool"))
    params = put(case.params, dtype)
    logits, cache = classifier_forward(case.model, params, batch, scales=case.scales, dropout=dropout)
    labels = floats.asarray(case.labels, dtype if outputs == 1 else "int64")
    loss, dlogits = case.loss(logits, labels)
    grads = classifier_backward(dlogits, cache, params)
    found = {name: floats.to_numpy(v) for name, v in {"logits": logits, "loss": loss, **grads}.items()}
    assert {str(value.dtype) for value in found.values()} == {dtype}
    Rounding.of(case.results).check(found, case.results(), 1.0 if dtype == "float64" else 2.0**29)


def test_head_shapes_are_those_of_transformers() -> None:
    assert Classifier(BERT, CONFIG, "mean", 2).head_shapes == {"classifier.weight": (2, 8), "classifier.bias": (2,)}
    pooler = {"pooler.dense.weight": (8, 8), "pooler.dense.bias": (8,)}
    assert Classifier(BERT, CONFIG, "cls", 1).head_shapes == {
        **pooler,
        "classifier.weight": (1, 8),
        "classifier.bias": (1,),
    }


def test_a_head_that_does_not_exist_is_refused_in_a_sentence() -> None:
    wrong: Any = "max"
    with pytest.raises(SoRAError, match="head is 'max': expected 'cls' or 'mean'"):
        Classifier(BERT, CONFIG, wrong, 2)
    with pytest.raises(SoRAError, match="0 outputs: expected at least 1"):
        Classifier(BERT, CONFIG, "cls", 0)


def test_the_derivative_check_sees_a_gradient_that_is_wrong_in_one_place() -> None:
    case = make_case(8)
    name = "encoder.layer.0.output.dense.sora_g"
    along = {name: np.array([0.0, 1.0, 0.0])}
    slope = complex_step(lambda p: case.loss(case.forward(params=p)[0])[0], case.params, along)
    assert abs(float(slope)) > 1e-3, "a closed gate has a gradient of its own"
