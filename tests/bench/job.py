"""What is measured: a model, a batch and a kind of work, made alike in every process from the same few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sora_ref.models import load_model
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.run.base_model import model_folder
from sora_ref.run.config import Config, load_config
from sora_ref.run.tasks import read_task
from sora_ref.run.text import Encoded, encode, epoch_batches
from sora_ref.run.tokens import load_tokenizer

Arrays = dict[str, npt.NDArray[Any]]
Side = Literal["ours", "before", "torch", "compile", "peft"]
SCALE = 2.0  # α/r_max of every adapter
LEARNING_RATE, THRESHOLD, CLIP = 1e-4, 1e-5, 1.0


@dataclass(frozen=True)
class Job:
    """One measured piece of work.

    side:    "ours"; "before", the build of before the compiled kernels (`sides`); "torch", PyTorch eager; "compile",
             the same under torch.compile; "peft", transformers' BertModel under PEFT's LoRA.
    what:    "train" is a whole optimiser step, "infer" a forward pass that keeps nothing.
    batch, length: sequences, and tokens of each; 0 for the real lengths of movie-review snippets.
    batches: how many of them one run goes through.
    order:   of real lengths: "random" batches, or "buckets" of like length, as `sora-ref train` makes them.
    rank:    of all adapters; 0 for none.
    gated:   whether the gates are trained, as in SoRA, or stay at 1, as in LoRA.
    merged:  whether the adapters are merged into the weights, before the clock starts.
    closed:  the share of gates that are zero.
    workers: threads.
    keep_memory: whether the process is told to keep freed memory, as ours always is.
    fold:    ours alone: whether the adapters are folded into the weights for each step.
    kernels: ours alone: a set of `sora_ref.kernels`; "backend" is the one that is taken by default.
    tokens:  ours alone: the token budget of a microbatch.
    """

    side: Side = "ours"
    what: Literal["train", "infer"] = "train"
    batch: int = 32
    length: int = 128
    batches: int = 1
    order: Literal["random", "buckets"] = "random"
    rank: int = 8
    gated: bool = True
    merged: bool = False
    closed: float = 0.0
    workers: int = 2
    keep_memory: bool = False
    fold: bool = True
    kernels: Literal["backend", "numba", "numpy", "reference"] = "backend"
    tokens: int = 512

    def on(self, side: Side) -> Job:
        """The same work on another side."""
        return replace(self, side=side)


@dataclass(frozen=True)
class Material:
    """All arrays of a job: the encoder, the adapters, the head; sequences with labels, and how they form batches."""

    config: EncoderConfig
    params: Arrays
    scales: Mapping[str, float]
    trained: tuple[str, ...]
    data: Encoded
    batches: tuple[npt.NDArray[Any], ...]


def material(job: Job) -> Material:
    """The arrays of a job: MiniLM's weights, adapters as far into training that nothing is zero by chance."""
    _, config, weights = load_model(model_folder("minilm"))
    assert isinstance(config, EncoderConfig)
    draws = np.random.default_rng(0)
    params, scales = dict(weights), {}
    for module in BERT.modules(config) if job.rank else ():
        out, in_ = weights[f"{module}.weight"].shape
        gate = np.ones(job.rank, np.float32)
        gate[: round(job.closed * job.rank)] = 0
        params[f"{module}.sora_A"] = _normal(draws, (job.rank, in_), in_**-0.5)
        params[f"{module}.sora_g"] = draws.permutation(gate)
        params[f"{module}.sora_B"] = _normal(draws, (out, job.rank), 0.02)
        scales[module] = SCALE
    params["classifier.weight"] = _normal(draws, (2, config.hidden_size), 0.05)
    params["classifier.bias"] = np.zeros(2, np.float32)
    trained = tuple(
        name
        for name in params
        if name.startswith("classifier") or (".sora_" in name and (job.gated or not name.endswith("g")))
    )
    data = _movies() if job.length == 0 else _random(job, config.vocab_size)
    return Material(config, params, scales, trained, data, _batches(job, data))


def gemm_flops(job: Job) -> float:
    """Floating-point operations of the encoder's matrix products in one run, padding left out."""
    m = material(job)
    rank = 0 if job.merged else job.rank
    lengths = [length for rows in m.batches for length in m.data.lengths[rows].tolist()]
    return encoder_flops(m.config, lengths, rank, training=job.what == "train")


def encoder_flops(config: EncoderConfig, lengths: Sequence[int], rank: int, *, training: bool) -> float:
    """Operations of sequences of these lengths, with adapters of this rank on every linear layer.

    A dense map of n tokens costs 2·n·in·out, and as much for the gradient of its input, which the lowest block's query,
    key and value are spared; the branch n·r·(in + out)·2 forward, and backward as much for dA and dB, for dy B, and
    for dx.  Attention costs 4·t²·d a sequence and block forward, and twice that backward.
    """
    tokens, squares = float(sum(lengths)), float(sum(length**2 for length in lengths))
    shapes, total = BERT.shapes(config), 0.0
    for module in BERT.modules(config):
        out, in_ = shapes[f"{module}.weight"]
        lowest = module.startswith("encoder.layer.0.attention.self.")
        total += 2 * tokens * in_ * out * (1 + (training and not lowest))
        total += 2 * tokens * rank * (in_ + out)
        if training:  # dB and dy B; dA and, but for the lowest, dx
            total += 2 * tokens * rank * (2 * out + (1 if lowest else 2) * in_)
    return total + 4 * squares * config.hidden_size * config.num_hidden_layers * (3 if training else 1)


def demo_configuration() -> Config:
    """That of `make demo`'s SoRA run."""
    from sora_ref.run.demo import demo_config

    return load_config(None, demo_config(quick=False, seed=0, backend="numpy"))


def _normal(draws: np.random.Generator, shape: tuple[int, ...], scale: float) -> npt.NDArray[Any]:
    return (draws.standard_normal(shape) * scale).astype(np.float32)


def _random(job: Job, vocabulary: int) -> Encoded:
    draws, n = np.random.default_rng(1), job.batch * job.batches
    ids = draws.integers(1000, vocabulary, (n, job.length))
    return Encoded(tuple(ids), tuple(np.zeros_like(ids)), np.full(n, job.length), draws.integers(0, 2, n))


@cache
def _movies() -> Encoded:
    """The training split of the movie reviews, as `make demo` tokenises it."""
    config = demo_configuration()
    folder = model_folder("minilm")
    examples = read_task(config).splits["train"]
    return encode(examples, load_tokenizer(folder, config.model.max_length), load_model(folder).config)


def _batches(job: Job, data: Encoded) -> tuple[npt.NDArray[Any], ...]:
    if job.length:
        return tuple(np.arange(k * job.batch, (k + 1) * job.batch) for k in range(job.batches))
    buckets = 1 if job.order == "random" else load_config(None, {}).train.bucket_batches
    return tuple(epoch_batches(data.lengths, job.batch, buckets, 0, 0)[: job.batches])
