"""A BERT with SoRA and a whole training step in JAX, from the equations, differentiated by JAX, in float64.

The model is written for one example and mapped over the batch.  Parameters are inputs, and so are dropout's masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from tiny_bert import Case, Floats, Named, Rounding, make_case

from sora_ref.gate import PAPER
from sora_ref.gradients import combine_microbatches
from sora_ref.models.bert import BERT
from sora_ref.optim import SGD
from sora_ref.step import Rates, Recipe, TrainState, initial_state, training_step

jax = pytest.importorskip("jax", reason="needs jax: pip install 'sora_ref[oracles]'")
jnp = jax.numpy

pytestmark = pytest.mark.usefixtures("jax_in_float64")

# Compilation is the longest part of these tests; what is computed is small.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
HIDDEN, ATTENTION, ADAPTER = "hidden", "attention", "adapter"


class Example(NamedTuple):
    """One sequence, or by vmap a batch of them; keeps: dropout's masks by site."""

    ids: Any
    types: Any
    mask: Any
    label: Any
    keeps: Mapping[str, Any]


class Network(NamedTuple):
    """Sizes, the adapters' scales and the probabilities of dropout by kind of site."""

    layers: int
    heads: int
    eps: float
    scales: Mapping[str, float]
    rates: Mapping[str, float]
    head: str

    def hidden_states(self, theta: Mapping[str, Any], example: Example) -> Any:
        """(t, d), post-norm, as Devlin et al. and Vaswani et al. print it."""

        def drop(x: Any, site: str, kind: str) -> Any:
            keep = example.keeps.get(site)
            return x if keep is None else jnp.where(keep, x / (1 - self.rates[kind]), 0)

        def linear(module: str, x: Any) -> Any:
            A, g, B = (theta[f"{module}.sora_{part}"] for part in "AgB")
            weight, bias = theta[f"{module}.weight"], theta[f"{module}.bias"]
            return x @ weight.T + bias + self.scales[module] * drop(x, module, ADAPTER) @ (B @ jnp.diag(g) @ A).T

        def norm(module: str, x: Any) -> Any:
            deviation = x - x.mean(axis=-1, keepdims=True)
            scaled = deviation / jnp.sqrt(jnp.square(deviation).mean(axis=-1, keepdims=True) + self.eps)
            return theta[f"{module}.weight"] * scaled + theta[f"{module}.bias"]

        def attend(layer: str, x: Any) -> Any:
            q, k, v = (
                jnp.stack(jnp.split(linear(f"{layer}.attention.self.{part}", x), self.heads, axis=-1))
                for part in ("query", "key", "value")
            )
            scores = jnp.einsum("hid,hjd->hij", q, k) / math.sqrt(q.shape[-1])
            weights = jax.nn.softmax(scores, where=example.mask, axis=-1)
            mixed = drop(weights, f"{layer}.attention", ATTENTION) @ v
            return linear(f"{layer}.attention.output.dense", jnp.concatenate(list(mixed), axis=-1))

        words, places, types = (
            theta[f"embeddings.{table}_embeddings.weight"] for table in ("word", "position", "token_type")
        )
        x = norm("embeddings.LayerNorm", words[example.ids] + places[: len(example.ids)] + types[example.types])
        x = drop(x, "embeddings", HIDDEN)
        for layer in (f"encoder.layer.{i}" for i in range(self.layers)):
            x = norm(
                f"{layer}.attention.output.LayerNorm", x + drop(attend(layer, x), f"{layer}.attention.output", HIDDEN)
            )
            wide = jax.nn.gelu(linear(f"{layer}.intermediate.dense", x), approximate=False)
            narrow = linear(f"{layer}.output.dense", wide)
            x = norm(f"{layer}.output.LayerNorm", x + drop(narrow, f"{layer}.output", HIDDEN))
        return x

    def example_loss(self, theta: Mapping[str, Any], example: Example) -> tuple[Any, dict[str, Any]]:
        """Cross-entropy behind the pooler, or squared error of the mean state; with what led there."""
        hidden = self.hidden_states(theta, example)
        if self.head == "cls":
            pooled = jnp.tanh(theta["pooler.dense.weight"] @ hidden[0] + theta["pooler.dense.bias"])
        else:
            pooled = hidden.mean(axis=0, where=example.mask[:, None])
        keep = example.keeps.get("classifier")
        if keep is not None:
            pooled = jnp.where(keep, pooled / (1 - self.rates[HIDDEN]), 0)
        logits = theta["classifier.weight"] @ pooled + theta["classifier.bias"]
        if self.head == "cls":
            loss = jax.nn.logsumexp(logits) - logits[example.label]
        else:
            loss = jnp.square(logits[0] - example.label)
        return loss, {"hidden": hidden, "logits": logits}

    def loss(self, theta: Mapping[str, Any], batch: Example) -> tuple[Any, dict[str, Any]]:
        """Sum over the batch."""
        losses, seen = jax.vmap(self.example_loss, in_axes=(None, 0))(theta, batch)
        return jnp.sum(losses), seen


def as_jax(case: Case) -> tuple[Network, Example]:
    config, dropout = case.model.config, case.dropout()
    keeps: dict[str, Any] = {}
    rates: dict[str, float] = {}
    if dropout is not None:
        d, heads = config.hidden_size, config.num_attention_heads
        rates = {HIDDEN: dropout.hidden, ATTENTION: dropout.attention, ADAPTER: dropout.adapter}
        keeps = {"embeddings": dropout.rows("embeddings", d, dropout.hidden)}
        keeps["classifier"] = dropout.vector("classifier", d, dropout.hidden)
        for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
            keeps[f"{layer}.attention"] = dropout.square(f"{layer}.attention", heads, dropout.attention)
            for site in (f"{layer}.attention.output", f"{layer}.output"):
                keeps[site] = dropout.rows(site, d, dropout.hidden)
        for module in case.scales:
            in_ = case.params[f"{module}.weight"].shape[1]
            keeps[module] = dropout.rows(module, in_, dropout.adapter)
    network = Network(
        config.num_hidden_layers,
        config.num_attention_heads,
        config.layer_norm_eps,
        case.scales,
        rates,
        case.model.head,
    )
    return network, Example(*case.batch, case.labels, keeps)


