"""The encoder that BERT and its kin share, forward and backward by hand, with SoRA on any of its linear layers.

    x = drop(LayerNorm(Σ embeddings))                             words, positions, token types
    x = LayerNorm(x + drop(O attention(Q x, K x, V x)))           in every layer
    x = LayerNorm(x + drop(W₂ gelu(W₁ x)))

LayerNorm stands behind each residual sum.  What architectures call their modules, which masks of dropout they draw, and
how they number positions is in `Encoder`.  The embeddings have one name in all of them.  Parameters are a flat mapping
with the names of the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from sora_ref.backends import Array
from sora_ref.linear import SoRA
from sora_ref.models import layers
from sora_ref.models.architecture import Batch, Params, Shapes
from sora_ref.models.dropout import Dropout
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.names import adapter_names, pack_gradients, unpack
from sora_ref.ops import Cache, LinearKept
from sora_ref.preconditions import require

WORDS, POSITIONS, TYPES = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
EMBEDDINGS_NORM = "embeddings.LayerNorm"


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an encoder, under the names of BERT's config.json.

    max_position_embeddings, type_vocab_size: the rows of these tables; without types there is no such table.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size}: expected a multiple of num_attention_heads {self.num_attention_heads}",
        )

    @property
    def longest(self) -> int:
        """Tokens that a sequence may have."""
        return self.max_position_embeddings

    @property
    def token_types(self) -> int:
        """Types that a tokeniser may give a token."""
        return self.type_vocab_size


def consecutive_positions(config: EncoderConfig, batch: Batch) -> Array:
    """(t,): 0, 1, 2 … for every row alike."""
    xp = array_namespace(batch.ids)
    return xp.arange(batch.ids.shape[1], dtype=xp.int64, device=device(batch.ids))


@dataclass(frozen=True)
class Encoder:
    """In what the architectures differ that have this encoder.

    layers: the module that holds the layers by number.
    query … output: the linear layers' modules inside a layer.
    attention_norm, output_norm: the norms behind attention and behind the feed-forward.
    drop_attention_output: whether dropout stands behind the attention's output layer too.
    positions: (config, batch) -> rows of the position table, (t,) for all rows of the batch alike or (b, t).

    Sites of dropout are called by their layer: `N.attention` the probabilities, `N.attention.output` and `N.output`
    what is added to the residual, each linear layer's module the input of its adapter; and `embeddings`.
    """

    layers: str
    query: str
    key: str
    value: str
    attention_output: str
    intermediate: str
    output: str
    attention_norm: str
    output_norm: str
    drop_attention_output: bool = True
    positions: Callable[[Any, Batch], Array] = consecutive_positions

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of linear layer -> its module inside a layer, in the order of the forward."""
        return {
            "query": self.query,
            "key": self.key,
            "value": self.value,
            "attention_output": self.attention_output,
            "intermediate": self.intermediate,
            "output": self.output,
        }

    @property
    def norm(self) -> str:
        """An expression for the modules that normalise."""
        inside = "|".join(map(re.escape, (self.attention_norm, self.output_norm)))
        return rf"{re.escape(EMBEDDINGS_NORM)}|{re.escape(self.layers)}\.[0-9]+\.({inside})"

    def shapes(self, config: EncoderConfig) -> Shapes:
        """The shape of every parameter of the encoder, by name."""
        d, f = config.hidden_size, config.intermediate_size
        shapes: Shapes = {WORDS: (config.vocab_size, d), POSITIONS: (config.max_position_embeddings, d)}
        if config.type_vocab_size:
            shapes[TYPES] = (config.type_vocab_size, d)
        norms = [EMBEDDINGS_NORM]
        for layer in range(config.num_hidden_layers):
            prefix = f"{self.layers}.{layer}"
            for kind, suffix in self.kinds.items():
                out, in_ = {"intermediate": (f, d), "output": (d, f)}.get(kind, (d, d))
                shapes[f"{prefix}.{suffix}.weight"] = (out, in_)
                shapes[f"{prefix}.{suffix}.bias"] = (out,)
            norms += [f"{prefix}.{self.attention_norm}", f"{prefix}.{self.output_norm}"]
        return shapes | {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}

    def forward(
        self,
        config: EncoderConfig,
        params: Params,
        batch: Batch,
        *,
        scales: Mapping[str, float] | None = None,
        ops: ModelOps = MODEL_SPEC,
        dropout: Dropout | None = None,
    ) -> tuple[Array, EncoderCache]:
        """Last hidden states (b, t, d), and the backward's cache; see `architecture.Forward`."""
        run = _Run(self, config, params, scales or {}, ops, dropout)
        x, tables, norm, drop = _embed(run, batch)
        bias = layers.attention_bias(batch.mask, x.dtype)
        caches = []
        for layer in range(config.num_hidden_layers):
            x, cache = _layer_forward(run, f"{self.layers}.{layer}", x, bias)
            caches.append(cache)
        return x, EncoderCache(run, tables, norm, drop, tuple(caches))

    def states(
        self,
        config: EncoderConfig,
        params: Params,
        batch: Batch,
        *,
        scales: Mapping[str, float] | None = None,
        ops: ModelOps = MODEL_SPEC,
    ) -> Array:
        """The last hidden states alone, of an evaluation; see `architecture.States`."""
        run = _Run(self, config, params, scales or {}, ops, None)
        x = _embed(run, batch)[0]
        bias = layers.attention_bias(batch.mask, x.dtype)
        for layer in range(config.num_hidden_layers):
            x = _layer_forward(run, f"{self.layers}.{layer}", x, bias)[0]
        return x

    def backward(self, dhidden: Array, cache: EncoderCache, wanted: Collection[str]) -> dict[str, Array]:
        """Gradients of ⟨dhidden, hidden⟩ for the parameters named in `wanted`; see `architecture.Backward`."""
        run, tables, norm, drop, caches = cache
        grads = _Gradients(run, wanted)
        in_embeddings = any(name.startswith("embeddings.") for name in wanted)
        in_layer = [any(name.startswith(f"{self.layers}.{layer}.") for name in wanted) for layer in range(len(caches))]

        dx = dhidden
        for layer in reversed(range(len(caches))):
            below = in_embeddings or any(in_layer[:layer])
            if not (below or in_layer[layer]):
                return grads.found
            dx = _layer_backward(run, dx, caches[layer], grads, below=below)
        if in_embeddings:
            dx = grads.norm(run.drop(dx, drop), norm)
            for table, (places, shared) in tables.items():
                if table in grads.wanted:
                    dy = array_namespace(dx).sum(dx, axis=0) if shared else dx
                    grads.put(table, run.ops.embedding_backward(dy, places))
        return grads.found


