"""A tiny BERT with adapters, and the two measures by which floating-point results are compared.

Rounding.  A network's rounding error is, to first order, a fixed linear form in the roundings δ_i, |δ_i| ≤ u, of its
operations.  So the same graph in float64 makes errors 2⁻²⁹ = u64/u32 as large as those in float32, and these can be
measured against float64.  `Rounding.measured` is that: the largest error of float32, relative to its tensor's largest
entry.  Two float64 results of one mathematical value may then differ by `SPREAD`·2⁻²⁹·(it)·(largest entry): SPREAD = 2⁶
because one realisation of the δ_i was measured and another is compared, in other orders of summation.  A wrong term is
not small in 2⁻²⁹ and stays some nine digits above.

Derivatives.  All our layers are analytic, so Im f(θ + ihV)/h with h = 10⁻¹⁰⁰ is the derivative along V without
truncation or cancellation; what remains is rounding, and the 10⁻¹³ which SciPy's complex erf (Faddeeva) promises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, currently_in_test_context

from sora_ref.models import (
    ARCHITECTURES,
    MODEL_SPEC,
    Architecture,
    Batch,
    Classifier,
    Dropout,
    ModelConfig,
    ModelOps,
    classifier_backward,
    classifier_forward,
    cross_entropy,
    squared_error,
)
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.models.roberta import RobertaConfig

Floats = npt.NDArray[Any]
Named = Mapping[str, Floats]

CONFIG = EncoderConfig(
    vocab_size=13,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=9,
    type_vocab_size=2,
)
TINY = {
    "bert": CONFIG,
    "roberta": RobertaConfig(13, 8, 2, 2, 12, 11, 1, layer_norm_eps=1e-5),
    "distilbert": replace(CONFIG, type_vocab_size=0),
}
"""A small configuration of every architecture."""

KINDS = tuple(BERT.kinds)
RANK = 3
SCALE = 0.75
SPREAD = 2.0**6
U64_TO_U32 = 2.0**-29
STEP = 1e-100  # of the complex step: far below any rounding, far above underflow
FADDEEVA = 1e-13
KEY_BIASES = tuple(f".{each.kinds['key']}.bias" for each in ARCHITECTURES.values())


def is_key_bias(name: str) -> bool:
    """Softmax ignores what is added to all scores of a row, so a key's bias has gradient 0: computed, mere rounding."""
    return name.endswith(KEY_BIASES)


def as_host(x: Any) -> Any:
    return x


@dataclass(frozen=True)
class Case:
    """A network, a batch and what is asked of it; NumPy, float64."""

    model: Classifier
    params: Named
    scales: Mapping[str, float]
    batch: Batch
    labels: Floats
    examples: tuple[int, ...]
    p: float = 0.0

    @property
    def lengths(self) -> list[int]:
        return [int(n) for n in self.batch.mask.sum(axis=1)]

    def dropout(self, from_host: Callable[[Any], Any] = as_host) -> Dropout | None:
        if not self.p:
            return None
        return Dropout(3, 5, self.p, self.p / 2, self.p * 2, self.examples, self.lengths, from_host)

    def take(self, rows: Sequence[int]) -> Case:
        """The batch of these examples alone, without the padding they then do not need."""
        index = list(rows)
        t = max(self.lengths[row] for row in index)
        batch = Batch(*(part[index, :t] for part in self.batch))
        return replace(
            self, batch=batch, labels=self.labels[index], examples=tuple(self.examples[row] for row in index)
        )

    def pad(self, more: int, token: int = 0) -> Case:
        """The same batch with `more` places of padding, filled with `token`."""
        widths = ((0, 0), (0, more))
        ids, types, mask = self.batch
        wide = Batch(
            np.pad(ids, widths, constant_values=token),
            np.pad(types, widths, constant_values=token % max(self.model.config.token_types, 1)),
            np.pad(mask, widths),
        )
        return replace(self, batch=wide)

    def loss(self, logits: Any, labels: Any = None) -> tuple[Any, Any]:
        given = self.labels if labels is None else labels
        return squared_error(logits, given) if self.model.outputs == 1 else cross_entropy(logits, given)

    def forward(self, dtype: str = "float64", params: Named | None = None, ops: ModelOps = MODEL_SPEC) -> Any:
        given = {name: p.astype(dtype) for name, p in self.params.items()} if params is None else params
        return classifier_forward(self.model, given, self.batch, scales=self.scales, ops=ops, dropout=self.dropout())

    def results(self, dtype: str = "float64", wanted: Collection[str] | None = None) -> dict[str, Floats]:
        """Logits, loss, and the gradients of the loss."""
        logits, cache = self.forward(dtype)
        labels = self.labels.astype(dtype) if self.model.outputs == 1 else self.labels
        loss, dlogits = self.loss(logits, labels)
        grads = classifier_backward(dlogits, cache, self.params if wanted is None else wanted)
        return {"logits": logits, "loss": np.asarray(loss), **grads}


def random_params(rng: np.random.Generator, model: Classifier, kinds: Collection[str]) -> dict[str, Floats]:
    """Weights of a size at which every nonlinearity is at work; a gate that is zero and one that is negative."""
    architecture, shapes = model.architecture, model.shapes
    params = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    params |= {name: 1 + p for name, p in params.items() if architecture.is_norm(name) and name.endswith("weight")}
    for module in architecture.modules(model.config, kinds):
        out, in_ = shapes[f"{module}.weight"]
        params[f"{module}.sora_A"] = 0.5 * rng.standard_normal((RANK, in_))
        params[f"{module}.sora_g"] = np.array([rng.standard_normal(), 0.0, -0.5])
        params[f"{module}.sora_B"] = 0.5 * rng.standard_normal((out, RANK))
    return params


