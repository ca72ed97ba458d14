"""BERT's kin live beside transformers and autograd, in float64: random weights, many sizes, both heads, all gradients.

Bound.  As for BERT (`test_bert`): both sides are float64 and differ by rounding, which `Rounding` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from make_vectors import RUNS, SCALE
from tiny_bert import Rounding, on_batch, relative
from torch_models import PEERS, inputs, torch_results

from sora_ref.models import ARCHITECTURES

for library in ("torch", "transformers"):
    pytest.importorskip(library, reason=f"needs {library}: pip install 'sora_ref[oracles]'")

SIZES = [  # layers, heads, hidden, intermediate, lengths
    (1, 1, 4, 3, (3, 2)),
    (1, 3, 12, 7, (1,)),
    (2, 2, 8, 16, (7, 1, 4)),
    (3, 4, 16, 24, (5, 8)),
    (4, 2, 6, 5, (7, 7, 2, 1)),
]


def sized(kind: str, layers: int, heads: int, d: int, f: int) -> dict[str, Any]:
    keys = PEERS[kind].keys
    return {**PEERS[kind].sizes, keys["layers"]: layers, keys["heads"]: heads, keys["d"]: d, keys["f"]: f}


def read(kind: str, sizes: dict[str, Any]) -> Any:
    """The configuration as transformers writes it."""
    return ARCHITECTURES[kind].read_config(PEERS[kind].config(sizes).to_dict(), "config.json")


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("head", RUNS)
@pytest.mark.parametrize(("layers", "heads", "d", "f", "lengths"), SIZES)
@pytest.mark.parametrize("kind", PEERS)
def test_states_logits_and_gradients_equal_transformers_for_any_size(
    kind: str, layers: int, heads: int, d: int, f: int, lengths: Sequence[int], head: str
) -> None:
    sizes, architecture = sized(kind, layers, heads, d, f), ARCHITECTURES[kind]
    params, given = inputs(kind, sizes, lengths, head, RUNS[head], 3)
    config = read(kind, sizes)
    scales = dict.fromkeys(architecture.modules(config), SCALE)
    expected = torch_results(kind, sizes, params, scales, given, head)
    found, single = (
        on_batch(config, params, SCALE, given, head, RUNS[head], dtype, architecture)
        for dtype in ("float64", "float32")
    )
    assert found.keys() == expected.keys() == {*params, "hidden", "logits", "loss"}
    assert architecture.shapes(config).keys() <= params.keys()
    Rounding(max(relative(single, found).values())).check(found, expected)


@pytest.mark.independent
@pytest.mark.parametrize("kind", PEERS)
def test_shapes_and_names_are_those_of_transformers(kind: str) -> None:
    peer, architecture = PEERS[kind], ARCHITECTURES[kind]
    config = read(kind, dict(peer.sizes))
    bare, whole = (peer.model(peer.sizes, head, 3) for head in ("mean", "cls"))
    assert architecture.shapes(config) == {name: tuple(p.shape) for name, p in bare.named_parameters()}
    assert (type(bare).__name__, type(whole).__name__) == (architecture.model_class, architecture.classifier_class)
    head = architecture.heads["cls"]
    expected = {architecture.prefix + name: shape for name, shape in architecture.shapes(config).items()}
    expected |= head.shapes(config.hidden_size, 3)
    assert expected == {name: tuple(p.shape) for name, p in whole.named_parameters()}
    assert set(architecture.modules(config)) == set(peer.modules(peer.sizes))
    assert config.longest == np.max([n for n in range(1, 10) if runs(bare, n, peer.pad)])


def runs(model: Any, tokens: int, pad: int | None) -> bool:
    """Whether transformers has positions for so many tokens."""
    import torch

    try:
        model(input_ids=torch.full((1, tokens), 3), attention_mask=torch.ones((1, tokens)))
    except (IndexError, RuntimeError):
        return False
    return True