Tables = Mapping[str, tuple[layers.EmbeddingCache, bool]]  # by table; whether its rows are the same for all sequences


class LayerCache(NamedTuple):
    """One block's caches; the linear ones by kind, each with the module's name."""

    linear: Mapping[str, tuple[str, LinearKept]]
    attention: Cache
    gelu: Cache
    norms: tuple[tuple[str, Cache], tuple[str, Cache]]
    drops: tuple[Array | None, Array | None]


class EncoderCache(NamedTuple):
    """What the backward needs of the forward; tables: what was looked up."""

    run: _Run
    tables: Tables
    norm: tuple[str, Cache]
    drop: Array | None
    layers: tuple[LayerCache, ...]

    def linear_inputs(self) -> dict[str, Array]:
        """Module -> x (n, in), the rows that its linear layer was given."""
        return {module: linear.x for layer in self.layers for module, linear in layer.linear.values()}


@dataclass(frozen=True)
class _Run:
    """What every layer of one forward shares."""

    encoder: Encoder
    config: EncoderConfig
    params: Params
    scales: Mapping[str, float]
    ops: ModelOps
    dropout: Dropout | None

    def adapter(self, module: str) -> SoRA | None:
        if adapter_names(module).A not in self.params:
            return None
        return unpack(self.params, module, self.scales[module])

    def linear(self, module: str, x: Array) -> tuple[Array, tuple[str, LinearKept]]:
        adapter, dropout = self.adapter(module), self.dropout
        keep = dropout.rows(module, x.shape[-1], dropout.adapter) if adapter is not None and dropout else None
        weight, bias = self.params[f"{module}.weight"], self.params[f"{module}.bias"]
        p = dropout.adapter if dropout else 0.0
        y, cache = self.ops.sora_linear_forward(x, weight, bias, adapter, keep=keep, p=p)
        return y, (module, cache)

    def norm(self, module: str, x: Array, residual: Array | None = None) -> tuple[Array, tuple[str, Cache]]:
        weight, bias = self.params[f"{module}.weight"], self.params[f"{module}.bias"]
        y, cache = self.ops.layer_norm_forward(x, weight, bias, self.config.layer_norm_eps, residual)
        return y, (module, cache)

    def keep_rows(self, site: str) -> Array | None:
        return self.dropout.rows(site, self.config.hidden_size, self.dropout.hidden) if self.dropout else None

    def drop(self, x: Array, keep: Array | None) -> Array:
        return layers.dropout_forward(x, keep, self.dropout.hidden if self.dropout else 0.0)