def cases(**options: Any) -> Any:
    """Every architecture with each of its heads, as `architecture, config, head` of a test."""
    every = [(each, TINY[kind], head) for kind, each in ARCHITECTURES.items() for head in each.heads]
    names = [f"{each.model_type}-{head}" for each, _, head in every]
    return pytest.mark.parametrize(("architecture", "config", "head"), every, ids=names, **options)


def make_case(
    seed: int,
    *,
    head: Literal["cls", "mean"] = "cls",
    outputs: int = 3,
    kinds: Collection[str] = KINDS,
    lengths: Sequence[int] = (5, 3, 6, 1),
    p: float = 0.0,
    architecture: Architecture = BERT,
    config: EncoderConfig = CONFIG,
) -> Case:
    rng = np.random.default_rng(seed)
    model = Classifier(architecture, config, head, outputs)
    params = random_params(rng, model, kinds)
    shape = len(lengths), max(lengths)
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    batch = Batch(rng.integers(0, config.vocab_size, shape), rng.integers(0, max(config.token_types, 1), shape), mask)
    labels = rng.standard_normal(shape[0]) if outputs == 1 else rng.integers(0, outputs, shape[0])
    scales = dict.fromkeys(architecture.modules(config, kinds), SCALE)
    return Case(model, params, scales, batch, labels, tuple(range(40, 40 + shape[0])), p)


def on_batch(
    config: ModelConfig,
    params: Named,
    scale: float,
    given: Named,
    head: str,
    outputs: int,
    dtype: str,
    architecture: Architecture = BERT,
) -> dict[str, Floats]:
    """Hidden states, logits, loss and every gradient of a stored batch: ids, types, mask and labels by head."""
    tokens = Batch(given["ids"], given["types"], given["mask"])
    scales = {name.removesuffix(".sora_g"): scale for name in params if name.endswith(".sora_g")}
    model = Classifier(architecture, config, cast(Literal["cls", "mean"], head), outputs)
    case = Case(model, params, scales, tokens, given[f"labels.{head}"], ())
    own = {name: p.astype(dtype) for name, p in params.items()}
    return {"hidden": architecture.forward(config, own, tokens, scales=scales)[0], **case.results(dtype)}


def relative(found: Named, expected: Named) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest entry; key biases have nothing to be relative to."""
    assert found.keys() == expected.keys()
    return {
        name: float(np.max(np.abs(found[name].astype(float) - value), initial=0) / np.max(np.abs(value), initial=0))
        for name, value in expected.items()
        if not is_key_bias(name) and np.any(value)
    }


@dataclass(frozen=True)
class Rounding:
    """How far rounding alone moves float64 results, from what it does to float32 (see the module)."""

    measured: float

    @classmethod
    def of(cls, compute: Callable[[str], Named]) -> Rounding:
        """compute: dtype -> results."""
        return cls(max(relative(compute("float32"), compute("float64")).values()))

    @property
    def allowed(self) -> float:
        return SPREAD * U64_TO_U32 * self.measured

    def check(self, found: Named, expected: Named, unit: float = 1.0) -> None:
        """Every float64 tensor within rounding of what is expected; `unit` is 2²⁹ where `found` is float32."""
        telling = self.measured < 2**-12  # else float32 itself has lost half its digits, and the case says nothing
        if currently_in_test_context():
            assume(telling)
        assert telling
        worst = relative(found, expected)
        assert {name: gap for name, gap in worst.items() if not gap <= unit * self.allowed} == {}
        for name, value in expected.items():
            assert found[name].shape == value.shape
            if is_key_bias(name):
                scale = float(np.max(np.abs(expected[name.replace("bias", "weight")]), initial=1.0))
                assert np.max(np.abs(found[name])) <= unit * self.allowed * scale, f"{name}: more than rounding"
            elif not np.any(value):
                assert not np.any(found[name]), f"{name}: expected zeros"


def directions(rng: np.random.Generator, params: Named) -> dict[str, Floats]:
    return {name: rng.standard_normal(p.shape) for name, p in params.items()}


def complex_step(f: Callable[[Named], Any], params: Named, along: Named) -> Any:
    """The derivative of f at params in the direction `along`."""
    moved = {name: p + 1j * STEP * along.get(name, np.zeros(())) for name, p in params.items()}
    return np.imag(f(moved)) / STEP


def check_vjp(
    f: Callable[[Named], Any],
    gradients: Callable[[Named], Named],
    params: Named,
    rng: np.random.Generator,
    *,
    by_name: bool = True,
) -> None:
    """⟨∇f, V⟩ along a random V, all tensors together; then each tensor by its name."""
    exact = gradients(params)
    single = gradients({name: p.astype(np.float32) for name, p in params.items()})
    along = directions(rng, exact)

    def allowed(names: Collection[str]) -> float:
        given = [n.replace("bias", "weight") if is_key_bias(n) else n for n in names]  # see `is_key_bias`
        rounding = sum(float(np.sum(np.abs(along[n] * (single[n] - exact[n])))) for n in given)
        size = sum(float(np.sum(np.abs(along[n] * exact[n]))) for n in given)
        assert rounding <= 2**-10 * size + 2**-20, f"{list(names)}: float32 says nothing here"
        return SPREAD * U64_TO_U32 * rounding + FADDEEVA * size

    for names in (list(exact), *([name] for name in exact if by_name)):
        predicted = sum(float(np.sum(exact[n] * along[n])) for n in names)
        found = float(complex_step(f, params, {n: along[n] for n in names}))
        assert abs(predicted - found) <= allowed(names), names
