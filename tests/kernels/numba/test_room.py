"""What holds for every compiled kernel: it is kept on disk, and what it is made of lies where the cache looks."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

from sora_ref.kernels import numba as room
from sora_ref.kernels.numba.kept import Kept

MODULES = [importlib.import_module(f"{room.__name__}.{found.name}") for found in pkgutil.iter_modules(room.__path__)]
KERNELS: dict[str, Any] = {
    f"{value.__module__}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, Dispatcher) and value.__module__ == module.__name__
}


def from_elsewhere(kernel: Any) -> set[str]:
    """Names in a kernel that its module has from a module of ours outside the kernels, or that are such a module's."""
    module = inspect.getmodule(kernel.py_func)
    assert module is not None
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sora_ref")
        if not str(node.module).startswith("sora_ref.kernels")
        for alias in node.names
    }
    return imported & set(kernel.py_func.__code__.co_names)


def test_there_are_kernels() -> None:
    assert len(KERNELS) > 5


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_kernel_is_kept_on_disk_and_is_made_of_nothing_outside_the_kernels(name: str) -> None:
    kernel = KERNELS[name]
    assert isinstance(kernel._cache, Kept) or kernel.targetoptions.get("forceinline")  # kept as part of its callers
    assert kernel.targetoptions["nogil"] is True
    assert kernel.targetoptions["fastmath"] <= {"contract", "reassoc"}
    assert from_elsewhere(kernel) == set()
