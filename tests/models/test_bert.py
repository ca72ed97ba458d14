"""The encoder: what may not change its states, what its backward computes, and where it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space
from tiny_bert import CONFIG, KINDS, SCALE, Case, Rounding, make_case

from sora_ref import SoRAError
from sora_ref.init import initial_adapter
from sora_ref.linear import SoRA
from sora_ref.models import MODEL_SPEC, Batch
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.pruning import merge

SUBSETS = st.lists(st.sampled_from(KINDS), unique=True)


def hidden_of(case: Case, dtype: str = "float64", **changes: Any) -> Any:
    params = {name: p.astype(dtype) for name, p in {**case.params, **changes}.items()}
    return BERT.forward(CONFIG, params, case.batch, scales=case.scales)[0]


def with_gates(case: Case, value: float) -> Case:
    gates = {name: np.full_like(p, value) for name, p in case.params.items() if name.endswith("sora_g")}
    return replace(case, params={**case.params, **gates})


def without_adapters(case: Case) -> Case:
    return replace(case, params={name: p for name, p in case.params.items() if ".sora_" not in name})


@pytest.mark.measured
@given(seed=st.integers(0, 999), more=st.integers(1, 3), kinds=SUBSETS)
def test_padding_changes_no_state_of_a_token_beyond_rounding(seed: int, more: int, kinds: list[str]) -> None:
    case = make_case(seed, kinds=kinds, lengths=(5, 3, 1))
    padded = case.pad(more, token=7)
    mask = case.batch.mask
    rounding = Rounding.of(lambda dtype: {"hidden": hidden_of(case, dtype)[mask]})
    rounding.check({"hidden": hidden_of(padded)[padded.batch.mask]}, {"hidden": hidden_of(case)[mask]})


@pytest.mark.exact
def test_what_stands_in_the_padding_changes_no_bit_of_a_token() -> None:
    case = make_case(1, lengths=(5, 3, 1))
    a, b = hidden_of(case.pad(2, token=0)), hidden_of(case.pad(2, token=7))
    mask = case.pad(2).batch.mask
    assert a[mask].tobytes() == b[mask].tobytes()
    assert not np.array_equal(a, b)


@pytest.mark.exact
def test_no_token_sees_another_example() -> None:
    case = make_case(2, lengths=(4, 4))
    ids = case.batch.ids.copy()
    ids[1] = (ids[1] + 1) % CONFIG.vocab_size
    changed = replace(case, batch=case.batch._replace(ids=ids))
    a, b = hidden_of(case), hidden_of(changed)
    assert a[0].tobytes() == b[0].tobytes()
    assert not np.array_equal(a[1], b[1])


def test_every_token_sees_every_other_of_its_example_and_its_place_and_type() -> None:
    case = make_case(3, lengths=(4,))
    before = hidden_of(case)
    ids, types = case.batch.ids.copy(), case.batch.types.copy()
    ids[0, 3], types[0, 0] = (ids[0, 3] + 1) % CONFIG.vocab_size, 1 - types[0, 0]
    for batch in (case.batch._replace(ids=ids), case.batch._replace(types=types)):
        assert np.all(np.any(hidden_of(replace(case, batch=batch)) != before, axis=2))
    reversed_ = case.batch._replace(ids=case.batch.ids[:, ::-1].copy(), types=case.batch.types[:, ::-1].copy())
    assert not np.allclose(hidden_of(replace(case, batch=reversed_))[:, ::-1], before)


@pytest.mark.exact("SORA-LINEAR-1", "SORA-PRUNE-2")
@given(seed=st.integers(0, 999), kinds=SUBSETS)
def test_adapters_with_closed_gates_equal_no_adapters_exactly(seed: int, kinds: list[str]) -> None:
    case = with_gates(make_case(seed, kinds=kinds), 0.0)
    assert np.array_equal(hidden_of(case), hidden_of(without_adapters(case)))


@pytest.mark.exact("SORA-INIT-2")
def test_fresh_adapters_equal_no_adapters_exactly() -> None:
    case = make_case(4)
    fresh: dict[str, Any] = {}
    for module in BERT.modules(CONFIG):
        out, in_ = case.params[f"{module}.weight"].shape
        A, g, B, _ = initial_adapter(1, module, out, in_, 3, 16.0, dtype="float64")
        fresh |= {f"{module}.sora_A": A, f"{module}.sora_g": g, f"{module}.sora_B": B}
    assert np.array_equal(hidden_of(case, **fresh), hidden_of(without_adapters(case)))


@pytest.mark.measured("SORA-PRUNE-4")
@given(seed=st.integers(0, 999), kinds=SUBSETS)
def test_merged_equals_unmerged_within_rounding(seed: int, kinds: list[str]) -> None:
    case = make_case(seed, kinds=kinds)
    merged = dict(without_adapters(case).params)
    for module in BERT.modules(CONFIG, kinds):
        A, g, B = (case.params[f"{module}.sora_{part}"] for part in "AgB")
        merged[f"{module}.weight"] = merge(merged[f"{module}.weight"], SoRA(A, g, B, SCALE)).W
    plain = replace(case, params=merged)
    rounding = Rounding.of(lambda dtype: {"hidden": hidden_of(case, dtype)})
    rounding.check({"hidden": hidden_of(plain)}, {"hidden": hidden_of(case)})
    if kinds:
        assert not np.allclose(hidden_of(case), hidden_of(without_adapters(case))), "the adapters do nothing"


def test_a_sequence_without_tokens_is_finite_and_disturbs_no_other() -> None:
    case = make_case(5, lengths=(4, 4))
    mask = case.batch.mask.copy()
    mask[1] = False
    emptied = replace(case, batch=case.batch._replace(mask=mask))
    hidden, cache = BERT.forward(CONFIG, case.params, emptied.batch, scales=case.scales)
    assert np.all(np.isfinite(hidden))
    assert hidden[0].tobytes() == hidden_of(case)[0].tobytes()
    grads = BERT.backward(np.ones_like(hidden), cache, case.params)
    assert all(np.all(np.isfinite(grad)) for grad in grads.values())


def test_an_empty_batch_is_legal() -> None:
    case = make_case(6, lengths=(3,))
    empty = Batch(*(part[:0] for part in case.batch))
    hidden, cache = BERT.forward(CONFIG, case.params, empty, scales=case.scales)
    assert hidden.shape == (0, 3, 8)
    assert not any(np.any(g) for g in BERT.backward(hidden, cache, case.params).values())


@pytest.mark.exact
@given(st.data())
def test_wanted_gradients_are_those_entries_of_the_full_gradient_bitwise(data: st.DataObject) -> None:
    case = make_case(7)
    encoder = sorted(name for name in case.params if name.startswith(("encoder", "embeddings")))
    hidden, cache = BERT.forward(CONFIG, case.params, case.batch, scales=case.scales, dropout=case.dropout())
    dhidden = np.random.default_rng(8).standard_normal(hidden.shape)
    full = BERT.backward(dhidden, cache, encoder)
    assert sorted(full) == encoder
    assert all(full[name].shape == case.params[name].shape for name in encoder)
    wanted = data.draw(st.lists(st.sampled_from(encoder), unique=True, max_size=6))
    some = BERT.backward(dhidden, cache, wanted)
    assert sorted(some) == sorted(wanted)
    assert all(some[name].tobytes() == full[name].tobytes() for name in wanted)


@pytest.mark.parametrize(
    ("wanted", "blocks", "embeddings"),
    [
        ((), 0, False),
        (("classifier.weight",), 0, False),
        (("encoder.layer.1.output.LayerNorm.bias",), 1, False),
        (("encoder.layer.1.attention.self.query.sora_g",), 1, False),
        (("encoder.layer.0.output.dense.sora_A",), 2, False),
        (("embeddings.word_embeddings.weight",), 2, True),
    ],
)
def test_backward_stops_below_the_lowest_parameter_wanted(
    wanted: tuple[str, ...], blocks: int, embeddings: bool
) -> None:
    case, norms, attentions = make_case(9), [], []

    def norm(*args: Any, **options: Any) -> Any:
        norms.append(options["parameters"])
        return MODEL_SPEC.layer_norm_backward(*args, **options)

    def attention(*args: Any, **named: Any) -> Any:
        attentions.append(1)
        return MODEL_SPEC.attention_backward(*args, **named)

    ops = MODEL_SPEC.replace(layer_norm_backward=norm, attention_backward=attention)
    hidden, cache = BERT.forward(CONFIG, case.params, case.batch, scales=case.scales, ops=ops)
    BERT.backward(hidden, cache, wanted)
    assert (len(norms), len(attentions)) == (2 * blocks + embeddings, blocks)


def test_block_1_is_not_taken_for_block_11() -> None:
    deep, norms = replace(CONFIG, num_hidden_layers=12), []

    def norm(*args: Any, **options: Any) -> Any:
        norms.append(options["parameters"])
        return MODEL_SPEC.layer_norm_backward(*args, **options)

    case = make_case(15, config=deep, lengths=(2,))
    ops = MODEL_SPEC.replace(layer_norm_backward=norm)
    hidden, cache = BERT.forward(deep, case.params, case.batch, scales=case.scales, ops=ops)
    BERT.backward(hidden, cache, ["encoder.layer.11.output.LayerNorm.bias", "encoder.layer.11.output.dense.bias"])
    assert norms == [True, False]  # the parameters of the upper norm alone are wanted


def test_the_lowest_block_computes_no_gradient_of_its_input_when_nothing_below_is_wanted() -> None:
    case, asked = make_case(10), []

    def backward(dy: Any, cache: Any, **options: Any) -> Any:
        asked.append(options["dx"])
        return MODEL_SPEC.sora_linear_backward(dy, cache, **options)

    ops = MODEL_SPEC.replace(sora_linear_backward=backward)
    hidden, cache = BERT.forward(CONFIG, case.params, case.batch, scales=case.scales, ops=ops)
    BERT.backward(hidden, cache, ["encoder.layer.1.attention.self.query.sora_A"])
    assert asked == [True] * 3 + [False] * 3


@pytest.mark.exact("SORA-LINEAR-4")
def test_a_closed_gate_stops_its_factors_but_not_itself() -> None:
    case = make_case(11)
    grads = case.results()
    for module in BERT.modules(CONFIG):
        assert case.params[f"{module}.sora_g"][1] == 0
        assert not np.any(grads[f"{module}.sora_A"][1])
        assert not np.any(grads[f"{module}.sora_B"][:, 1])
        assert grads[f"{module}.sora_g"][1] != 0
        assert np.any(grads[f"{module}.sora_A"][2])


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_encoder_runs_in_every_array_space(floats: Space, dtype: str) -> None:
    case = make_case(12, p=0.2)
    dhidden = np.random.default_rng(13).standard_normal((4, 6, 8))

    def compute(space: Any, kind: str, host: Any = np.asarray) -> dict[str, Any]:
        params = {name: space(p, kind) for name, p in case.params.items()}
        ids, types, mask = case.batch
        batch = Batch(space(ids, "int64"), space(types, "int64"), space(mask, "bool"))
        dropout = case.dropout(lambda keep: space(keep, "bool"))
        hidden, cache = BERT.forward(CONFIG, params, batch, scales=case.scales, dropout=dropout)
        encoder = [name for name in case.params if name.startswith(("encoder", "embeddings"))]
        grads = BERT.backward(space(dhidden, kind), cache, encoder)
        return {name: host(value) for name, value in {"hidden": hidden, **grads}.items()}

    found = compute(floats.asarray, dtype, floats.to_numpy)
    expected = compute(np.array, "float64")
    assert {str(value.dtype) for value in found.values()} == {dtype}
    rounding = Rounding.of(lambda kind: compute(np.array, kind))
    unit = 1.0 if dtype == "float64" else 2.0**29  # float32's roundings are 2²⁹ times as large
    rounding.check(found, expected, unit)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: hidden_of(make_case(0, lengths=(9,)).pad(1)), "sequences of 10 tokens: expected at most 9"),
        (
            lambda: BERT.modules(CONFIG, ["query", "ffn", "a"]),
            r"^unknown kinds of linear layer \['a', 'ffn'\]: "
            r"expected some of query, key, value, attention_output, intermediate, output$",
        ),
        (lambda: replace(CONFIG, num_attention_heads=3), "hidden_size 8: expected a multiple of num_attention_heads 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(act: Any, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        act()


def test_sequences_may_fill_every_position() -> None:
    assert hidden_of(make_case(14, lengths=(CONFIG.max_position_embeddings,))).shape == (1, 9, 8)


def test_linear_modules_go_layer_by_layer_and_exist() -> None:
    names = BERT.modules(CONFIG)
    assert len(names) == len(set(names)) == 12
    assert [name.split(".")[2] for name in names] == ["0"] * 6 + ["1"] * 6
    assert all(len(BERT.shapes(CONFIG)[f"{name}.weight"]) == 2 for name in names)
    assert BERT.modules(CONFIG, ["value", "key"]) == tuple(n for n in names if n.endswith(("key", "value")))


def test_shapes_are_those_of_transformers() -> None:
    config = EncoderConfig(13, 8, 1, 2, 12, 9, 2)
    dense = {
        "attention.self.query": (8, 8),
        "attention.self.key": (8, 8),
        "attention.self.value": (8, 8),
        "attention.output.dense": (8, 8),
        "intermediate.dense": (12, 8),
        "output.dense": (8, 12),
    }
    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (13, 8),
        "embeddings.position_embeddings.weight": (9, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
    }
    for module, shape in dense.items():
        expected[f"encoder.layer.0.{module}.weight"] = shape
        expected[f"encoder.layer.0.{module}.bias"] = shape[:1]
    layer = "encoder.layer.0"
    for norm in ("embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"):
        expected |= {f"{norm}.weight": (8,), f"{norm}.bias": (8,)}
    assert BERT.shapes(config) == expected


@pytest.mark.exact
def test_the_first_norm_is_given_the_sum_of_the_three_embeddings_and_nothing_else() -> None:
    """Rows of 2⁻⁶⁰ times integers add exactly, and a number of ordinary size among them would swallow them."""
    case, given = make_case(16, lengths=(4, 2)), []

    def norm(x: Any, *args: Any, **named: Any) -> Any:
        given.append(x)
        return MODEL_SPEC.layer_norm_forward(x, *args, **named)

    names = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    rng = np.random.default_rng(17)
    word, position, kind = (rng.integers(-99, 100, case.params[name].shape) * 2.0**-60 for name in names)
    params = {**case.params, **dict(zip(names, (word, position, kind), strict=True))}
    BERT.forward(CONFIG, params, case.batch, scales=case.scales, ops=MODEL_SPEC.replace(layer_norm_forward=norm))
    assert np.array_equal(given[0], word[case.batch.ids] + position[:4] + kind[case.batch.types])
