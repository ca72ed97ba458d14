"""Where a run computes, and with which operations: its backend, its kernels, its precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sora_ref import backends, kernels
from sora_ref.backends import Array, Backend
from sora_ref.errors import SoRAError, shown
from sora_ref.kernels import Kernels
from sora_ref.models import MODEL_SPEC, ModelOps
from sora_ref.preconditions import require
from sora_ref.run.config import Config


class Work(NamedTuple):
    """How the rows of a batch are split into microbatches, and among how many threads.

    workers: threads, one per available core where 0.  shared: whether microbatches are to be shared out evenly.
    training_tokens, evaluation_tokens: the most tokens of a microbatch, padding included.
    """

    workers: int
    shared: bool
    training_tokens: int
    evaluation_tokens: int


def work_of(config: Config, backend: Backend) -> Work:
    """On a processor, microbatches that suit its cache, shared among the configuration's workers.

    On an asynchronous device (GPU), one thread launches, and microbatches are large.  train.microbatch_tokens overrules
    those of training.
    """
    tokens = config.train.microbatch_tokens
    if backend.synchronous:
        return Work(config.workers, shared=True, training_tokens=tokens or 512, evaluation_tokens=1024)
    return Work(workers=1, shared=False, training_tokens=tokens or 16_384, evaluation_tokens=65_536)


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


def get_kernels(config: Config, backend: Backend) -> Kernels:
    """The set of kernels that the configuration asks for, or one sentence on why there is none."""
    try:
        return kernels.get(backend.name, None if config.kernels == "backend" else config.kernels)
    except ValueError as error:
        raise SoRAError(str(error)) from error
    except ImportError as error:
        raise SoRAError(
            f"{error}: expected an installation with it (pip install 'sora_ref[fast]'), or other kernels (--kernels "
            "numpy)"
        ) from error


def operations(config: Config, faster: Kernels, frozen: Mapping[str, Array]) -> ModelOps:
    """The specification's operations, replaced by the forms of `faster` in the configuration's precision.

    Raises SoRAError for a precision that the backend, its kernels or the dtype have not got.
    """
    precision, ops = config.precision, MODEL_SPEC.replace(**faster.training)
    if precision is None:
        return ops
    require(config.dtype == "float32", f"precision {precision} is one of float32 products: expected dtype float32")
    if precision == "fp32":
        return ops
    require(faster.name != "reference", f"precision {precision} comes with the backend's kernels: expected those")
    offered = ", ".join(["fp32", *faster.precisions])
    require(
        precision in faster.precisions, f"backend {config.backend!r} has no precision {precision}: expected {offered}"
    )
    return ops.replace(**faster.precisions[precision](frozen.values()))
