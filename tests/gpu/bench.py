"""A training step on a GPU beside PyTorch's, eager: the same model, the same numbers, the same precision.

`rows` prints one JSON object a line: {name, value, target, met}; `device` says which GPU it is.  Weights are random, in
the shapes of MiniLM-L6 and BERT-base.  The two take turns; a time is the median of ROUNDS turns of STEPS steps each.
Memory is what each library's pool has taken from the device at its peak.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sora_ref import ADAMW_XI, AdamW, Rates, Recipe, initial_state, kernels, training_step
from sora_ref.backends import Backend, get
from sora_ref.models import (
    MODEL_SPEC,
    Batch,
    Classifier,
    ModelOps,
    classifier_backward,
    classifier_forward,
    cross_entropy,
)
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig

MODELS = {
    "MiniLM-L6": EncoderConfig(30522, 384, 6, 12, 1536, 512, 2),
    "BERT-base": EncoderConfig(30522, 768, 12, 12, 3072, 512, 2),
}
BATCHES = ((32, 128), (128, 128))
PRECISIONS = ("fp32", "tf32", "bf16")
RANK, SCALE, LR, XI, CLIP = 8, 2.0, 1e-3, 1e-4, 1.0
ROUNDS, STEPS = 9, 3
Params = dict[str, Any]


def make_params(model: Classifier) -> tuple[Params, list[str]]:
    """Random parameters on the host, float32, and the names of those that are trained."""
    rng = np.random.default_rng(0)
    shapes, trained = {**BERT.shapes(model.config), **model.head_shapes}, ["classifier.weight", "classifier.bias"]
    for module in BERT.modules(model.config):
        out, in_ = shapes[f"{module}.weight"]
        shapes |= {f"{module}.sora_A": (RANK, in_), f"{module}.sora_g": (RANK,), f"{module}.sora_B": (out, RANK)}
        trained += [f"{module}.sora_{part}" for part in "AgB"]
    params = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    params |= {name: value + 1 for name, value in params.items() if name.endswith(("LayerNorm.weight", "sora_g"))}
    return params, trained


def make_batch(model: Classifier, b: int, t: int) -> tuple[Batch, np.ndarray]:
    """Full sequences, on the host."""
    rng = np.random.default_rng(1)
    ids, labels = rng.integers(0, model.config.vocab_size, (b, t)), rng.integers(0, 2, b)
    return Batch(ids, np.zeros((b, t), np.int64), np.ones((b, t), bool)), labels


def our_step(model: Classifier, backend: Backend, ops: ModelOps, params: Params, trained: list[str], given: Any) -> Any:
    """A function that makes one training step, and one that gives the gradients of the parameters it starts from."""
    batch, labels = Batch(*(backend.from_host(x) for x in given[0])), backend.from_host(given[1])
    state = initial_state({name: params[name] for name in trained})
    scales = dict.fromkeys(BERT.modules(model.config), SCALE)
    recipe = Recipe(optimiser=AdamW(), gate_rule=ADAMW_XI, clip=CLIP, clip_eps=1e-6)

    def gradients() -> Params:
        logits, cache = classifier_forward(model, {**params, **state.params}, batch, scales=scales, ops=ops)
        _, dlogits = cross_entropy(logits, labels)
        mean: Params = ops.combine_microbatches([classifier_backward(dlogits, cache, trained)], labels.shape[0])
        return mean

    def step() -> None:
        nonlocal state
        state, _ = training_step(state, gradients(), Rates(LR, LR, XI), recipe, ops)

    return step, gradients


def torch_step(
    model: Classifier, params: Params, trained: list[str], given: Any, precision: str, where: str = "cuda"
) -> Any:
    """The same step in PyTorch, eager, and its gradients; parameters come over as NumPy arrays."""
    import torch
    from torch.nn import functional

    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    P = {name: torch.tensor(value, device=where) for name, value in params.items()}
    for name in trained:
        P[name].requires_grad_()
    ids, types, mask = (torch.tensor(x, device=where) for x in given[0])
    labels, heads = torch.tensor(given[1], device=where), model.config.num_attention_heads
    leaves = [P[name] for name in trained]
    gates = [P[name] for name in trained if name.endswith("sora_g")]
    optimiser = torch.optim.AdamW(leaves, lr=LR, weight_decay=0.0)

    def linear(module: str, x: Any) -> Any:
        y = functional.linear(x, P[f"{module}.weight"], P[f"{module}.bias"])
        z = functional.linear(x, P[f"{module}.sora_A"]) * P[f"{module}.sora_g"]
        return y + SCALE * functional.linear(z, P[f"{module}.sora_B"])

    def norm(module: str, x: Any) -> Any:
        weight, bias = P[f"{module}.weight"], P[f"{module}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, model.config.layer_norm_eps)

    def block(prefix: str, x: Any) -> Any:
        q, k, v = (
            linear(f"{prefix}.attention.self.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        projected = linear(f"{prefix}.attention.output.dense", context.transpose(1, 2).flatten(-2))
        x = norm(f"{prefix}.attention.output.LayerNorm", x + projected)
        narrow = linear(f"{prefix}.output.dense", functional.gelu(linear(f"{prefix}.intermediate.dense", x)))
        return norm(f"{prefix}.output.LayerNorm", x + narrow)

    def loss() -> Any:
        table = "embeddings.{}_embeddings.weight"
        x = P[table.format("word")][ids] + P[table.format("position")][: ids.shape[1]]
        x = norm("embeddings.LayerNorm", x + P[table.format("token_type")][types])
        for layer in range(model.config.num_hidden_layers):
            x = block(f"encoder.layer.{layer}", x)
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.cross_entropy(functional.linear(pooled, P["classifier.weight"], P["classifier.bias"]), labels)

    def backward() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(where, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()

    def gradients() -> Params:
        backward()
        return {name: P[name].grad.cpu().numpy() for name in trained}

    def step() -> None:
        backward()
        torch.nn.utils.clip_grad_norm_(leaves, CLIP)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_sub_(gates, torch._foreach_clamp_max(torch._foreach_clamp_min(gates, -XI), XI))

    return step, gradients


def timed(step: Callable[[], None], wait: Callable[[], None]) -> float:
    """Seconds of one step."""
    wait()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    wait()
    return (time.perf_counter() - began) / STEPS


def launching(step: Callable[[], None], wait: Callable[[], None]) -> float:
    """Seconds in which the host launches one step: the device is idle at first, and its queue holds all of the step."""
    wait()
    began = time.perf_counter()
    step()
    launched = time.perf_counter() - began
    wait()
    return launched


def distance(found: Params, exact: Params) -> float:
    """The largest error of a gradient, in units of its tensor's largest entry."""
    return max(float(np.max(np.abs(found[k] - g)) / max(np.max(np.abs(g)), 1e-30)) for k, g in exact.items())


