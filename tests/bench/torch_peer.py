"""The same work in PyTorch: the functions a good implementation calls, and nothing it could do without.

The frozen weights ask for no gradient, attention is the library's own, AdamW its fused one, and the mask is left out
where there is no padding.  It runs eagerly, or under torch.compile; or it is transformers' model with PEFT's adapters.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own habit)
from job import CLIP, LEARNING_RATE, SCALE, THRESHOLD, Job, Material, demo_configuration, material
from torch import Tensor

from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.run.data import Labels
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import make_setup
from sora_ref.run.tasks import read_task
from sora_ref.run.text import Encoded, encode, epoch_batches


class Network:
    """BERT with SoRA and a head on the mean of the tokens, from a mapping of names to arrays."""

    def __init__(self, config: EncoderConfig, params: Mapping[str, Any], scales: Mapping[str, float]) -> None:
        self.config, self.scales = config, scales
        self.p = {name: torch.from_numpy(np.array(value)) for name, value in params.items()}

    def linear(self, module: str, x: Tensor) -> Tensor:
        p = self.p
        y = F.linear(x, p[f"{module}.weight"], p[f"{module}.bias"])
        if module not in self.scales:
            return y
        u = F.linear(x, p[f"{module}.sora_A"]) * (self.scales[module] * p[f"{module}.sora_g"])
        return y + F.linear(u, p[f"{module}.sora_B"])

    def norm(self, module: str, x: Tensor) -> Tensor:
        weight, bias = self.p[f"{module}.weight"], self.p[f"{module}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.config.layer_norm_eps)

    def __call__(self, ids: Tensor, types: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (b, 2); mask (b, t) is None where there is no padding."""
        p, (b, t) = self.p, ids.shape
        d, heads = self.config.hidden_size, self.config.num_attention_heads
        x = F.embedding(ids, p["embeddings.word_embeddings.weight"])
        x = x + p["embeddings.position_embeddings.weight"][:t]
        x = self.norm("embeddings.LayerNorm", x + F.embedding(types, p["embeddings.token_type_embeddings.weight"]))
        seen = None if mask is None else mask[:, None, None, :]
        for layer in range(self.config.num_hidden_layers):
            prefix = f"encoder.layer.{layer}"
            module = {kind: f"{prefix}.{suffix}" for kind, suffix in BERT.kinds.items()}
            q, k, v = (
                self.linear(module[kind], x).view(b, t, heads, d // heads).transpose(1, 2)
                for kind in ("query", "key", "value")
            )
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(b, t, d)
            x = self.norm(f"{prefix}.attention.output.LayerNorm", x + self.linear(module["attention_output"], context))
            wide = F.gelu(self.linear(module["intermediate"], x))
            x = self.norm(f"{prefix}.output.LayerNorm", x + self.linear(module["output"], wide))
        return F.linear(pooled(x, mask), p["classifier.weight"], p["classifier.bias"])


def pooled(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the tokens' states."""
    if mask is None:
        return x.mean(dim=1)
    weights = mask.to(x.dtype)
    return torch.bmm((weights / weights.sum(1, keepdim=True))[:, None], x)[:, 0]


def padded(data: Encoded, rows: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rows as one batch, padded to its longest."""
    longest = int(data.lengths[rows].max())
    ids, types = np.zeros((2, len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids[place, : data.lengths[row]], types[place, : data.lengths[row]] = data.ids[row], data.types[row]
    mask = np.arange(longest) < data.lengths[rows][:, None]
    return torch.from_numpy(ids), torch.from_numpy(types), None if mask.all() else torch.from_numpy(mask)


class Torch:
    """A job, ready to run."""

    def __init__(self, job: Job) -> None:
        self.job, self.m = job, material(job)
        self.network = self.build(self.m)
        self.gates: list[Tensor] = []
        self.parameters = self.trained()
        self.labels = torch.from_numpy(np.asarray(self.m.data.labels))
        self.optimiser = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def build(self, m: Material) -> Any:
        """The network, its adapters merged where the job says so."""
        params, scales = dict(m.params), dict(m.scales)
        if self.job.merged:
            for module, s in m.scales.items():
                A, g, B = (params.pop(f"{module}.sora_{part}") for part in "AgB")
                params[f"{module}.weight"] = params[f"{module}.weight"] + s * (B * g) @ A
            scales = {}
        return Network(m.config, params, scales)

    def trained(self) -> list[Tensor]:
        """The parameters that are trained; notes which are gates."""
        if self.job.what == "infer":
            return [self.network.p["classifier.weight"]]
        for name in self.m.trained:
            self.network.p[name].requires_grad_(True)
        self.gates = [self.network.p[name] for name in self.m.trained if name.endswith(".sora_g")]
        return [self.network.p[name] for name in self.m.trained]

    def run(self) -> None:
        """The job, once."""
        for rows in self.m.batches:
            if self.job.what == "infer":
                with torch.inference_mode():
                    self.network(*padded(self.m.data, rows))
                continue
            self.gradients(rows)
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimiser.step()
            with torch.no_grad():
                for gate in self.gates:
                    gate -= gate.clamp(-THRESHOLD, THRESHOLD)

    def result(self) -> dict[str, Any]:
        """Loss and norm of the gradient of the first batch, at the parameters the job began with."""
        rows = self.m.batches[0]
        if self.job.what == "infer":
            with torch.inference_mode():
                return {"logits": self.network(*padded(self.m.data, rows)).tolist()}
        loss = self.gradients(rows)
        squares = sum(float((p.grad.double() ** 2).sum()) for p in self.parameters if p.grad is not None)
        return {"loss": loss, "norm": squares**0.5}

    def gradients(self, rows: Any) -> float:
        """Mean loss of a batch, its gradients in the parameters."""
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.network(*padded(self.m.data, rows)), self.labels[rows])
        loss.backward()
        return float(loss.detach())


class Compiled(Torch):
    """The same under torch.compile, which is inductor: for one shape, or, of real lengths, for all at once."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.network = torch.compile(self.network.__call__, dynamic=job.length == 0)  # when it is first called


class Peft(Torch):
    """transformers' BertModel under PEFT's LoRA: what a user of both libraries runs.

    It begins where the others do, with the same adapters and head; without gates, which PEFT's LoRA has not.
    """

    def build(self, m: Material) -> Any:
        """The network as a function of a padded batch."""
        from peft import LoraConfig, get_peft_model
        from transformers import BertModel
        from transformers.utils import logging

        from sora_ref.run.base_model import model_folder

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        base = BertModel.from_pretrained(
            str(model_folder("minilm")), attn_implementation="sdpa", add_pooling_layer=False
        )
        adapted = LoraConfig(
            r=self.job.rank, lora_alpha=SCALE * self.job.rank, target_modules=sorted(set(BERT.kinds.values()))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT reads what transformers deprecates
            self.model = get_peft_model(base, adapted).train()
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.head = torch.nn.Linear(m.config.hidden_size, 2)
        start = {"classifier.weight": self.head.weight, "classifier.bias": self.head.bias}
        for module in m.scales:
            layer = self.model.get_submodule(f"base_model.model.{module}")
            for part in "AB":
                start[f"{module}.sora_{part}"] = layer.get_submodule(f"lora_{part}.default").weight
        with torch.no_grad():
            for name, value in start.items():
                value.copy_(torch.from_numpy(m.params[name]))

        def network(ids: Tensor, types: Tensor, mask: Tensor | None) -> Tensor:
            hidden = self.model(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
            return self.head(pooled(hidden, mask))

        return network

    def trained(self) -> list[Tensor]:
        """PEFT's adapters and the head."""
        return [*(p for p in self.model.parameters() if p.requires_grad), *self.head.parameters()]


def train_demo() -> dict[str, Any]:
    """The SoRA run of `make demo`: the same start, batches, schedules and gate rule; seconds and accuracy."""
    config = demo_configuration()
    task = read_task(config)
    setup = make_setup(config, Labels(task.kind, task.labels, task.metrics))
    data = {name: encode(examples, setup.tokenizer, setup.model.config) for name, examples in task.splits.items()}
    start = initial_params(setup)
    assert isinstance(setup.model.config, EncoderConfig)
    network = Network(setup.model.config, setup.all_params(start), setup.scales)
    for name in start:
        network.p[name].requires_grad_(True)
    gates = [network.p[name] for name in start if name.endswith(".sora_g")]
    others = [network.p[name] for name in start if not name.endswith(".sora_g")]
    optimiser = torch.optim.AdamW(others, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=True)
    descent = torch.optim.SGD(gates, lr=1.0)
    train, labels = data["train"], torch.from_numpy(np.asarray(data["train"].labels))
    order = epoch_batches(train.lengths, config.train.batch, config.train.bucket_batches, config.seed, 0)
    lr, gate_lr = config.learning_rates(len(order))

    began = time.perf_counter()
    for t, rows in enumerate(order, start=1):
        optimiser.param_groups[0]["lr"], descent.param_groups[0]["lr"] = lr(t), gate_lr(t)
        optimiser.zero_grad()
        descent.zero_grad()
        F.cross_entropy(network(*padded(train, rows)), labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_([*others, *gates], config.train.clip)
        optimiser.step()
        descent.step()
        threshold = gate_lr(t) * config.gate.strength
        with torch.no_grad():
            for gate in gates:
                gate -= gate.clamp(-threshold, threshold)
    seconds = time.perf_counter() - began

    test = data["test"]
    right = 0
    with torch.inference_mode():
        for rows in epoch_batches(test.lengths, 64, len(test.ids), 0, 0):
            right += int((network(*padded(test, rows)).argmax(1).numpy() == np.asarray(test.labels)[rows]).sum())
    kept = sum(int((gate != 0).sum()) for gate in gates)
    return {"seconds": seconds, "accuracy": right / len(test.ids), "kept": kept}
