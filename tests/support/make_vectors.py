"""Makes tests/vectors with torch and transformers: models with SoRA adapters, by their autograd, in float64.

    python tests/support/make_vectors.py       the tiny networks, and each real one that `sora-ref fetch` has cached

Nothing of sora_ref takes part in the numbers.  Weights of the tiny network are stored; adapters, heads and
projections of the real ones come from `hashed`, which is integer arithmetic and so the same everywhere.  The tests and
the live oracles use this file too; its NumPy half needs no torch.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Named = Mapping[str, Floats]

VECTORS = Path(__file__).parent.parent / "vectors"
COMMAND = "python tests/support/make_vectors.py"
VERSION = 1
SUFFIXES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
RANK, SCALE = 3, 1.5
PROJECTIONS = 2
RUNS = {"cls": 3, "mean": 1}  # head -> outputs; cross-entropy where there are several, else squared error
REAL = {"minilm": 4, "bert-tiny": 4}  # name in the cache -> adapter rank


def hashed(name: str, shape: Sequence[int]) -> Floats:
    """Numbers in [−1, 1), k/2⁵² − 1 with k from SplitMix64 keyed by the name: the same on every machine."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    numbers: Floats = (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1
    return numbers.reshape(tuple(shape))


def fingerprint(name: str, grad: Floats) -> Floats:
    """(norm, projections on unit vectors): each moves by at most the norm of the change of `grad`."""
    flat = grad.astype(np.float64).ravel()
    out = [float(np.linalg.norm(flat))]
    for k in range(PROJECTIONS):
        direction = hashed(f"{name}/{k}", flat.shape)
        out.append(float(flat @ direction / np.linalg.norm(direction)))
    return np.array(out)


def adapters(shapes: Mapping[str, Sequence[int]], rank: int) -> dict[str, Floats]:
    """A, g, B for every module; one gate of each is zero.  Float32 numbers, so that every dtype has the same."""
    params = {}
    for module, (out, in_) in shapes.items():
        params[f"{module}.sora_A"] = 0.2 * hashed(f"{module}.A", (rank, in_))
        params[f"{module}.sora_g"] = hashed(f"{module}.g", (rank,))
        params[f"{module}.sora_g"][1] = 0
        params[f"{module}.sora_B"] = 0.2 * hashed(f"{module}.B", (out, rank))
    return {name: p.astype(np.float32) for name, p in params.items()}


def head_weights(head: str, d: int, outputs: int) -> dict[str, Floats]:
    params = {"classifier.weight": hashed(f"{head}.weight", (outputs, d)), "classifier.bias": np.full(outputs, 0.25)}
    if head == "cls":
        params["pooler.dense.weight"] = 2 / d**0.5 * hashed("pooler", (d, d))
        params["pooler.dense.bias"] = 0.1 * hashed("pooler.bias", (d,))
    return {name: p.astype(np.float32) for name, p in params.items()}


