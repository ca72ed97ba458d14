"""transformers' own models with SoRA adapters, in float64, by autograd: what BERT's kin are held against.

Nothing of sora_ref takes part.  Names of parameters are ours: a bare model's, with transformers' for the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from make_vectors import Floats, Named, torch_branch


@dataclass(frozen=True)
class Peer:
    """A model of transformers.

    sizes:   of the tiny one, under the names of its config.json.  more: what else its config.json says.
    layers:  where its layers stand.  suffixes: their linear layers; wide_in, wide_out: those between d and f.
    outside: the head's modules beside the bare model.  norms: ends of the names of modules that normalise.
    """

    name: str
    prefix: str
    layers: str
    suffixes: Sequence[str]
    wide: tuple[str, str]
    norms: tuple[str, ...]
    outside: Mapping[str, bool]  # module -> whether it is the last, of so many outputs
    sizes: Mapping[str, int]
    keys: Mapping[str, str]  # d, f, layers, types -> key of config.json
    more: Mapping[str, Any] = field(default_factory=dict)
    bare: Mapping[str, Any] = field(default_factory=dict)
    pad: int | None = None

    def config(self, sizes: Mapping[str, Any], outputs: int = 2) -> Any:
        import transformers

        made = getattr(transformers, f"{self.name}Config")(**sizes, **self.more, num_labels=outputs)
        made._attn_implementation = "eager"
        return made

    def model(self, sizes: Mapping[str, Any], head: str, outputs: int = 2) -> Any:
        """In float64, and without a row of the embeddings whose gradient torch would drop."""
        import torch
        import transformers

        torch.manual_seed(0)
        config = self.config(sizes, outputs)
        if head == "cls":
            model = getattr(transformers, f"{self.name}ForSequenceClassification")(config)
        else:
            model = getattr(transformers, f"{self.name}Model")(config, **self.bare)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.padding_idx = None
        return model.double().eval()

    def full(self, name: str, head: str) -> str:
        outside = name.startswith(tuple(f"{module}." for module in self.outside))
        return name if head != "cls" or outside else self.prefix + name

    def modules(self, sizes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """(out, in) of every adapted linear layer."""
        d, f = sizes[self.keys["d"]], sizes[self.keys["f"]]
        shapes = {self.wide[0]: (f, d), self.wide[1]: (d, f)}
        return {
            f"{self.layers}.{layer}.{suffix}": shapes.get(suffix, (d, d))
            for layer in range(sizes[self.keys["layers"]])
            for suffix in self.suffixes
        }

    def head_shapes(self, sizes: Mapping[str, Any], head: str, outputs: int) -> dict[str, tuple[int, ...]]:
        d = sizes[self.keys["d"]]
        outside = self.outside if head == "cls" else {"classifier": True}
        shapes: dict[str, tuple[int, ...]] = {}
        for module, last in outside.items():
            out = outputs if last else d
            shapes |= {f"{module}.weight": (out, d), f"{module}.bias": (out,)}
        return shapes


_AS_BERT = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
PEERS = {
    "roberta": Peer(
        name="Roberta",
        prefix="roberta.",
        layers="encoder.layer",
        suffixes=_AS_BERT,
        wide=("intermediate.dense", "output.dense"),
        norms=("LayerNorm",),
        outside={"classifier.dense": False, "classifier.out_proj": True},
        sizes={
            "vocab_size": 24,
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "max_position_embeddings": 11,
            "type_vocab_size": 1,
        },
        keys={
            "d": "hidden_size",
            "f": "intermediate_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
        },
        more={"hidden_act": "gelu", "layer_norm_eps": 1e-5, "pad_token_id": 1},
        bare={"add_pooling_layer": False},
        pad=1,
    ),
    "distilbert": Peer(
        name="DistilBert",
        prefix="distilbert.",
        layers="transformer.layer",
        suffixes=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
        wide=("ffn.lin1", "ffn.lin2"),
        norms=("LayerNorm", "layer_norm"),
        outside={"pre_classifier": False, "classifier": True},
        sizes={"vocab_size": 24, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 9},
        keys={"d": "dim", "f": "hidden_dim", "layers": "n_layers", "heads": "n_heads"},
        more={"activation": "gelu", "seq_classif_dropout": 0.0},
    ),
}


def torch_results(
    kind: str, sizes: Mapping[str, Any], params: Named, scales: Mapping[str, float], given: Named, head: str
) -> dict[str, Floats]:
    """Hidden states, logits, summed loss and the gradient of every parameter; a `cls` head is transformers' own."""
    import torch

    F, peer = torch.nn.functional, PEERS[kind]
    outputs = next(params[name].shape[0] for name in reversed(list(params)) if name.endswith(".bias"))
    model = peer.model(sizes, head, outputs)
    names = {peer.full(name, head): name for name in params}
    state = {full: torch.tensor(params[name], dtype=torch.float64) for full, name in names.items()}
    own = {full for full, _ in model.named_parameters()}
    assert own <= state.keys()
    model.load_state_dict({full: value for full, value in state.items() if full in own}, strict=False)
    leaves = {names[full]: leaf for full, leaf in model.named_parameters()}
    for name, p in params.items():
        if name not in leaves:
            leaves[name] = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    bare = model.base_model
    for module, layer in bare.named_modules():
        if f"{module}.sora_A" in params:
            layer.register_forward_hook(torch_branch(leaves, module, scales[module]))

    ids, mask = torch.tensor(given["ids"]), torch.tensor(given["mask"])
    hidden = bare(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    if head == "cls":
        logits = model(input_ids=ids, attention_mask=mask.long()).logits
    else:
        weights = mask.double().unsqueeze(-1)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        logits = F.linear(pooled, leaves["classifier.weight"], leaves["classifier.bias"])
    labels = given[f"labels.{head}"]
    if logits.shape[1] > 1:
        loss = F.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    else:
        loss = F.mse_loss(logits.squeeze(1), torch.tensor(labels, dtype=torch.float64), reduction="sum")
    loss.backward()
    grads = {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    out = {"hidden": hidden, "logits": logits, "loss": loss}
    return {**{name: value.detach().numpy() for name, value in out.items()}, **grads}


def inputs(
    kind: str, sizes: Mapping[str, Any], lengths: Sequence[int], head: str, outputs: int, rank: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Parameters and a batch from `hashed` numbers: the same everywhere."""
    from make_vectors import adapters, batch, hashed

    peer = PEERS[kind]
    shapes = {name: tuple(p.shape) for name, p in peer.model(sizes, "mean").named_parameters()}
    base = {name: 0.4 * hashed(name, shape) for name, shape in shapes.items()}
    ends = tuple(f"{norm}.weight" for norm in peer.norms)
    base = {name: (p + name.endswith(ends)).astype(np.float32) for name, p in base.items()}
    d = sizes[peer.keys["d"]]
    heads = {
        name: ((2 / d**0.5 if name.endswith("weight") else 0.1) * hashed(f"{head}.{name}", shape)).astype(np.float32)
        for name, shape in peer.head_shapes(sizes, head, outputs).items()
    }
    given = batch(sizes["vocab_size"], lengths, name=f"{kind}-{d}")
    given["types"] = np.zeros_like(given["types"])
    if peer.pad is not None:
        given["ids"] = np.where(given["mask"], given["ids"], peer.pad)
        given["ids"][0, max(lengths[0] // 2, 1) :][:1] = peer.pad  # a padding token in a text, but not the first one
    return {**base, **adapters(peer.modules(sizes), rank), **heads}, given
