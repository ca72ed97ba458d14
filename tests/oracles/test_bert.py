"""Our BERT live beside transformers and autograd, in float64: random sizes, and the real folders where cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny_bert
from make_vectors import RUNS, SCALE, TINY, adapters, batch, hashed, head_weights, modules, torch_results

from sora_ref.models import load_model
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.run.artefacts import is_cached
from sora_ref.storage.place import cache_dir

for library in ("torch", "transformers"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'sora_ref[oracles]'")

Sizes = dict[str, Any]
SIZES = [  # layers, heads, hidden, intermediate, types, lengths
    (1, 1, 4, 3, 2, (3, 2)),
    (1, 3, 12, 7, 2, (1,)),
    (2, 2, 8, 16, 2, (7, 1, 4)),
    (3, 4, 16, 24, 2, (5, 11)),
    (4, 2, 6, 5, 3, (9, 9, 2, 1)),
    (7, 2, 24, 16, 2, (3, 5)),
]


def compare(sizes: Sizes, params: dict[str, npt.NDArray[Any]], given: dict[str, npt.NDArray[Any]], head: str) -> None:
    """Hidden states, logits, loss and all gradients, tensor by tensor."""
    config, outputs = EncoderConfig(**sizes), RUNS[head]
    scales = dict.fromkeys((name.removesuffix(".sora_g") for name in params if name.endswith(".sora_g")), SCALE)
    expected = torch_results(sizes, params, scales, given, head, given[f"labels.{head}"])
    found, single = (
        tiny_bert.on_batch(config, params, SCALE, given, head, outputs, dtype) for dtype in ("float64", "float32")
    )
    assert found.keys() == expected.keys() == {*params, "hidden", "logits", "loss"}
    tiny_bert.Rounding(max(tiny_bert.relative(single, found).values())).check(found, expected)


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("head", RUNS)
@pytest.mark.parametrize(("layers", "heads", "d", "f", "types", "lengths"), SIZES)
def test_states_logits_and_gradients_equal_transformers_for_any_size(
    layers: int, heads: int, d: int, f: int, types: int, lengths: Sequence[int], head: str
) -> None:
    sizes = {
        **TINY,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": d,
        "intermediate_size": f,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-5 if layers == 2 else 1e-12,
    }
    base = {name: 0.5 * hashed(name, shape) for name, shape in BERT.shapes(EncoderConfig(**sizes)).items()}
    base |= {name: 1 + p for name, p in base.items() if name.endswith("LayerNorm.weight")}
    params = {**base, **adapters(modules(sizes), 3), **head_weights(head, d, RUNS[head])}
    given = batch(sizes["vocab_size"], lengths, name=f"{layers}-{heads}")
    given["types"] = given["types"] * (types - 1)
    compare(sizes, {name: p.astype(np.float64) for name, p in params.items()}, given, head)


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.weights
@pytest.mark.parametrize("head", RUNS)
@pytest.mark.parametrize("key", ["minilm", "bert-tiny"])
def test_real_folders_equal_transformers(key: str, head: str) -> None:
    if not is_cached(key):
        pytest.skip(f"{key} is not in the cache: sora-ref fetch {key}")
    _, config, base = load_model(cache_dir() / key)
    sizes = {name: getattr(config, name) for name in TINY}
    params = {name: p for name, p in base.items() if not name.startswith("pooler")}
    params |= {**adapters(modules(sizes), 5), **head_weights(head, config.hidden_size, RUNS[head])}
    compare(sizes, params, batch(config.vocab_size, (17, 6), name="live"), head)


@pytest.mark.independent
@pytest.mark.weights
@pytest.mark.parametrize("key", ["minilm", "bert-tiny"])
def test_the_loader_reads_what_transformers_reads(key: str) -> None:
    if not is_cached(key):
        pytest.skip(f"{key} is not in the cache: sora-ref fetch {key}")
    from transformers import BertModel

    theirs = BertModel.from_pretrained(cache_dir() / key, local_files_only=True)
    ours = load_model(cache_dir() / key).params
    pooler = {name for name in ours if name.startswith("pooler")}
    state = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    assert {*state} - {"pooler.dense.weight", "pooler.dense.bias"} == {*ours} - pooler
    assert all(np.array_equal(state[name], p) for name, p in ours.items())