def row(name: str, value: float, target: float | None = None) -> dict[str, Any]:
    """A line of the result; met where the value is at most the target, None where there is none."""
    return {"name": name, "value": value, "target": target, "met": None if target is None else value <= target}


def compare(title: str, config: EncoderConfig, b: int, t: int, precision: str) -> Iterator[dict[str, Any]]:
    """The rows of one model, batch and precision."""
    import cupy
    import torch

    backend, model, pool = get("cupy"), Classifier(BERT, config, "mean", 2), cupy.get_default_memory_pool()
    host, trained = make_params(model)
    given = make_batch(model, b, t)
    name = f"{title} {b}x{t} {precision}"
    if b == BATCHES[0][0]:
        wide = {key: backend.from_host(value.astype(np.float64)) for key, value in host.items()}
        exact = our_step(model, backend, MODEL_SPEC, wide, trained, given)[1]  # and no other reference to its arrays
        right = {key: cupy.asnumpy(value) for key, value in exact().items()}
        del wide, exact
    pool.free_all_blocks()
    params = {key: backend.from_host(value) for key, value in host.items()}
    faster = kernels.get("cupy")
    ops = MODEL_SPEC.replace(**faster.training)
    if precision != "fp32":
        ops = ops.replace(**faster.precisions[precision](params[key] for key in host if key not in trained))
    step, gradients = our_step(model, backend, ops, params, trained, given)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    peer, peers = torch_step(model, host, trained, given, precision)
    if b == BATCHES[0][0]:
        own, others = ({k: cupy.asnumpy(g) for k, g in gradients().items()}, peers())
        yield row(f"{name}: gradients, error over PyTorch's", distance(own, right) / distance(others, right))
        yield row(f"{name}: gradients, largest error in units of the tensor's largest", distance(own, right))
    waits = cupy.cuda.Device().synchronize, torch.cuda.synchronize
    for _ in range(2):
        timed(step, waits[0])
        timed(peer, waits[1])
    times = [(timed(step, waits[0]), timed(peer, waits[1])) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    yield row(f"{name}: ms", 1e3 * ours)
    launched = statistics.median(launching(step, waits[0]) for _ in range(ROUNDS))
    yield row(f"{name}: launching over the step's time", launched / ours)
    yield row(f"{name}: PyTorch ms", 1e3 * theirs)
    yield row(f"{name}: time over PyTorch's", ours / theirs, 1.0)
    peak = int(torch.cuda.max_memory_reserved())
    yield row(f"{name}: MiB", pool.total_bytes() / 2**20)
    yield row(f"{name}: PyTorch MiB", peak / 2**20)
    yield row(f"{name}: memory over PyTorch's", pool.total_bytes() / peak, 1.0)


def device() -> dict[str, Any]:
    """The GPU, its driver and its libraries."""
    import cupy

    facts = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "name": facts["name"].decode(),
        "compute_capability": f"{facts['major']}.{facts['minor']}",
        "memory_mib": facts["totalGlobalMem"] // 2**20,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
    }


def main(what: str) -> None:
    """Print what is asked for."""
    if what == "device":
        print(json.dumps(device()))
        return
    for title, config in MODELS.items():
        for b, t in BATCHES:
            for precision in PRECISIONS:
                for line in compare(title, config, b, t, precision):
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
