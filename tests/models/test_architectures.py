"""What holds of every architecture in the table: its record agrees with itself, and its gradients with its forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from strategies import Space
from tiny_bert import TINY, Rounding, cases, check_vjp, make_case

from sora_ref import SoRAError
from sora_ref.models import ARCHITECTURES, KINDS, OUTPUT_LAYERS, Architecture, Batch, HeadName, listed_titles

each = pytest.mark.parametrize("kind", ARCHITECTURES)


@each
def test_the_record_agrees_with_itself(kind: str) -> None:
    record, config = ARCHITECTURES[kind], TINY[kind]
    shapes, modules = record.shapes(config), record.modules(config)
    assert record.model_type == kind
    assert record.prefix.endswith(".")
    assert set(record.kinds) <= set(KINDS)
    assert len(modules) == len(set(modules)) == len(record.kinds) * config.num_hidden_layers
    for module in modules:
        layer, name = record.place(module) or (None, "")
        assert module == f"{record.layers}.{layer}.{record.kinds[name]}"
        assert record.layer_of(f"{module}.weight") == layer
        assert record.is_linear(module)
        assert len(shapes[f"{module}.weight"]) == 2
    norms = [name for name in shapes if record.is_norm(name)]
    assert norms
    assert {shapes[name] for name in norms} == {(config.hidden_size,)}
    assert not any(record.is_norm(f"{module}.weight") for module in modules)
    for head in record.heads.values():
        assert head.out in OUTPUT_LAYERS
        assert set(head.outer).isdisjoint(shapes)
        assert {*head.inner, *head.outer} == set(head.names) == set(head.shapes(4, 2))
        assert head.shapes(4, 2)[f"{head.out}.weight"] == (2, 4)


@each
def test_places_are_of_linear_layers_alone(kind: str) -> None:
    record = ARCHITECTURES[kind]
    first = record.modules(TINY[kind])[0]
    strange = (
        f"{record.prefix}{first}",
        f"{first}.weight",
        f"{first}x",
        f"x{first}",
        f"{record.layers}.0",
        "classifier",
        "",
    )
    assert [record.place(name) for name in strange] == [None] * len(strange)
    assert record.layer_of(f"{record.layers}.11.x") == 11
    assert record.layer_of(f"{record.layers}.11") is None


def test_kinds_are_the_users_words_and_titles_make_a_sentence() -> None:
    assert KINDS[:6] == ("query", "key", "value", "attention_output", "intermediate", "output")
    titles = [record.title for record in ARCHITECTURES.values()]
    assert all(title in listed_titles() for title in titles)
    assert listed_titles().count(" or ") == (len(titles) > 1)


@pytest.mark.measured("SORA-LINEAR-3")
@cases()
def test_gradients_are_the_derivatives_of_the_loss(architecture: Architecture, config: Any, head: HeadName) -> None:
    case = make_case(21, architecture=architecture, config=config, head=head, lengths=(4, 2), p=0.2)

    def loss(params: Any) -> Any:
        return case.loss(case.forward(params=params)[0])[0]

    def gradients(params: Any) -> Any:
        found = case.results(str(next(iter(params.values())).dtype))
        return {name: found[name] for name in case.params}

    check_vjp(loss, gradients, case.params, np.random.default_rng(22))


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@cases()
def test_every_model_runs_in_every_array_space(
    floats: Space, dtype: str, architecture: Architecture, config: Any, head: HeadName
) -> None:
    case = make_case(23, architecture=architecture, config=config, head=head, p=0.2)
    dhidden = np.random.default_rng(24).standard_normal((4, 6, config.hidden_size))

    def compute(space: Any, kind: str, host: Any = np.asarray) -> dict[str, Any]:
        from sora_ref.models import classifier_backward, classifier_forward

        params = {name: space(p, kind) for name, p in case.params.items()}
        ids, types, mask = case.batch
        batch = Batch(space(ids, "int64"), space(types, "int64"), space(mask, "bool"))
        dropout = case.dropout(lambda keep: space(keep, "bool"))
        logits, cache = classifier_forward(case.model, params, batch, scales=case.scales, dropout=dropout)
        grads = classifier_backward(logits, cache, case.params)
        hidden, own = architecture.forward(config, params, batch, scales=case.scales, dropout=dropout)
        grads |= {f"hidden/{n}": g for n, g in architecture.backward(space(dhidden, kind), own, case.params).items()}
        return {name: host(value) for name, value in {"logits": logits, "hidden": hidden, **grads}.items()}

    found = compute(floats.asarray, dtype, floats.to_numpy)
    expected = compute(np.array, "float64")
    assert {str(value.dtype) for value in found.values()} == {dtype}
    Rounding.of(lambda kind: compute(np.array, kind)).check(found, expected, 1.0 if dtype == "float64" else 2.0**29)


@pytest.mark.exact
@cases()
def test_an_evaluation_gives_the_states_of_a_forward(architecture: Architecture, config: Any, head: HeadName) -> None:
    case = make_case(25, architecture=architecture, config=config, head=head)
    given = config, case.params, case.batch
    hidden, cache = architecture.forward(*given, scales=case.scales)
    assert architecture.states(*given, scales=case.scales).tobytes() == hidden.tobytes()
    assert cache.linear_inputs().keys() == set(architecture.modules(config))


@pytest.mark.exact
@cases()
def test_padding_changes_no_bit_of_a_token(architecture: Architecture, config: Any, head: HeadName) -> None:
    case = make_case(26, architecture=architecture, config=config, head=head, lengths=(5, 3, 1))
    a, b = (
        architecture.forward(config, each.params, each.batch, scales=each.scales)[0][each.batch.mask]
        for each in (case.pad(1, token=0), case.pad(1, token=config.vocab_size - 1))
    )
    assert a.tobytes() == b.tobytes()


@each
def test_a_sequence_longer_than_the_positions_is_refused(kind: str) -> None:
    architecture, config = ARCHITECTURES[kind], TINY[kind]
    full = make_case(27, architecture=architecture, config=config, lengths=(config.longest,))
    assert architecture.states(config, full.params, full.batch, scales=full.scales).shape[1] == config.longest
    longer = full.pad(1)
    with pytest.raises(SoRAError, match=f"sequences of {config.longest + 1} tokens: expected at most {config.longest}"):
        architecture.states(config, longer.params, longer.batch, scales=longer.scales)
    assert replace(config, num_hidden_layers=1).longest == config.longest
