"""The work in sora_ref, of the same pieces as `sora-ref train` and `sora-ref eval`."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from job import CLIP, LEARNING_RATE, THRESHOLD, Job, demo_configuration, material

from sora_ref import (
    ADAMW_XI,
    AdamW,
    Rates,
    Recipe,
    SoRA,
    initial_state,
    kernels,
    merge,
    training_step,
)
from sora_ref.backends import get
from sora_ref.models import (
    MODEL_SPEC,
    Classifier,
    classifier_backward,
    classifier_forward,
    classifier_logits,
)
from sora_ref.models.bert import BERT
from sora_ref.run.text import microbatches, pad
from sora_ref.run.training import train
from sora_ref.run.workers import worker_pool


class Ours:
    """A job, ready to run."""

    def __init__(self, job: Job) -> None:
        self.job, self.m = job, material(job)
        self.backend = get("numpy")
        self.kernels = kernels.get("numpy", None if job.kernels == "backend" else job.kernels)
        ops = MODEL_SPEC.replace(**self.kernels.training)
        ops = ops.replace(**self.kernels.evaluation) if job.what == "infer" else ops
        self.ops = ops
        self.model = Classifier(BERT, self.m.config, "mean", 2)
        self.params, self.scales = dict(self.m.params), dict(self.m.scales)
        self.current = self.ops
        self.recipe = Recipe(AdamW(), ADAMW_XI, clip=CLIP)
        self.state = initial_state({name: self.params[name] for name in self.m.trained})
        if job.merged:
            for module, s in self.m.scales.items():
                A, g, B = (self.params.pop(f"{module}.sora_{part}") for part in "AgB")
                self.params[f"{module}.weight"] = merge(self.params[f"{module}.weight"], SoRA(A, g, B, s)).W
            self.scales = {}

    def run(self) -> None:
        """The job, once."""
        with worker_pool(self.job.workers) as parallel_map:
            if self.job.what == "infer":
                self.current = self.folded(parallel_map)
            for rows in self.m.batches:
                if self.job.what == "infer":
                    list(parallel_map(self.logits, self.parts(rows)))
                else:
                    _, grads = self.gradients(rows, parallel_map)
                    self.state, _ = training_step(
                        self.state, grads, Rates(LEARNING_RATE, LEARNING_RATE, THRESHOLD), self.recipe, self.ops
                    )

    def result(self) -> dict[str, Any]:
        """Loss and norm of the gradient of the first batch, at the parameters the job began with."""
        with worker_pool(self.job.workers) as parallel_map:
            if self.job.what == "infer":
                self.current = self.folded(parallel_map)
                out = np.empty((self.job.batch, 2), np.float32)
                for part in self.parts(self.m.batches[0]):
                    out[np.searchsorted(self.m.batches[0], part)] = self.logits(part)
                return {"logits": out.tolist()}
            loss, grads = self.gradients(self.m.batches[0], parallel_map)
        squares = sum(float(np.sum(np.square(grad, dtype=np.float64))) for grad in grads.values())
        return {"loss": loss, "norm": squares**0.5}

    def folded(self, parallel_map: Callable[..., Any]) -> Any:
        """The operations for the present parameters."""
        if not self.job.fold or self.kernels.fold is None:
            return self.ops
        params = {**self.params, **self.state.params} if self.job.what == "train" else self.params
        modules = {}
        for m, scale in self.scales.items():
            A, g, B = (params[f"{m}.sora_{part}"] for part in "AgB")
            modules[m] = params[f"{m}.weight"], SoRA(A, g, B, scale)
        return self.ops.replace(
            **self.kernels.fold(
                modules,
                self.ops.sora_linear_forward,
                self.ops.sora_linear_backward,
                parallel_map,
                training=self.job.what == "train",
            )
        )

    def parts(self, rows: Any) -> list[Any]:
        """The microbatches of a batch."""
        return microbatches(self.m.data.lengths, rows, self.job.tokens)

    def logits(self, part: Any) -> Any:
        """Of one microbatch."""
        batch = pad(self.m.data, part, self.backend)
        return classifier_logits(self.model, self.params, batch, scales=self.scales, ops=self.current)

    def gradients(self, rows: Any, parallel_map: Callable[..., Any]) -> tuple[float, dict[str, Any]]:
        """Mean loss and gradients of one batch."""
        params = {**self.params, **self.state.params}
        self.current = self.ops  # lets go of the weights folded last
        self.current = self.folded(parallel_map)
        labels = self.m.data.labels

        def one(part: Any) -> tuple[float, dict[str, Any]]:
            batch = pad(self.m.data, part, self.backend)
            logits, cache = classifier_forward(self.model, params, batch, scales=self.scales, ops=self.current)
            loss, dlogits = self.ops.cross_entropy(logits, np.asarray(labels)[part])
            return float(loss), classifier_backward(dlogits, cache, self.m.trained)

        found = list(parallel_map(one, self.parts(rows)))
        loss = sum(part for part, _ in found) / len(rows)
        return loss, self.ops.combine_microbatches([grads for _, grads in found], len(rows))


def gemm_rate(workers: int, seconds: float = 0.4) -> float:
    """Floating-point operations a second of the network's largest matrix product, on all workers at once."""
    x, W = np.ones((512, 384), np.float32), np.ones((1536, 384), np.float32)
    counts = [0] * workers

    def work(worker: int) -> None:
        y, end = np.empty((512, 1536), np.float32), time.perf_counter() + seconds
        while time.perf_counter() < end:
            np.matmul(x, W.T, out=y)
            counts[worker] += 1

    with worker_pool(workers):
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) * 2.0 * x.size * W.shape[0] / (time.perf_counter() - began)


def train_demo() -> dict[str, Any]:
    """The SoRA run of `make demo` into a temporary folder: seconds of training, accuracy, components kept."""
    with tempfile.TemporaryDirectory() as folder:
        summary = train(demo_configuration(), Path(folder) / "run", quiet=True)
    kept = sum(summary["ranks"].values())
    return {"seconds": summary["seconds"], "accuracy": summary["scores"]["test"]["accuracy"], "kept": kept}
