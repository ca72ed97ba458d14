"""BERT's encoder (Devlin et al., 2019), forward and backward by hand, with SoRA on any of its linear layers.

Parameters are a flat mapping with the names of Hugging Face's BertModel.  A module `m` carries an adapter where the
mapping has the tensors of one (see `sora_ref.names`); its scale s is in `scales[m]`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from sora_ref.backends import Array
from sora_ref.linear import LinearCache, SoRA
from sora_ref.models import layers
from sora_ref.models.dropout import Dropout
from sora_ref.models.ops import MODEL_SPEC, ModelOps
from sora_ref.names import adapter_names, pack_gradients, unpack
from sora_ref.preconditions import require

Params = Mapping[str, Array]

LINEAR_KINDS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT, under the names of its config.json."""

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

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter of the encoder, by name."""
        d, f = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, d),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, d),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, d),
        }
        norms = ["embeddings.LayerNorm"]
        for layer in range(self.num_hidden_layers):
            prefix = f"encoder.layer.{layer}"
            for kind, suffix in LINEAR_KINDS.items():
                out, in_ = {"intermediate": (f, d), "output": (d, f)}.get(kind, (d, d))
                shapes[f"{prefix}.{suffix}.weight"] = (out, in_)
                shapes[f"{prefix}.{suffix}.bias"] = (out,)
            norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        return shapes | {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}


def linear_modules(config: BertConfig, kinds: Collection[str] = tuple(LINEAR_KINDS)) -> tuple[str, ...]:
    """The names of the linear layers of these kinds, layer by layer; SoRAError for an unknown kind."""
    unknown = sorted(set(kinds) - set(LINEAR_KINDS))
    require(not unknown, f"unknown kinds of linear layer {unknown}: expected some of {', '.join(LINEAR_KINDS)}")
    return tuple(
        f"encoder.layer.{layer}.{suffix}"
        for layer in range(config.num_hidden_layers)
        for kind, suffix in LINEAR_KINDS.items()
        if kind in kinds
    )


def decayed(name: str) -> bool:
    """Whether weight decay acts on this parameter, of the encoder, a head or an adapter: not on biases and norms."""
    return not (name.endswith(".bias") or "LayerNorm" in name)


class Batch(NamedTuple):
    """Token sequences of one length: ids and types (b, t) integers, mask (b, t) True where a token is.

    Ids lie in [0, vocab), types in [0, type_vocab): the tokeniser's promise, checked there.
    """

    ids: Array
    types: Array
    mask: Array


class LayerCache(NamedTuple):
    """One block's caches; the linear ones by kind, each with the module's name."""

    linear: Mapping[str, tuple[str, LinearCache]]
    attention: layers.AttentionCache
    gelu: Any
    norms: tuple[Any, Any]
    drops: tuple[Array | None, Array | None]


class BertCache(NamedTuple):
    """What bert_backward needs of the forward."""

    run: _Run
    tables: Mapping[str, tuple[Array, int]]
    norm: Any
    drop: Array | None
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True)
class _Run:
    """What every layer of one forward shares."""

    config: BertConfig
    params: Params
    scales: Mapping[str, float]
    ops: ModelOps
    dropout: Dropout | None

    def adapter(self, module: str) -> SoRA | None:
        if adapter_names(module).A not in self.params:
            return None
        return unpack(self.params, module, self.scales[module])

    def linear(self, module: str, x: Array) -> tuple[Array, tuple[str, LinearCache]]:
        adapter, dropout = self.adapter(module), self.dropout
        keep = dropout.rows(module, x.shape[-1], dropout.adapter) if adapter is not None and dropout else None
        weight, bias = self.params[f"{module}.weight"], self.params[f"{module}.bias"]
        p = dropout.adapter if dropout else 0.0
        y, cache = self.ops.sora_linear_forward(x, weight, bias, adapter, keep=keep, p=p)
        return y, (module, cache)

    def norm(self, module: str, x: Array) -> tuple[Array, tuple[str, Any]]:
        weight, bias = self.params[f"{module}.weight"], self.params[f"{module}.bias"]
        y, cache = self.ops.layer_norm_forward(x, weight, bias, self.config.layer_norm_eps)
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

    def linear(self, dy: Array, named: tuple[str, LinearCache], *, dx: bool = True) -> Array:
        module, cache = named
        grads = self.run.ops.sora_linear_backward(
            dy, cache, dx=dx, dW0=f"{module}.weight" in self.wanted, db=f"{module}.bias" in self.wanted
        )
        self.put(f"{module}.weight", grads.dW0)
        self.put(f"{module}.bias", grads.db)
        for name, grad in pack_gradients(module, grads).items():
            self.put(name, grad)
        return grads.dx

    def norm(self, dy: Array, named: tuple[str, Any]) -> Array:
        module, cache = named
        names = f"{module}.weight", f"{module}.bias"
        parameters = not self.wanted.isdisjoint(names)
        dx, *found = self.run.ops.layer_norm_backward(dy, cache, parameters=parameters)
        for name, grad in zip(names, found, strict=True):
            self.put(name, grad)
        return dx


def bert_forward(
    config: BertConfig,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
    dropout: Dropout | None = None,
) -> tuple[Array, BertCache]:
    """Last hidden states (b, t, d) of the encoder, and the backward's cache.

    params:  every name of `config.shapes()`, and the adapters' (see the module's docstring); one dtype.
    dropout: the masks of a training pass; None in evaluation.
    """
    run = _Run(config, params, scales or {}, ops, dropout)
    x, tables, norm, drop = _embed(run, batch)
    bias = layers.attention_bias(batch.mask, x.dtype)
    caches = []
    for layer in range(config.num_hidden_layers):
        x, cache = _layer_forward(run, f"encoder.layer.{layer}", x, bias)
        caches.append(cache)
    return x, BertCache(run, tables, norm, drop, tuple(caches))


def bert_states(
    config: BertConfig,
    params: Params,
    batch: Batch,
    *,
    scales: Mapping[str, float] | None = None,
    ops: ModelOps = MODEL_SPEC,
) -> Array:
    """The last hidden states alone, of an evaluation: every block's cache is freed before the next begins."""
    run = _Run(config, params, scales or {}, ops, None)
    x = _embed(run, batch)[0]
    bias = layers.attention_bias(batch.mask, x.dtype)
    for layer in range(config.num_hidden_layers):
        x = _layer_forward(run, f"encoder.layer.{layer}", x, bias)[0]
    return x


