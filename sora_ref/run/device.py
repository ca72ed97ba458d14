"""Where a run computes, and with which operations: its backend, its kernels, its precision."""

from __future__ import annotations

from collections.abc import Mapping

from sora_ref import backends
from sora_ref.backends import Array, Backend
from sora_ref.errors import SoRAError, shown
from sora_ref.kernels import Kernels
from sora_ref.models import MODEL_SPEC, ModelOps
from sora_ref.preconditions import require
from sora_ref.run.config import Config


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
    require(config.kernels == "backend", f"precision {precision} comes with the backend's kernels: expected those")
    offered = ", ".join(["fp32", *faster.precisions])
    require(
        precision in faster.precisions, f"backend {config.backend!r} has no precision {precision}: expected {offered}"
    )
    return ops.replace(**faster.precisions[precision](frozen.values()))
