"""A configuration made concrete: the model with its frozen weights, its tokeniser, its backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sora_ref import SoRA
from sora_ref.backends import Array, Backend
from sora_ref.kernels import Kernels
from sora_ref.methods import METHODS, Added, Method
from sora_ref.models import Classifier, ModelOps, load_model
from sora_ref.names import is_adapter, unpack
from sora_ref.preconditions import require
from sora_ref.run.base_model import model_folder
from sora_ref.run.config import Config
from sora_ref.run.data import Labels
from sora_ref.run.device import Work, get_backend, get_kernels, operations, work_of
from sora_ref.run.say import Say
from sora_ref.run.tokens import load_tokenizer
from sora_ref.run.workers import ParallelMap

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Params = Mapping[str, Array]


@dataclass(frozen=True)
class Setup:
    """Everything of a run that training does not change.

    frozen: the base model's parameters, and what the method adds and does not train.  scales: s of each adapted module.
    new_head_names: names of head parameters that the checkpoint lacks, which are therefore trained.
    """

    config: Config
    folder: Path
    model: Classifier
    labels: Labels
    frozen: Params
    scales: Mapping[str, float]
    new_head_names: tuple[str, ...]
    backend: Backend
    tokenizer: Tokenizer

    @property
    def method(self) -> Method:
        """The way of fine-tuning."""
        return METHODS[self.config.method]

    @cached_property
    def kernels(self) -> Kernels:
        """The faster forms that the configuration asks for; loaded where something is computed, and not before.

        Raises SoRAError where they cannot be had.
        """
        return get_kernels(self.config, self.backend)

    @cached_property
    def ops(self) -> ModelOps:
        """The operations of training; SoRAError where the configuration's precision cannot be had."""
        return operations(self.config, self.kernels, self.frozen)

    @cached_property
    def forward_ops(self) -> ModelOps:
        """The operations of an evaluation, which keep nothing for a backward."""
        return self.ops.replace(**self.kernels.evaluation)

    @property
    def work(self) -> Work:
        """How batches are split, and among how many threads."""
        return work_of(self.config, self.backend)

    def all_params(self, trained: Params) -> Params:
        """Frozen and trained parameters together; the trained win."""
        return {**self.frozen, **trained}

    def adapters(self, trained: Params) -> dict[str, SoRA]:
        """The adapters, by module."""
        params = self.all_params(trained)
        return {module: unpack(params, module, s) for module, s in self.scales.items()}

    def folded(self, trained: Params, parallel_map: ParallelMap = map, *, training: bool) -> ModelOps:
        """The operations for these very parameters, the adapters folded into the weights where the kernels can.

        training: whether they are those of training, or of an evaluation.
        """
        ops = self.ops if training else self.forward_ops
        if self.kernels.fold is None:
            return ops
        params = self.all_params(trained)
        modules = {module: (params[f"{module}.weight"], adapter) for module, adapter in self.adapters(trained).items()}
        forward, backward = ops.sora_linear_forward, ops.sora_linear_backward
        return ops.replace(**self.kernels.fold(modules, forward, backward, parallel_map, training=training))

    def head(self, trained: Params) -> dict[str, Array]:
        """The trained parameters that belong to no adapter: head, and norms and biases where they are trained."""
        return {name: value for name, value in trained.items() if not is_adapter(name)}


def make_setup(config: Config, labels: Labels, say: Say | None = None) -> Setup:
    """Load the model of a configuration and lay out its adapters, onto the configuration's backend."""
    backend = get_backend(config.backend)
    folder = model_folder(config.model.path, say)
    architecture, sizes, weights = load_model(folder, dtype=config.dtype, say=say)
    most = sizes.longest
    require(
        config.model.max_length <= most,
        f"model.max_length is {config.model.max_length}: expected at most the {most} positions of {folder}",
    )
    model = Classifier(architecture, sizes, config.model.head, labels.outputs)
    modules = architecture.modules(sizes, config.adapter.kinds)
    _require_rank(config, model, modules)
    frozen = {name: backend.from_host(array) for name, array in weights.items()}
    for added in added_by_method(config, model, modules):
        frozen |= {name: backend.from_host(array) for name, array in added.frozen.items()}
    return Setup(
        config=config,
        folder=folder,
        model=model,
        labels=labels,
        frozen=frozen,
        scales=dict.fromkeys(modules, config.branch().scale),
        new_head_names=tuple(name for name in model.head_record.names if name not in weights),
        backend=backend,
        tokenizer=load_tokenizer(folder, config.model.max_length, say, token_types=sizes.token_types),
    )


def _require_rank(config: Config, model: Classifier, modules: Sequence[str]) -> None:
    """SoRAError for more components than any of the modules can use."""
    shapes = model.shapes
    most = max((min(shapes[f"{module}.weight"]) for module in modules), default=config.adapter.r)
    r = config.adapter.r
    require(
        r <= most, f"adapter.r is {r}: expected at most {most}, beyond which no layer of the model can have more rank"
    )


def added_by_method(config: Config, model: Classifier, modules: Iterable[str]) -> Iterator[Added]:
    """What the configuration's method adds to each of these modules."""
    add = METHODS[config.method].add
    if add is None:
        return
    for module in modules:
        out, in_ = model.shapes[f"{module}.weight"]
        yield add(module, (out, in_), config.branch())


def to_host(setup: Setup, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as NumPy arrays."""
    return {name: setup.backend.to_host(array) for name, array in params.items()}