def bert_backward(dhidden: Array, cache: BertCache, wanted: Collection[str]) -> dict[str, Array]:
    """Gradients of ⟨dhidden, hidden⟩ for the parameters named in `wanted`; dhidden (b, t, d).

    The pass stops below the lowest parameter wanted.
    """
    run, tables, norm, drop, caches = cache
    grads = _Gradients(run, wanted)
    in_embeddings = any(name.startswith("embeddings.") for name in wanted)
    in_layer = [any(name.startswith(f"encoder.layer.{layer}.") for name in wanted) for layer in range(len(caches))]

    dx = dhidden
    for layer in reversed(range(len(caches))):
        below = in_embeddings or any(in_layer[:layer])
        if not (below or in_layer[layer]):
            return grads.found
        dx = _layer_backward(run, dx, caches[layer], grads, below=below)
    if in_embeddings:
        xp = array_namespace(dx)
        dx = grads.norm(run.drop(dx, drop), norm)
        for table, places in tables.items():
            if table in grads.wanted:
                dy = xp.sum(dx, axis=0) if "position" in table else dx
                grads.put(table, layers.embedding_backward(dy, places))
    return grads.found


def _embed(run: _Run, batch: Batch) -> tuple[Array, dict[str, Any], Any, Array | None]:
    """The embeddings' sum after LayerNorm and dropout, (b, t, d); what was kept of each."""
    xp, params, t = array_namespace(batch.ids), run.params, batch.ids.shape[1]
    most = run.config.max_position_embeddings
    require(t <= most, f"sequences of {t} tokens: expected at most {most}")
    positions = xp.arange(t, dtype=xp.int64, device=device(batch.ids))
    x, tables = 0, {}
    for name, ids in (("word", batch.ids), ("position", positions), ("token_type", batch.types)):
        table = f"embeddings.{name}_embeddings.weight"
        rows, tables[table] = layers.embedding_forward(params[table], ids)
        x = x + rows  # position's (t, d) broadcasts over the batch
    x, norm = run.norm("embeddings.LayerNorm", x)
    drop = run.keep_rows("embeddings")
    x = run.drop(x, drop)
    return x, tables, norm, drop


def _layer_forward(run: _Run, prefix: str, x: Array, bias: Array) -> tuple[Array, LayerCache]:
    """One block: attention and feed-forward, each with residual and LayerNorm after it; (b, t, d) -> (b, t, d)."""
    names = {kind: f"{prefix}.{suffix}" for kind, suffix in LINEAR_KINDS.items()}
    config, dropout, linear = run.config, run.dropout, {}

    q, linear["query"] = run.linear(names["query"], x)
    k, linear["key"] = run.linear(names["key"], x)
    v, linear["value"] = run.linear(names["value"], x)
    heads = config.num_attention_heads
    keep = dropout.square(f"{prefix}.attention", heads, dropout.attention) if dropout else None
    p = dropout.attention if dropout else 0.0
    context, attention = run.ops.attention_forward(q, k, v, heads, bias, keep, p)
    projected, linear["attention_output"] = run.linear(names["attention_output"], context)
    drop_1 = run.keep_rows(f"{prefix}.attention.output")
    x, norm_1 = run.norm(f"{prefix}.attention.output.LayerNorm", x + run.drop(projected, drop_1))

    wide, linear["intermediate"] = run.linear(names["intermediate"], x)
    active, gelu = run.ops.gelu_forward(wide)
    narrow, linear["output"] = run.linear(names["output"], active)
    drop_2 = run.keep_rows(f"{prefix}.output")
    x, norm_2 = run.norm(f"{prefix}.output.LayerNorm", x + run.drop(narrow, drop_2))
    return x, LayerCache(linear, attention, gelu, (norm_1, norm_2), (drop_1, drop_2))


def _layer_backward(run: _Run, dx: Array, cache: LayerCache, grads: _Gradients, *, below: bool) -> Array:
    """Gradient at the block's input; where nothing below is wanted, the frozen paths to it are not computed."""
    linear, attention, gelu, (norm_1, norm_2), (drop_1, drop_2) = cache
    dx = grads.norm(dx, norm_2)
    dnarrow = run.drop(dx, drop_2)  # term 1: the feed-forward branch; dx itself is the residual's
    dwide = run.ops.gelu_backward(grads.linear(dnarrow, linear["output"]), gelu)
    dx = dx + grads.linear(dwide, linear["intermediate"])

    dx = grads.norm(dx, norm_1)
    dcontext = grads.linear(run.drop(dx, drop_1), linear["attention_output"])  # term 2: the attention branch
    dq, dk, dv = run.ops.attention_backward(dcontext, attention)
    for dy, kind in ((dq, "query"), (dk, "key"), (dv, "value")):
        through = grads.linear(dy, linear[kind], dx=below)
        dx = dx + through if below else dx
    return dx