def batch(vocab: int, lengths: Sequence[int], *, name: str = "batch") -> dict[str, Floats]:
    """Ids, types, mask and, by outputs, labels."""
    shape = len(lengths), max(lengths)
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = np.floor((hashed(f"{name}.ids", shape) + 1) / 2 * vocab).astype(np.int64)
    types = (np.arange(shape[1]) >= np.array(lengths)[:, None] // 2).astype(np.int64) * mask
    return {
        "ids": ids,
        "types": types,
        "mask": mask,
        "labels.cls": np.arange(shape[0]) % RUNS["cls"],
        "labels.mean": hashed(f"{name}.targets", (shape[0],)),
    }


# --- the torch half


def torch_bert(config: Mapping[str, Any], params: Named) -> Any:
    """transformers' BertModel with these weights in float64; the pooler where they have one."""
    import torch
    from transformers import BertConfig, BertModel

    # No padding_idx: with one, torch would drop the gradient of the table's row 0, which is a rule of training.
    known = BertConfig(**config, hidden_act="gelu", attn_implementation="eager", pad_token_id=None)
    bert = BertModel(known, add_pooling_layer="pooler.dense.weight" in params).double().eval()
    names = {name for name, _ in bert.named_parameters()}
    state = {name: torch.tensor(p, dtype=torch.float64) for name, p in params.items() if name in names}
    assert names == set(state)
    bert.load_state_dict(state, strict=False)
    return bert


def torch_results(
    config: Mapping[str, Any], params: Named, scales: Mapping[str, float], given: Named, head: str, labels: Floats
) -> dict[str, Floats]:
    """Hidden states, logits, summed loss and the gradient of every parameter, by transformers and autograd.

    Adapters are hooks on transformers' own linear layers, written as one expression that autograd differentiates.
    """
    import torch

    bert = torch_bert(config, params)
    leaves = dict(bert.named_parameters())
    for name, p in params.items():
        if name not in leaves:
            leaves[name] = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    for module, layer in bert.named_modules():
        if f"{module}.sora_A" in params:
            layer.register_forward_hook(torch_branch(leaves, module, scales[module]))

    F = torch.nn.functional
    ids, types, mask = (torch.tensor(given[part]) for part in ("ids", "types", "mask"))
    hidden = bert(input_ids=ids, token_type_ids=types, attention_mask=mask.long()).last_hidden_state
    if head == "cls":
        pooled = bert.pooler(hidden)
    else:
        weights = mask.double().unsqueeze(-1)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    logits = F.linear(pooled, leaves["classifier.weight"], leaves["classifier.bias"])
    if logits.shape[1] > 1:
        loss = F.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    else:
        loss = F.mse_loss(logits.squeeze(1), torch.tensor(labels, dtype=torch.float64), reduction="sum")
    loss.backward()
    grads = {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    out = {"hidden": hidden, "logits": logits, "loss": loss}
    return {**{name: value.detach().numpy() for name, value in out.items()}, **grads}


def torch_branch(leaves: Mapping[str, Any], module: str, s: float) -> Any:
    import torch

    def hook(layer: Any, args: Any, out: Any) -> Any:
        A, g, B = (leaves[f"{module}.sora_{part}"] for part in "AgB")
        return out + s * torch.einsum("...i,ri,r,or->...o", args[0], A, g, B)

    return hook


def modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every adapted linear layer."""
    d, f = config["hidden_size"], config["intermediate_size"]
    shapes = {"intermediate.dense": (f, d), "output.dense": (d, f)}
    return {
        f"encoder.layer.{layer}.{suffix}": shapes.get(suffix, (d, d))
        for layer in range(config["num_hidden_layers"])
        for suffix in SUFFIXES
    }


def tiny_params() -> dict[str, Floats]:
    """The tiny network's base weights, with LayerNorms about 1."""
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(**TINY), add_pooling_layer=False)
    params = {name: 0.4 * hashed(name, tuple(p.shape)) for name, p in bert.named_parameters()}
    return {name: (p + name.endswith("LayerNorm.weight")).astype(np.float32) for name, p in params.items()}


def make_tiny() -> None:
    from safetensors.numpy import save_file

    given = batch(TINY["vocab_size"], (7, 4, 1), name="tiny")
    base = {**tiny_params(), **adapters(modules(TINY), RANK)}
    out = {**{f"params/{name}": p for name, p in base.items()}, **{f"batch/{name}": v for name, v in given.items()}}
    for head, outputs in RUNS.items():
        own = head_weights(head, TINY["hidden_size"], outputs)
        out |= {f"params.{head}/{name}": p for name, p in own.items()}
        scales = dict.fromkeys(modules(TINY), SCALE)
        results = torch_results(TINY, {**base, **own}, scales, given, head, given[f"labels.{head}"])
        out |= {f"{head}/{name}": np.array(value, order="C") for name, value in results.items()}
    save_file(out, VECTORS / "tiny.safetensors")


def real_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """config.json and the encoder's weights under BertModel's names, read without sora_ref; no pooler."""
    from safetensors.numpy import load_file

    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {key: raw[key] for key in TINY}
    params = {}
    for name, array in load_file(folder / "model.safetensors").items():
        plain = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        params[plain.replace("LayerNorm.beta", "LayerNorm.bias")] = array
    kept = {name: p for name, p in params.items() if name.startswith(("embeddings.", "encoder."))}
    return config, {name: p for name, p in kept.items() if not name.endswith("position_ids")}


def reduced(results: Named) -> dict[str, Floats]:
    """Logits and loss as they are, states and gradients as fingerprints; the largest table is left out."""
    kept = {name: value for name, value in results.items() if "word_embeddings" not in name}
    return {name: v if name in ("logits", "loss") else fingerprint(name, v) for name, v in kept.items()}


def make_real(key: str, folder: Path) -> None:
    from safetensors.numpy import save_file

    config, base = real_weights(folder)
    given = batch(config["vocab_size"], (12, 5, 9), name=key)
    scales = dict.fromkeys(modules(config), SCALE)
    out: dict[str, Floats] = {}
    for head, outputs in RUNS.items():
        params = {**base, **adapters(modules(config), REAL[key]), **head_weights(head, config["hidden_size"], outputs)}
        results = reduced(torch_results(config, params, scales, given, head, given[f"labels.{head}"]))
        out |= {f"{head}/{name}": np.array(value, order="C") for name, value in results.items()}
    save_file(out, VECTORS / f"{key}.safetensors")


def make_kin(kind: str) -> None:
    """A tiny model of another architecture: its weights, adapters and heads, the batch, and all results."""
    from safetensors.numpy import save_file
    from torch_models import PEERS, inputs, torch_results

    peer, out = PEERS[kind], dict[str, Floats]()
    scales = dict.fromkeys(peer.modules(peer.sizes), SCALE)
    for head, outputs in RUNS.items():
        params, given = inputs(kind, peer.sizes, (7, 4, 1), head, outputs, RANK)
        own = peer.head_shapes(peer.sizes, head, outputs)
        out |= {f"params.{head}/{name}" if name in own else f"params/{name}": p for name, p in params.items()}
        out |= {f"batch/{name}": value for name, value in given.items()}
        results = torch_results(kind, peer.sizes, params, scales, given, head)
        out |= {f"{head}/{name}": np.array(value, order="C") for name, value in results.items()}
    save_file(out, VECTORS / f"tiny-{kind}.safetensors")


def main() -> None:
    import torch
    import transformers
    from torch_models import PEERS

    from sora_ref.run.artefacts import is_cached
    from sora_ref.storage.place import cache_dir

    VECTORS.mkdir(exist_ok=True)
    make_tiny()
    for kind in PEERS:
        make_kin(kind)
    for key in REAL:
        if is_cached(key):
            make_real(key, cache_dir() / key)
    about = {
        "version": VERSION,
        "command": COMMAND,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "files": sorted(path.name for path in VECTORS.glob("*.safetensors")),
    }
    (VECTORS / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
