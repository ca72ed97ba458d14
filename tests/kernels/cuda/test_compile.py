"""NVRTC compiles every kernel, where there is no GPU; and what is in the code it makes."""

from __future__ import annotations

import re
import subprocess
import sys

import nvrtc
import pytest

from sora_ref.kernels.cuda import options, signatures, source

pytestmark = pytest.mark.skipif(
    nvrtc.library() is None, reason="there is no libnvrtc: pip install nvidia-cuda-nvrtc-cu12 (Linux)"
)
ARCHITECTURES = ("sm_80", "sm_90")


def ptx(real: str, architecture: str) -> str:
    return nvrtc.compile_ptx(source(), [*options(real), f"--gpu-architecture={architecture}"])


def entry(text: str, kernel: str) -> str:
    """The PTX of one kernel."""
    return text.split(f".visible .entry {kernel}(", 1)[1].split(".visible .entry", 1)[0]


@pytest.mark.exact
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("real", ["float", "double"])
def test_every_kernel_compiles(real: str, architecture: str) -> None:
    found = re.findall(r"\.visible \.entry (\w+)\(", ptx(real, architecture))
    assert sorted(found) == sorted(signatures())
    assert len(found) == 13


@pytest.mark.exact
@pytest.mark.parametrize("real", ["float", "double"])
def test_no_kernel_uses_atomics_or_shuffles_and_the_update_contracts_nothing(real: str) -> None:
    text = ptx(real, "sm_90")
    assert not re.findall(r"^\s+(?:atom|red|shfl)\.", text, re.MULTILINE)
    for kernel in ("update_parameters", "combine", "squares", "clip", "layer_norm_forward", "softmax_backward"):
        assert "fma." not in entry(text, kernel), kernel
        assert ".approx" not in entry(text, kernel), kernel


@pytest.mark.exact
def test_cupys_own_compiler_takes_the_kernels_and_flushes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's RawModule adds -ftz=true, which makes subnormal numbers zero; `compile_using_nvrtc` does not."""
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch: ("-arch=sm_90", "cubin"))
    binary, _ = compiler.compile_using_nvrtc(source(), options("float"), filename="kernels.cu")
    assert all(name.encode() in binary for name in signatures())
    assert ".ftz" not in entry(ptx("float", "sm_90"), "update_parameters")
    assert ".ftz" in entry(nvrtc.compile_ptx(source(), [*options("float"), "-ftz=true"]), "update_parameters")


@pytest.mark.exact
def test_contraction_would_show() -> None:
    text = nvrtc.compile_ptx(source(), [o for o in options("float") if "fmad" not in o])
    assert "fma." in entry(text, "update_parameters")


@pytest.mark.exact
def test_what_does_not_compile_is_told() -> None:
    with pytest.raises(ValueError, match=r"kernels.cu\(1\): error"):
        nvrtc.compile_ptx('extern "C" __global__ void f() { undefined(); }', [])


@pytest.mark.exact
def test_kernels_and_their_launching_layer_are_imported_without_cupy() -> None:
    code = "import sys, sora_ref.kernels.cuda.operations; assert not {'cupy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
