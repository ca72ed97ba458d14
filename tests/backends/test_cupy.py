"""Why a GPU cannot be used, in one sentence each; and the CuPy backend's own module, on a CuPy made of NumPy."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat.numpy
import numpy as np
import pytest
from emulated import HANDLE, MISSING, Cublas, Emulated
from hypothesis import given
from hypothesis import strategies as st

from sora_ref import SoRAError, backends, kernels
from sora_ref.backends import Backend, DeviceError
from sora_ref.backends.cupy_probe import require_device
from sora_ref.backends.cupy_scatter import SUM_OF_PLACES, make_scatter_add
from sora_ref.cli import main as console
from sora_ref.run.device import get_backend


class CUDARuntimeError(RuntimeError):
    """As CuPy's: a number, and CUDA's words for it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cudaErrorSomething: status {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """CuPy's is a MemoryError too."""


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def fake_cupy(driver: int = 12040, built: int = 12090, count: Any = lambda: 1, ones: Any = np.ones) -> Any:
    runtime = SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: built,
        getDeviceCount=count,
        CUDARuntimeError=CUDARuntimeError,
    )
    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=runtime), ones=ones, asnumpy=np.asarray, float32=np.float32, ndarray=np.ndarray
    )


BROKEN = [
    ({"driver": 0}, "there is no NVIDIA driver: expected a machine with a GPU and its driver"),
    (
        {"driver": 11080},
        "the driver supports CUDA 11.8 and this CuPy is built for 12.9: install a newer driver, or the ",
    ),
    ({"count": fails(CUDARuntimeError(35))}, "the driver supports CUDA 12.4 and this CuPy is built for 12.9"),
    ({"count": fails(CUDARuntimeError(100))}, "there is a driver and no GPU: expected one that CUDA_VISIBLE_DEVICES"),
    ({"count": lambda: 0}, "there is a driver and no GPU"),
    (
        {"count": fails(CUDARuntimeError(999))},
        "CUDA does not start (cudaErrorSomething: status 999): expected a working",
    ),
    (
        {"ones": fails(ImportError("libcublas.so.12: cannot open shared object file\nhelp"))},
        "CUDA's libraries do not work (libcublas.so.12: cannot open shared object file): expected those of CUDA 12, "
        "which pip install 'cupy-cuda12x[ctk]' brings",
    ),
    ({"ones": fails(OSError("libnvrtc.so.12"))}, "CUDA's libraries do not work (libnvrtc.so.12)"),
    ({"ones": fails(RuntimeError())}, "CUDA's libraries do not work (RuntimeError)"),
]


@pytest.mark.exact
@pytest.mark.parametrize(("broken", "sentence"), BROKEN)
def test_what_is_wrong_is_said_in_one_sentence(broken: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeviceError) as caught:
        require_device(fake_cupy(**broken))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.exact
def test_a_working_device_passes_and_memory_that_is_short_is_another_matter() -> None:
    require_device(fake_cupy())
    with pytest.raises(MemoryError):
        require_device(fake_cupy(ones=fails(OutOfMemoryError("Out of memory allocating 512 bytes"))))


MADE_OF_CUPY = ("sora_ref.backends.cupy_backend", "sora_ref.kernels.cuda.table")


class Loaded:
    """CuPy's module: what was compiled is loaded into it."""

    def __init__(self, cp: Emulated) -> None:
        self.cp = cp

    def load(self, binary: tuple[str, tuple[str, ...]]) -> None:
        self.get_function = self.cp.compile(*binary).get_function


def compiled(code: str, options: tuple[str, ...], *, filename: str) -> Any:
    return (code, options), None


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Emulated]]:
    """A CuPy made of NumPy, in the place of the real one; the argument is what is broken about it."""

    def install(**broken: Any) -> Emulated:
        cp, pool = Emulated(), SimpleNamespace(total_bytes=lambda: 4096)
        facts = vars(fake_cupy(**broken)) | {"get_default_memory_pool": lambda: pool}
        for name, value in facts.items():
            setattr(cp, name, value)
        fakes = {
            "cupy": cp,
            "cupy.cuda.device": SimpleNamespace(get_cublas_handle=lambda: HANDLE),
            "cupy.cuda.compiler": SimpleNamespace(compile_using_nvrtc=compiled),
            "cupy.cuda.function": SimpleNamespace(Module=lambda: Loaded(cp)),
            "cupyx": ModuleType("cupyx"),
            "cupyx.scipy": ModuleType("cupyx.scipy"),
            "cupyx.scipy.special": SimpleNamespace(erf=lambda x: x),
            "cupy_backends": ModuleType("cupy_backends"),
            "cupy_backends.cuda": ModuleType("cupy_backends.cuda"),
            "cupy_backends.cuda.libs": SimpleNamespace(cublas=Cublas()),
            "array_api_compat.cupy": array_api_compat.numpy,
        }
        for name, module in fakes.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(array_api_compat, "cupy", array_api_compat.numpy, raising=False)
        for name in MADE_OF_CUPY:
            monkeypatch.delitem(sys.modules, name, raising=False)
        backends.get.cache_clear()
        return cp

    yield install
    for name in MADE_OF_CUPY:
        sys.modules.pop(name, None)
    backends.get.cache_clear()
    importlib.invalidate_caches()


