"""Our BERT against logits and gradients that transformers and torch computed in float64 (see make_vectors).

Bound.  Both sides are float64, so they differ by rounding, which `Rounding` predicts from what it does to our float32
run.  Seen: 4e-15 of a tensor's largest entry at most on the tiny network, where 8e-14 is allowed; 3e-14 of a tensor's
norm on MiniLM, where 1e-12 is.  SPREAD's 2⁶ covers other orders of summation and other machines' erf, exp and tanh.
Key biases are left out by name: softmax ignores them, their gradient is 0 and what is computed is noise on both sides.
Float32 is then held to the largest error seen over these networks, 1.1e-5 of a tensor, with a factor of 8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import make_vectors
import numpy as np
import numpy.typing as npt
import pytest
from make_vectors import RANK, REAL, RUNS, SCALE, TINY, VECTORS, adapters, batch, fingerprint, head_weights, modules
from safetensors.numpy import load_file
from tiny_bert import Rounding, is_key_bias, on_batch, relative
from torch_models import PEERS

from sora_ref.models import ARCHITECTURES, load_model
from sora_ref.models.encoder import EncoderConfig
from sora_ref.run.artefacts import is_cached
from sora_ref.storage.place import cache_dir

Named = Mapping[str, npt.NDArray[Any]]
FLOAT32_LIMIT = 8 * 1.1e-5


def under(prefix: str, stored: Named) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def tiny() -> dict[str, npt.NDArray[Any]]:
    return load_file(VECTORS / "tiny.safetensors")


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("head", RUNS)
def test_the_tiny_network_equals_transformers_and_autograd(tiny: Named, head: str) -> None:
    params = {**under("params/", tiny), **under(f"params.{head}/", tiny)}
    given, config = under("batch/", tiny), EncoderConfig(**cast(Any, TINY))
    found, single = (
        on_batch(config, params, SCALE, given, head, RUNS[head], dtype) for dtype in ("float64", "float32")
    )
    expected = under(f"{head}/", tiny)
    assert found.keys() == expected.keys() == {*params, "hidden", "logits", "loss"}
    rounding = Rounding(max(relative(single, found).values()))
    assert rounding.measured <= FLOAT32_LIMIT
    rounding.check(found, expected)


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("head", RUNS)
@pytest.mark.parametrize("kind", PEERS)
def test_a_tiny_model_of_every_architecture_equals_transformers_and_autograd(kind: str, head: str) -> None:
    stored, architecture = load_file(VECTORS / f"tiny-{kind}.safetensors"), ARCHITECTURES[kind]
    params = {**under("params/", stored), **under(f"params.{head}/", stored)}
    raw = {**PEERS[kind].sizes, **PEERS[kind].more}
    config = architecture.read_config(raw, "config.json")
    found, single = (
        on_batch(config, params, SCALE, under("batch/", stored), head, RUNS[head], dtype, architecture)
        for dtype in ("float64", "float32")
    )
    expected = under(f"{head}/", stored)
    assert found.keys() == expected.keys() == {*params, "hidden", "logits", "loss"}
    rounding = Rounding(max(relative(single, found).values()))
    assert rounding.measured <= FLOAT32_LIMIT
    rounding.check(found, expected)


def test_the_stored_inputs_are_those_the_script_makes(tiny: Named) -> None:
    made = batch(TINY["vocab_size"], (7, 4, 1), name="tiny")
    assert all(np.array_equal(made[name], value) for name, value in under("batch/", tiny).items())
    own = adapters(modules(TINY), RANK)
    assert len(own) == 3 * 12
    assert all(np.array_equal(tiny[f"params/{name}"], value) for name, value in own.items())


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.weights
@pytest.mark.parametrize("head", RUNS)
@pytest.mark.parametrize("key", REAL)
def test_real_weights_equal_transformers_and_autograd(key: str, head: str) -> None:
    if not is_cached(key):
        pytest.skip(f"{key} is not in the cache: sora-ref fetch {key}")
    _, config, base = load_model(cache_dir() / key)
    assert isinstance(config, EncoderConfig)
    sizes = {name: getattr(config, name) for name in TINY}
    params = {name: p for name, p in base.items() if not name.startswith("pooler")}
    params |= {**adapters(modules(sizes), REAL[key]), **head_weights(head, config.hidden_size, RUNS[head])}
    given = batch(config.vocab_size, (12, 5, 9), name=key)
    found, single = (
        on_batch(config, params, SCALE, given, head, RUNS[head], dtype) for dtype in ("float64", "float32")
    )
    expected = under(f"{head}/", load_file(VECTORS / f"{key}.safetensors"))
    words = "embeddings.word_embeddings.weight"
    assert found.keys() - {words} == expected.keys()

    # ‖G32 − G64‖ by tensor, relative to ‖G64‖; norm and projections on unit vectors move by no more than the tensor
    compared = [name for name in expected if not is_key_bias(name)]
    norms = {name: np.linalg.norm(found[name]) for name in compared}
    measured = max(np.linalg.norm(single[name] - found[name]) / norms[name] for name in compared)
    assert measured <= FLOAT32_LIMIT
    allowed = Rounding(float(measured)).allowed
    for name in compared:
        plain = name in ("logits", "loss")
        value = found[name] if plain else fingerprint(name, found[name])
        assert np.max(np.abs(value - expected[name])) <= allowed * norms[name], name


def test_vectors_name_their_version_and_command_and_stay_small() -> None:
    about = json.loads((VECTORS / "about.json").read_text(encoding="utf-8"))
    assert about["version"] == make_vectors.VERSION
    assert about["command"] == make_vectors.COMMAND
    assert sorted(about["files"]) == sorted(path.name for path in VECTORS.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) < 400_000
    assert Path(make_vectors.__file__).name in about["command"]