class _Gradients:
    """The gradients asked for, gathered as the backward passes by."""

    def __init__(self, run: _Run, wanted: Collection[str]) -> None:
        self.run, self.wanted, self.found = run, frozenset(wanted), dict[str, Array]()

    def put(self, name: str, value: Array | None) -> None:
        if name in self.wanted and value is not None:
            self.found[name] = value

    def linear(self, dy: Array, named: tuple[str, LinearKept], *, dx: bool = True) -> Array:
        module, cache = named
        grads = self.run.ops.sora_linear_backward(
            dy, cache, dx=dx, dW0=f"{module}.weight" in self.wanted, db=f"{module}.bias" in self.wanted
        )
        self.put(f"{module}.weight", grads.dW0)
        self.put(f"{module}.bias", grads.db)
        for name, grad in pack_gradients(module, grads).items():
            self.put(name, grad)
        return grads.dx

    def norm(self, dy: Array, named: tuple[str, Cache]) -> Array:
        module, cache = named
        names = f"{module}.weight", f"{module}.bias"
        parameters = not self.wanted.isdisjoint(names)
        dx, *found = self.run.ops.layer_norm_backward(dy, cache, parameters=parameters)
        for name, grad in zip(names, found, strict=True):
            self.put(name, grad)
        return dx


def _embed(run: _Run, batch: Batch) -> tuple[Array, Tables, tuple[str, Cache], Array | None]:
    """The embeddings' sum after LayerNorm and dropout, (b, t, d); what was kept of each."""
    params, t = run.params, batch.ids.shape[1]
    most = run.config.longest
    require(t <= most, f"sequences of {t} tokens: expected at most {most}")
    rows_of = {WORDS: batch.ids, POSITIONS: run.encoder.positions(run.config, batch)}
    if run.config.type_vocab_size:
        rows_of[TYPES] = batch.types
    x, tables = 0, {}
    for table, ids in rows_of.items():
        rows, places = layers.embedding_forward(params[table], ids)
        x = x + rows  # rows (t, d) broadcast over the batch
        tables[table] = places, rows.ndim == 2
    x, norm = run.norm(EMBEDDINGS_NORM, x)
    drop = run.keep_rows("embeddings")
    x = run.drop(x, drop)
    return x, tables, norm, drop


def _layer_forward(run: _Run, prefix: str, x: Array, bias: Array) -> tuple[Array, LayerCache]:
    """One block: attention and feed-forward, each with residual and LayerNorm after it; (b, t, d) -> (b, t, d)."""
    names = {kind: f"{prefix}.{suffix}" for kind, suffix in run.encoder.kinds.items()}
    encoder, config, dropout, linear = run.encoder, run.config, run.dropout, {}

    q, linear["query"] = run.linear(names["query"], x)
    k, linear["key"] = run.linear(names["key"], x)
    v, linear["value"] = run.linear(names["value"], x)
    heads = config.num_attention_heads
    keep = dropout.square(f"{prefix}.attention", heads, dropout.attention) if dropout else None
    p = dropout.attention if dropout else 0.0
    context, attention = run.ops.attention_forward(q, k, v, heads, bias, keep, p)
    projected, linear["attention_output"] = run.linear(names["attention_output"], context)
    drop_1 = run.keep_rows(f"{prefix}.attention.output") if encoder.drop_attention_output else None
    x, norm_1 = run.norm(f"{prefix}.{encoder.attention_norm}", run.drop(projected, drop_1), x)

    wide, linear["intermediate"] = run.linear(names["intermediate"], x)
    active, gelu = run.ops.gelu_forward(wide)
    narrow, linear["output"] = run.linear(names["output"], active)
    drop_2 = run.keep_rows(f"{prefix}.output")
    x, norm_2 = run.norm(f"{prefix}.{encoder.output_norm}", run.drop(narrow, drop_2), x)
    return x, LayerCache(linear, attention, gelu, (norm_1, norm_2), (drop_1, drop_2))


def _layer_backward(run: _Run, dx: Array, cache: LayerCache, grads: _Gradients, *, below: bool) -> Array:
    """Gradient at the block's input; where nothing below is wanted, the frozen paths to it are not computed."""
    linear, attention, gelu, (norm_1, norm_2), (drop_1, drop_2) = cache
    dx = grads.norm(dx, norm_2)
    dnarrow = run.drop(dx, drop_2)  # term 1: the feed-forward branch; dx itself is the residual's
    dwide = run.ops.gelu_backward(grads.linear(dnarrow, linear["output"]), gelu)
    through = grads.linear(dwide, linear["intermediate"])
    through += dx
    dx = grads.norm(through, norm_1)
    dcontext = grads.linear(run.drop(dx, drop_1), linear["attention_output"])  # term 2: the attention branch
    dq, dk, dv = run.ops.attention_backward(dcontext, attention)
    for dy, kind in ((dq, "query"), (dk, "key"), (dv, "value")):
        through = grads.linear(dy, linear[kind], dx=below)
        if below:
            dx += through
    return dx
