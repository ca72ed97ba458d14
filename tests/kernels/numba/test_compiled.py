"""What the decorator of compiled kernels asks of Numba."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target

from sora_ref.kernels.numba.compiled import compiled, compiling, processor


def quotient(a: Any, b: Any) -> Any:
    return a / b


def fused(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


def test_a_division_by_zero_is_what_ieee_754_says() -> None:
    divide: Any = compiled(quotient)
    assert divide(1.0, 0.0) == math.inf
    assert divide(-1.0, 0.0) == -math.inf
    assert math.isnan(divide(0.0, 0.0))


def test_a_product_and_a_sum_are_rounded_once_only_where_that_is_allowed() -> None:
    """(1 + u)(1 − u) − 1 is −u² exactly, and 0 where the product is rounded by itself."""
    u = 2.0**-27
    plain: Any = compiled(fused)
    contracted: Any = compiled(fastmath={"contract"})(fused)
    assert plain(1 + u, 1 - u, -1.0) == 0
    assert contracted(1 + u, 1 - u, -1.0) in (0, -(u * u))  # a processor need not have the instruction


def test_a_kernel_lets_go_of_the_interpreters_lock() -> None:
    made: Any = compiled(quotient)
    assert made.targetoptions["nogil"] is True
    assert made.targetoptions["fastmath"] == set()
    assert made(np.float32(1), np.float32(2)) == 0.5


def test_what_is_compiled_is_told_and_what_comes_from_the_cache_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORA_REF_CACHE", str(tmp_path))
    for expected in (["quotient"], []):
        told, made = list[str](), compiled(quotient)
        with compiling(told.append):
            assert made(1.0, 2.0) == 0.5
        assert told == expected
    made(np.float32(1), np.float32(2))  # outside, nobody is told
    assert told == []


def test_a_processor_is_another_with_another_name_or_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    codegen = type(cpu_target.target_context.codegen())
    told = [processor()]
    for name, features in (("znver3", "+avx2"), ("znver3", "+avx2,+fma"), ("znver4", "+avx2")):
        monkeypatch.setattr(codegen, "magic_tuple", lambda self, own=(name, features): ("x86_64", *own))
        told.append(processor())
        assert told[-1].startswith(f"{name} (")
    assert len(set(told)) == len(told)


def test_where_numba_is_told_not_to_compile_the_function_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert compiled(quotient) is quotient
