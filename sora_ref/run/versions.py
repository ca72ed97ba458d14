"""What a run's bits depend on besides its configuration: library versions, BLAS, the kind of machine."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from sora_ref import SPEC_VERSION, __version__
from sora_ref.errors import SoRAError, brief, shown
from sora_ref.kernels import Kernels
from sora_ref.storage.documents import read_json

_PROCESSOR = "processor of the kernels"
_LIBRARIES = ("numpy", "tokenizers", "safetensors", "array-api-compat")


def versions(kernels: Kernels) -> dict[str, str]:
    """Names and versions, as strings; not BLAS's threads, of which the work has one whatever is set."""
    blas = [
        " ".join(str(pool.get(fact, "")) for fact in ("internal_api", "version", "architecture"))
        for pool in threadpool_info()
        if pool.get("user_api") == "blas" and "numpy" in pool.get("filepath", "")
    ]
    return {
        "sora_ref": __version__,
        "spec": SPEC_VERSION,
        "python": platform.python_version(),
        "machine": f"{sys.platform} {platform.machine()}",
        "blas (name, version, core type)": "; ".join(sorted(blas)),
        "kernels": kernels.name,
        **({} if kernels.processor is None else {_PROCESSOR: kernels.processor()}),
        **{name: version(name) for name in (*_LIBRARIES, *kernels.libraries)},
    }


def changed(path: Path, kernels: Kernels) -> list[str]:
    """A sentence for each entry of a run's versions.json that is another now."""
    try:
        before = read_json(path, dict[str, Any], "the versions of a run")
    except SoRAError:
        return [f"{path} cannot be read, so versions cannot be compared"]
    # A run from before there were compiled ones says nothing of its kernels.
    before.setdefault("kernels", "numpy" if kernels.name == "numba" else kernels.name)
    now = versions(kernels)
    if before["kernels"] != kernels.name:
        unused = (_PROCESSOR, *kernels.libraries)  # by the kernels of before
        now = {name: value for name, value in now.items() if name not in unused}
    return [
        f"{name} was {_was(before.get(name))} and is {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _was(value: Any) -> str:
    return brief(value) if isinstance(value, str) else shown(value)
