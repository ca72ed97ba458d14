"""A configuration made concrete: the model with its frozen weights, its tokeniser, its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace as replace_fields

from sora_ref import SoRA, backends, initial_adapter, kernels
from sora_ref.backends import Array, Backend
from sora_ref.errors import SoRAError, printable, shown
from sora_ref.init import initial_dense
from sora_ref.kernels import Kernels
from sora_ref.models import MODEL_SPEC, BertConfig, Classifier, ModelOps, linear_modules, load_bert
from sora_ref.models.pretrained import POOLER
from sora_ref.names import adapter_names, is_adapter, unpack
from sora_ref.preconditions import require
from sora_ref.run.artefacts import ARTEFACTS, download
from sora_ref.run.config import Config, TaskSection
from sora_ref.run.data import TASK_NAMES, Columns, Task, load_task
from sora_ref.run.data import Labels as Labels
from sora_ref.run.hub import hub_folder, pinned, repository
from sora_ref.run.tokens import load_tokenizer
from sora_ref.storage.files import file_digest
from sora_ref.storage.regular import absolute

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Say = Callable[[str], None]
Params = Mapping[str, Array]


@dataclass(frozen=True)
class Setup:
    """Everything of a run that training does not change.

    frozen: the base model's parameters, and gates fixed at 1 for a plain LoRA.  scales: s of every adapted module.
    fresh:  names of head parameters that the checkpoint lacks, which are therefore trained.
    kernels: the faster forms that the configuration asks for.
    ops, forward_ops: the operations of training, and those of an evaluation, which keep nothing for a backward.
    """

    config: Config
    folder: Path
    model: Classifier
    labels: Labels
    frozen: Params
    scales: Mapping[str, float]
    fresh: tuple[str, ...]
    backend: Backend
    kernels: Kernels
    ops: ModelOps
    forward_ops: ModelOps
    tokenizer: Tokenizer

    @property
    def workers(self) -> int:
        """Threads that share the work: the configuration's; one for an asynchronous device (GPU)."""
        return self.config.workers if self.backend.synchronous else 1

    @property
    def microbatch_tokens(self) -> int:
        """Tokens of a microbatch in training: the configuration's; by default what suits the cache, or a GPU."""
        return self.config.train.microbatch_tokens or (512 if self.backend.synchronous else 16_384)

    def all_params(self, trained: Params) -> Params:
        """Frozen and trained parameters together; the trained win."""
        return {**self.frozen, **trained}

    def adapters(self, trained: Params) -> dict[str, SoRA]:
        """The adapters, by module."""
        params = self.all_params(trained)
        return {module: unpack(params, module, s) for module, s in self.scales.items()}

    def folded(self, ops: ModelOps, trained: Params, each: Callable[..., Any] = map) -> ModelOps:
        """These operations for these very parameters, the adapters folded into the weights where the kernels can."""
        if self.kernels.fold is None:
            return ops
        params = self.all_params(trained)
        modules = {module: (params[f"{module}.weight"], adapter) for module, adapter in self.adapters(trained).items()}
        return ops.replace(**self.kernels.fold(modules, ops.sora_linear_forward, ops.sora_linear_backward, each))

    def head(self, trained: Params) -> dict[str, Array]:
        """The trained parameters that belong to no adapter: head, and norms and biases where they are trained."""
        return {name: value for name, value in trained.items() if not is_adapter(name)}


def model_folder(path: str, say: Say | None = None) -> Path:
    """The folder of a model, fetched where `path` is the name of one to fetch, or of one on the hub; else SoRAError."""
    if is_fetched(path):
        return download(path, say=say)
    folder = absolute(path)
    if folder.is_dir():
        return folder
    if path not in ARTEFACTS and not folder.exists() and repository(path):
        return hub_folder(path, say)
    named = ", ".join(key for key in ARTEFACTS if is_fetched(key))
    expected = f"a Hugging Face BERT folder, a name on its hub, or one of {named}"
    raise SoRAError(f"model {printable(path)}: no such folder: expected {expected}")


def is_fetched(path: str) -> bool:
    """Whether this is the name of a model that is fetched from the package registry."""
    return path in ARTEFACTS and ARTEFACTS[path].source == "wheel"


def with_pinned_model(config: Config, say: Say | None = None) -> Config:
    """The configuration with the commit of a model from the hub, which may be another tomorrow under the same name."""
    path = config.model.path
    if path in ARTEFACTS or absolute(path).exists():
        return config
    return replace_fields(config, model=replace_fields(config.model, path=pinned(path, say)))


def read_task(
    config: Config, say: Say | None = None, *, labels: Labels | None = None, split: str | None = None
) -> Task:
    """The task of a configuration, or one split of it; in the terms of a run's `labels` where they are given."""
    task = config.task
    _require_own_keys(task)
    columns = None if task.text is None else Columns(task.text, task.pair, task.label, task.id)
    found = load_task(
        task.name,
        path=None if task.path is None else Path(task.path),
        seed=task.split_seed,
        columns=columns,
        files={name: Path(path) for name, path in task.files.items()},
        labels=None if task.labels is None else tuple(task.labels),
        kind=task.kind,
        header=task.header,
        skip_bad_rows=task.skip_bad_rows,
        run=labels,
        split=split,
        say=say,
    )
    return replace(found, splits={name: examples[: task.limit] for name, examples in found.splits.items()})


def _require_own_keys(task: TaskSection) -> None:
    """SoRAError for a key that the task does not look at: whoever set it means something else."""
    if task.name == "table":
        flag = "task.path (--data FOLDER) is of other tasks than table"
        require(task.path is None, f"{flag}: expected task.files.train (--data FILE)")
        return
    if task.name not in TASK_NAMES:
        return  # said by `load_task`
    for key in ("files", "text", "pair", "label", "id", "labels"):
        flag = f"task.{key}" if key in ("files", "labels") else f"task.{key} (--{key})"
        sentence = f"{flag} is of the task table, and the task is {shown(task.name)}: expected --task table"
        require(not getattr(task, key), sentence)


