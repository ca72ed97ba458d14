"""The record of an architecture: all that training, pruning and shipping need to know of a transformer.

A run asks the record and never an architecture's own module.  Names of parameters and modules are the checkpoint's,
without the prefix that they have under a classifier (`bert.`).  A module `m` carries an adapter where the parameters
have the tensors of one (see `sora_ref.names`); its scale s is in `scales[m]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from sora_ref.backends import Array
from sora_ref.models.dropout import Dropout
from sora_ref.models.heads import Head, HeadName
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.preconditions import require

Params = Mapping[str, Array]
Shapes = dict[str, tuple[int, ...]]
TokenizerFamily = Literal["wordpiece", "byte-level-bpe"]

_LAYER_NUMBER = r"([0-9]{1,9})"


class Batch(NamedTuple):
    """Token sequences of one length: ids and types (b, t) integers, mask (b, t) True where a token is.

    Padding is on the right.  Ids lie in [0, vocab_size), types in [0, token_types), or are 0 where the model reads
    none: the tokeniser's promise, checked there.
    """

    ids: Array
    types: Array
    mask: Array


class ModelConfig(Protocol):
    """What is asked of a configuration by all but its own architecture."""

    @property
    def vocab_size(self) -> int:
        """Tokens that have an embedding."""

    @property
    def hidden_size(self) -> int:
        """d, the width of the hidden states."""

    @property
    def num_hidden_layers(self) -> int:
        """Layers, numbered from 0."""

    @property
    def longest(self) -> int:
        """Tokens that a sequence may have."""

    @property
    def token_types(self) -> int:
        """Types that a tokeniser may give a token; 0 where the architecture reads none."""


class ModelCache(Protocol):
    """What a forward keeps for the backward; only the inputs of the linear layers are for others to see."""

    def linear_inputs(self) -> Mapping[str, Array]:
        """Module -> x (n, in), the rows that its linear layer was given."""


class Forward(Protocol):
    """(config, params, batch) -> last hidden states (b, t, d), and the backward's cache.

    params:  every name of `Architecture.shapes`, and the adapters'; one dtype.
    dropout: the masks of a training pass; None in evaluation.
    """

    def __call__(
        self,
        config: Any,
        params: Params,
        batch: Batch,
        *,
        scales: Mapping[str, float] | None = None,
        ops: ModelOps = MODEL_SPEC,
        dropout: Dropout | None = None,
    ) -> tuple[Array, Any]:
        """See the class."""


class States(Protocol):
    """The last hidden states alone, of an evaluation: every layer's cache is freed before the next begins."""

    def __call__(
        self,
        config: Any,
        params: Params,
        batch: Batch,
        *,
        scales: Mapping[str, float] | None = None,
        ops: ModelOps = MODEL_SPEC,
    ) -> Array:
        """See the class."""


class Backward(Protocol):
    """(dhidden (b, t, d), cache, wanted) -> gradients of ⟨dhidden, hidden⟩ for the parameters named in `wanted`.

    The pass stops below the lowest parameter wanted.
    """

    def __call__(self, dhidden: Array, cache: Any, wanted: Collection[str]) -> dict[str, Array]:
        """See the class."""


@dataclass(frozen=True)
class Architecture:
    """One architecture of transformers.

    model_type:  its name in config.json, and in the table.
    title:       its name in a sentence.
    model_class, classifier_class: the classes of transformers for the bare model, and with its classifier.
    prefix:      what stands in front of the model's names under the classifier class.
    layers:      the module that holds the layers by number.
    kinds:       kind of linear layer that may carry an adapter, in the user's words -> its module inside a layer.
    norm:        expression for the modules that normalise, by their whole name.
    heads:       the heads it supports, by name.
    tokenizer:   the family of its tokenisers.
    old_names:   parts of parameters' names in old checkpoints -> what they are called now.
    read_config: (config.json, where it is) -> the configuration; SoRAError for whatever is not implemented.
    shapes:      configuration -> the shape of every parameter by name, heads not among them.
    forward, states, backward: see the protocols of those names.
    """

    model_type: str
    title: str
    model_class: str
    classifier_class: str
    prefix: str
    layers: str
    kinds: Mapping[str, str]
    norm: str
    heads: Mapping[HeadName, Head]
    tokenizer: TokenizerFamily
    old_names: Mapping[str, str]
    read_config: Callable[[Mapping[str, Any], str], ModelConfig]
    shapes: Callable[[Any], Shapes]
    forward: Forward
    states: States
    backward: Backward

    def modules(self, config: ModelConfig, kinds: Collection[str] | None = None) -> tuple[str, ...]:
        """The names of the linear layers of these kinds (None: all), layer by layer; SoRAError for an unknown kind."""
        wanted = self.kinds if kinds is None else kinds
        unknown = sorted(set(wanted) - set(self.kinds))
        require(not unknown, f"unknown kinds of linear layer {unknown}: expected some of {', '.join(self.kinds)}")
        return tuple(
            f"{self.layers}.{layer}.{suffix}"
            for layer in range(config.num_hidden_layers)
            for kind, suffix in self.kinds.items()
            if kind in wanted
        )

    def place(self, module: str) -> tuple[int, str] | None:
        """Layer and kind of a module that may carry an adapter; None for any other."""
        found = re.fullmatch(rf"{re.escape(self.layers)}\.{_LAYER_NUMBER}\.(.+)", module)
        kind = next((kind for kind, suffix in self.kinds.items() if found is not None and suffix == found[2]), None)
        return None if found is None or kind is None else (int(found[1]), kind)

    def is_linear(self, module: str) -> bool:
        """Whether this is a linear layer of the bare model, a head's dense layer included where that is the model's."""
        own = (head.dense for head in self.heads.values() if head.dense_is_models)
        return self.place(module) is not None or module in own

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that a parameter or module belongs to; None outside the layers."""
        found = re.match(rf"{re.escape(self.layers)}\.{_LAYER_NUMBER}\.", name)
        return None if found is None else int(found[1])

    def is_norm(self, name: str) -> bool:
        """Whether this parameter is the weight or bias of a normalisation."""
        return re.fullmatch(self.norm, name.rpartition(".")[0]) is not None

    def is_bias(self, name: str) -> bool:
        """Whether this parameter is a bias, be it of a normalisation."""
        return name.endswith(".bias")

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on this parameter, one of a head or an adapter too (SORA-STEP-6)."""
        return not (self.is_norm(name) or self.is_bias(name))

    def own_dense(self, config: ModelConfig) -> Shapes:
        """The parameters of heads that are the model's own and may be in its checkpoint: name -> shape."""
        shapes: Shapes = {}
        for head in self.heads.values():
            shapes |= {name: shape for name, shape in head.shapes(config.hidden_size, 1).items() if name in head.inner}
        return shapes