def on_host(tensors: Mapping[str, Any]) -> dict[str, Floats]:
    assert all(x.dtype == jnp.float64 for x in tensors.values())
    return {name: np.asarray(x) for name, x in tensors.items()}


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize(("head", "outputs", "p"), [("cls", 3, 0.2), ("mean", 1, 0.0)])
def test_states_logits_loss_and_every_gradient_equal_jax(head: Literal["cls", "mean"], outputs: int, p: float) -> None:
    case = make_case(11, head=head, outputs=outputs, p=p)
    network, batch = as_jax(case)
    compute = jax.jit(jax.value_and_grad(network.loss, has_aux=True), compiler_options=QUICKLY)
    (loss, seen), grads = compute(dict(case.params), batch)
    expected = on_host({**seen, "loss": loss, **grads})

    def ours(dtype: str) -> Named:
        params = {name: p.astype(dtype) for name, p in case.params.items()}
        hidden = BERT.forward(case.model.config, params, case.batch, scales=case.scales, dropout=case.dropout())[0]
        return {"hidden": hidden, **case.results(dtype)}

    Rounding.of(ours).check(ours("float64"), expected)


STEPS, DECAY, LR, GATE_LR, LAMBDA, CLIP = 3, 0.1, 0.05, 0.5, 0.02, 2.0
XI = GATE_LR * LAMBDA
MARGIN = 2.0**-12  # of |v| from the threshold: far above the rounding of float32, by which float64's is measured


def their_step(network: Network, theta: Named, batch: Example) -> tuple[dict[str, Any], Any, Any]:
    """θ after clipped SGD with decay of the matrices and prox of the gates; the norm; the gates before the prox."""
    mean = jax.grad(lambda at: network.loss(at, batch)[0] / len(batch.label))(theta)
    norm = jnp.sqrt(sum(jnp.vdot(grad, grad) for grad in mean.values()))
    after, moved = {}, {}
    for name, value in theta.items():
        grad = mean[name] * jnp.minimum(1, CLIP / norm)
        if name.endswith("sora_g"):
            v = moved[name] = value - GATE_LR * grad
            after[name] = jnp.sign(v) * jnp.maximum(jnp.abs(v) - XI, 0)
        else:
            after[name] = value - LR * (grad + (DECAY * value if value.ndim == 2 else 0))
    return after, norm, moved


def our_step(case: Case, state: TrainState) -> tuple[TrainState, Any]:
    """The same from two microbatches."""
    dtype = str(state.params["classifier.bias"].dtype)
    parts = (replace(case.take(rows), params=state.params) for rows in ([0, 2], [1, 3]))
    summed = [part.results(dtype) for part in parts]
    grads = combine_microbatches([{name: part[name] for name in state.params} for part in summed], 4)
    recipe = Recipe(optimiser=SGD(DECAY), gate_rule=PAPER, clip=CLIP, decayed=BERT.decayed)
    return training_step(state, grads, Rates(LR, GATE_LR, LAMBDA), recipe)


def gates(tensors: Mapping[str, Any]) -> Floats:
    return np.concatenate([np.asarray(x) for name, x in tensors.items() if name.endswith("sora_g")])


@pytest.mark.independent(
    "SORA-STEP-1",
    "SORA-STEP-2",
    "SORA-STEP-4",
    "SORA-STEP-6",
    "SORA-STEP-7",
    "SORA-GATE-1",
    "SORA-GATE-2",
    "SORA-OPT-1",
    "SORA-PROX-1",
    "SORA-REVIVAL-1",
)
def test_training_steps_equal_jax() -> None:
    """Three steps; gates close and zero gates come back, and no |v| is near its threshold."""
    case = make_case(11)
    for module in list(case.scales)[::4]:
        case.params[f"{module}.sora_g"][0] = XI / 2
    network, batch = as_jax(case)
    step, theta = jax.jit(partial(their_step, network), compiler_options=QUICKLY), dict(case.params)
    expected: dict[str, Any] = {}
    for t in range(1, STEPS + 1):
        before = gates(theta)
        theta, norm, moved = step(theta, batch)
        assert np.min(np.abs(np.abs(gates(moved)) - XI)) > MARGIN
        assert norm > CLIP
        if t == 1:
            assert np.any((before != 0) & (gates(theta) == 0)), "no gate closes"
            assert np.any((before == 0) & (gates(theta) != 0)), "no zero gate comes back"
            assert np.any((before == 0) & (gates(theta) == 0)), "no zero gate stays"
        expected |= {f"{name} after {t}": x for name, x in theta.items()} | {f"norm {t}": norm}

    def ours(dtype: str) -> Named:
        state = initial_state({name: p.astype(dtype) for name, p in case.params.items()})
        found: dict[str, Any] = {}
        for t in range(1, STEPS + 1):
            state, norm = our_step(case, state)
            found |= {f"{name} after {t}": x for name, x in state.params.items()} | {f"norm {t}": norm}
        return found

    found = ours("float64")
    Rounding.of(ours).check(found, on_host(expected))
    for name in (name for name in found if "sora_g" in name):
        assert np.array_equal(found[name] == 0, np.asarray(expected[name]) == 0), name