def get_backend(name: str) -> Backend:
    """The backend, or one sentence on why there is none."""
    require(name != "exact", "backend 'exact' has rationals only and a transformer needs exp: expected numpy or cupy")
    try:
        return backends.get(name)
    except ValueError as error:
        raise SoRAError(str(error)) from error
    except ImportError as error:
        raise SoRAError(f"backend {shown(name)}: its library is not installed ({error})") from error
    except backends.DeviceError as error:
        raise SoRAError(f"backend {shown(name)}: {error}") from error


def operations(config: Config, faster: Kernels, frozen: Params) -> ModelOps:
    """The specification's operations, replaced by the forms of `faster` in the configuration's precision.

    Raises SoRAError for a precision that the backend, its kernels or the dtype have not got.
    """
    precision, ops = config.precision, MODEL_SPEC.replace(**faster.training)
    if precision is None:
        return ops
    require(config.dtype == "float32", f"precision {precision} is one of float32 products: expected dtype float32")
    if precision == "fp32":
        return ops
    require(config.kernels == "backend", f"precision {precision} comes with the backend's kernels: expected those")
    offered = ", ".join(["fp32", *faster.precisions])
    require(
        precision in faster.precisions, f"backend {config.backend!r} has no precision {precision}: expected {offered}"
    )
    return ops.replace(**faster.precisions[precision](frozen.values()))


def make_setup(config: Config, labels: Labels, say: Say | None = None) -> Setup:
    """Load the model of a configuration and lay out its adapters, onto the configuration's backend."""
    backend = get_backend(config.backend)
    folder = model_folder(config.model.path, say)
    bert, weights = load_bert(folder, dtype=config.dtype, say=say)
    most = bert.max_position_embeddings
    require(
        config.model.max_length <= most,
        f"model.max_length is {config.model.max_length}: expected at most the {most} positions of {folder}",
    )
    model = Classifier(bert, config.model.head, labels.outputs)
    fresh: tuple[str, ...] = ("classifier.weight", "classifier.bias")
    if model.head == "cls" and POOLER[0] not in weights:
        fresh = (*POOLER, *fresh)
    modules = linear_modules(bert, config.adapter.kinds)
    _require_rank(config, bert, modules)
    frozen = {name: backend.from_host(array) for name, array in weights.items()}
    if not config.adapter.gated:
        gates = [adapter_names(module).g for module in modules]
        frozen |= {gate: backend.from_host(np.ones(config.adapter.r, config.dtype)) for gate in gates}
    faster = kernels.get(backend.name, None if config.kernels == "backend" else config.kernels)
    ops = operations(config, faster, frozen)
    return Setup(
        config=config,
        folder=folder,
        model=model,
        labels=labels,
        frozen=frozen,
        scales={module: config.adapter.alpha / max(config.adapter.r, 1) for module in modules},
        fresh=fresh,
        backend=backend,
        kernels=faster,
        ops=ops,
        forward_ops=ops.replace(**faster.evaluation),
        tokenizer=load_tokenizer(folder, config.model.max_length, say),
    )


def _require_rank(config: Config, bert: BertConfig, modules: Sequence[str]) -> None:
    """SoRAError for more components than any of the modules can use."""
    shapes = bert.shapes()
    most = max((min(shapes[f"{module}.weight"]) for module in modules), default=config.adapter.r)
    r = config.adapter.r
    require(
        r <= most, f"adapter.r is {r}: expected at most {most}, beyond which no layer of the model can have more rank"
    )


def initial_params(setup: Setup) -> dict[str, Array]:
    """Every trained parameter before the first step, from the configuration's seed; adapters, head, norms, biases."""
    config, shapes = setup.config, setup.model.bert.shapes()
    params: dict[str, np.ndarray] = {}
    gate = None if config.adapter.gate == "normal" else config.adapter.gate
    for module in setup.scales:
        out, in_ = shapes[f"{module}.weight"]
        adapter = initial_adapter(
            config.seed, module, out, in_, config.adapter.r, config.adapter.alpha, gate=gate, dtype=config.dtype
        )
        names = adapter_names(module)
        params |= {names.A: adapter.A, names.B: adapter.B}
        if config.adapter.gated:
            params[names.g] = adapter.g
    for name in setup.fresh:
        if name.endswith(".weight"):
            module = name.removesuffix(".weight")
            out = setup.model.outputs if module == "classifier" else setup.model.bert.hidden_size
            weight, bias = initial_dense(config.seed, module, out, setup.model.bert.hidden_size, config.dtype)
            params |= {name: weight, f"{module}.bias": bias}
    on_device = {name: setup.backend.from_host(array) for name, array in params.items()}
    return on_device | {name: setup.frozen[name] for name in _also_trained(config, setup.model.bert)}


def base_digest(setup: Setup) -> str:
    """sha256 of the base model's weights file."""
    return file_digest(setup.folder / "model.safetensors")


def to_host(setup: Setup, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as NumPy arrays."""
    return {name: setup.backend.to_host(array) for name, array in params.items()}


def _also_trained(config: Config, bert: BertConfig) -> list[str]:
    """The encoder's own parameters that the configuration trains."""
    norms = [name for name in bert.shapes() if "LayerNorm" in name]
    biases = [name for name in bert.shapes() if name.endswith(".bias") and "LayerNorm" not in name]
    return [*(norms if config.adapter.norms else ()), *(biases if config.adapter.biases else ())]