@pytest.mark.exact
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_the_backend_is_made_of_cupys_parts(installed: Callable[..., Emulated]) -> None:
    cp = installed()
    backend: Backend = get_backend("cupy")
    assert (backend.name, backend.synchronous) == ("cupy", False)
    assert backend.memory is not None
    assert backend.memory() == 4096
    found = backend.scatter_add(3, np.array([2, 0, 2]), np.array([[1.0], [2.0], [4.0]]))
    assert found.tolist() == [[2.0], [0.0], [5.0]]
    assert [name for name, _ in cp.launches] == ["sum_of_places"]


@pytest.mark.exact
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_its_kernels_are_made_of_cupys_parts(
    installed: Callable[..., Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    cp = installed()
    found = kernels.get("cupy")
    assert set(found.precisions) == {"tf32", "bf16", "fp16"}
    module: Any = sys.modules["sora_ref.kernels.cuda.table"]
    monkeypatch.setattr(module, "DEVICE", dataclasses.replace(module.DEVICE, pointer=lambda x: int(x.ctypes.data)))
    ones, frozen = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    for precision in ("bf16", "fp16", "tf32"):
        y, _ = found.precisions[precision]([frozen])["sora_linear_forward"](ones, frozen, None, None)
        assert y.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    casts = [name for name, _ in cp.launches if name == "cast_bf16"]
    assert len(casts) == 2  # the frozen one, once; the input


@pytest.mark.exact
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["float32", "float64"]),
    st.integers(1, 9),
    st.integers(0, 12),
    st.sampled_from([1, 7, 8, 17]),
)
def test_rows_are_added_up_in_the_order_of_their_places(seed: int, dtype: str, rows: int, places: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    ids, updates = rng.integers(0, rows, places), rng.standard_normal((places, 2 * d)).astype(dtype)[:, ::2]
    expected = backends.get("numpy").scatter_add(rows, ids, updates)
    for backwards in (False, True):
        found = make_scatter_add(Emulated(backwards))(rows, ids, updates)
        assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())


@pytest.mark.exact
@pytest.mark.parametrize("real", ["float", "double"])
def test_cupys_own_arrays_can_be_added_up_so(monkeypatch: pytest.MonkeyPatch, real: str) -> None:
    """What CuPy makes of the text where it is installed: its kernel around an element, compiled by NVRTC."""
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch: ("-arch=sm_90", "cubin"))
    whole = f"""
        #include <cupy/carray.cuh>
        typedef {real} T;
        typedef CArray<long long, 1, true, true> Numbers;
        extern "C" __global__ void sum_of_places(const CArray<T, 2, true, true> updates, const Numbers order,
            const Numbers starts, const long long width, CArray<T, 2, true, true> all, CIndexer<2, true> places) {{
            CUPY_FOR(i, places.size()) {{
                places.set(i);
                T& out = all[places.get()];
                {SUM_OF_PLACES}
            }}
        }}"""
    headers = Path(str(compiler.__file__)).parents[1] / "_core" / "include"
    binary, _ = compiler.compile_using_nvrtc(whole, (f"-I{headers}", "--std=c++17"), filename="sum_of_places.cu")
    assert b"sum_of_places" in binary


@pytest.mark.exact
@pytest.mark.parametrize(("broken", "sentence"), BROKEN[:2])
def test_the_command_line_says_it_and_leaves_with_1(
    installed: Callable[..., Emulated],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: dict[str, Any],
    sentence: str,
) -> None:
    installed(**broken)
    with pytest.raises(SoRAError, match=r"^backend 'cupy': the"):
        get_backend("cupy")

    def load(*_: Any) -> Any:
        return get_backend("cupy")

    monkeypatch.setattr("sora_ref.run.inspect.inspect_path", load)
    monkeypatch.setattr(sys, "argv", ["sora-ref", "inspect", "x"])
    with pytest.raises(SystemExit) as left:
        console.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith(f"sora-ref: backend 'cupy': {sentence}")


@pytest.mark.exact
def test_memory_that_runs_out_is_one_sentence_with_cupys_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 512 bytes).")
    monkeypatch.setattr("sora_ref.run.inspect.inspect_path", fails(error))
    monkeypatch.setattr(sys, "argv", ["sora-ref", "inspect", "x"])
    with pytest.raises(SystemExit) as left:
        console.main()
    assert left.value.code == 1
    assert capsys.readouterr().err == (
        "sora-ref: out of memory (Out of memory allocating 1,024 bytes (allocated so far: 512 bytes)): "
        "lower train.microbatch_tokens or the model's size\n"
    )
