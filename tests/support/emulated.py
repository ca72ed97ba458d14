"""`sora_ref.kernels.cuda` without a GPU: NumPy in CuPy's place, the kernels compiled by g++, cuBLAS out of NumPy.

What runs is the launching layer itself and the text of the kernels.  Every launch is checked: the kernel's parameters
against what is passed, arrays for being contiguous, and the bytes around every array made here for having stayed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sora_ref.kernels.cuda import device as device_module
from sora_ref.kernels.cuda import matmul as blas
from sora_ref.kernels.cuda import options, signatures

Floats = npt.NDArray[Any]
SHIM = Path(__file__).parent / "cuda_shim.hpp"
MISSING = None if shutil.which("g++") else "g++ is not installed: it compiles the kernels for the CPU"
GUARD = 64  # bytes around an array
_CANARY = 0xA5


@functools.cache
def build(code: str, opts: tuple[str, ...]) -> ctypes.CDLL:
    """The CUDA code as a library of this machine."""
    macros = tuple(option for option in opts if option.startswith("-D"))
    exports = "".join(f"EXPORT({name})\n" for name in signatures())
    return _library(f'#include "{SHIM}"\n{code}\n{exports}', macros)


def _library(text: str, macros: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The C++ text, compiled once for all tests that ask for it."""
    folder = Path(tempfile.gettempdir()) / "sora-ref-emulated"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256("\n".join([text, SHIM.read_text(), *macros]).encode()).hexdigest()[:24]
    library = folder / f"{digest}.so"
    if not library.exists():
        made = folder / f"{digest}-{os.getpid()}.cpp"  # two runs at once do not meet
        made.write_text(text)
        command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", *macros, str(made)]
        done = subprocess.run(
            [*command, "-o", str(made.with_suffix(".so"))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made.with_suffix(".so").rename(library)
    return ctypes.CDLL(str(library))


class Emulated:
    """NumPy's functions under CuPy's names, and the compiler."""

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards
        self.launches: list[tuple[str, tuple[int, ...]]] = []
        self.held: dict[int, npt.NDArray[np.uint8]] = {}  # by address, an array's bytes with those around it

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Sequence[int], dtype: Any) -> Floats:
        """An array of canaries, guarded by canaries."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        whole = np.full(size + 2 * GUARD, _CANARY, np.uint8)
        inner = whole[GUARD : GUARD + size]
        self.held[inner.ctypes.data] = whole
        return np.frombuffer(inner, dtype).reshape(shape) if size else np.empty(shape, dtype)

    def ElementwiseKernel(self, given: str, made: str, body: str, name: str) -> _Elementwise:  # noqa: N802
        return _Elementwise(self, given, made, body, name)

    def compile(self, code: str, opts: tuple[str, ...]) -> _Module:
        return _Module(self, build(code, opts), opts)


class _Module:
    def __init__(self, cp: Emulated, library: ctypes.CDLL, opts: tuple[str, ...]) -> None:
        self.cp, self.library = cp, library
        macros = dict(option[2:].split("=") for option in opts if option.startswith("-D"))
        self.block, self.real = int(macros["BLOCK"]), {"float": "float32", "double": "float64"}[macros["REAL"]]

    def get_function(self, name: str) -> Callable[..., None]:
        types = signatures()[name]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            assert block == (self.block,)
            assert 1 <= len(grid) <= 2
            assert all(0 < side < limit for side, limit in zip(grid, (2**31, 2**16), strict=False))
            assert len(args) == len(types), f"{name} takes {len(types)} arguments, not {len(args)}"
            values = [self._value(name, kind, value) for kind, value in zip(types, args, strict=True)]
            addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            run = getattr(self.library, f"launch_{name}")
            status = run(grid[0], (*grid, 1)[1], self.block, int(self.cp.backwards), addresses)
            assert status == 0, f"{name}: threads of one block wait at different barriers"
            self.cp.launches.append((name, grid))
            for value in args:
                if isinstance(value, np.ndarray):
                    intact(self.cp, name, value)

        return launch

    def _value(self, name: str, kind: str, value: Any) -> Any:
        if kind.endswith("*"):
            assert isinstance(value, np.ndarray), f"{name}: {value!r} for {kind}"
            of = kind.removeprefix("const ").removesuffix("*").strip()
            expected = {"REAL": self.real, "double": "float64", "unsigned short": "uint16", "Size": "int64"}
            assert value.dtype == expected.get(of, "uint8"), f"{name}: an array of {value.dtype} for {kind}"
            assert value.flags.c_contiguous, f"{name}: an array that is not contiguous"
            return ctypes.c_void_p(value.ctypes.data)
        assert np.dtype(type(value)) == {"Size": "int64", "double": "float64"}[kind], f"{name}: {value!r} for {kind}"
        return ctypes.c_int64(int(value)) if kind == "Size" else ctypes.c_double(float(value))


def intact(cp: Emulated, name: str, x: Floats) -> None:
    """AssertionError where the bytes around an array that `Emulated.empty` made have changed."""
    whole = cp.held.get(x.ctypes.data)
    if whole is not None:
        around = np.concatenate([whole[:GUARD], whole[-GUARD:]])
        assert np.all(around == _CANARY), f"{name} wrote beyond an array"


class _Elementwise:
    """CuPy's ElementwiseKernel for raw arrays of T or int64, int64 numbers, and one output, which gives the size."""

    def __init__(self, cp: Emulated, given: str, made: str, body: str, name: str) -> None:
        self.cp, self.name = cp, name
        self.parameters = [parameter.split() for parameter in given.split(", ")]
        assert made == "T out"
        reads = ""
        for place, (*raw, kind, own) in enumerate(self.parameters):
            of = {"T": "T", "int64": "long long"}[kind]
            reads += f"{of}* {own} = ({of}*)a[{place}];\n" if raw else f"{of} {own} = *({of}*)a[{place}];\n"
        order = "n - 1 - k" if cp.backwards else "k"
        loop = f"for (long long k = 0; k < n; ++k) {{ long long i = {order}; T& out = results[i]; {body} }}"
        self.text = f'extern "C" void run(void** a, T* results, long long n) {{\n{reads}{loop}\n}}\n'

    def __call__(self, *given: Any) -> None:
        *values, out = given
        real = {"float32": "float", "float64": "double"}[str(out.dtype)]
        addresses = []
        held = [x if isinstance(x, np.ndarray) else np.array(x, np.int64) for x in values]
        for (*raw, kind, own), x in zip(self.parameters, held, strict=True):
            assert x.dtype == (out.dtype if kind == "T" else np.int64), f"{own}: an array of {x.dtype} for {kind}"
            assert x.flags.c_contiguous, f"{own}: an array that is not contiguous"
            assert (x.ndim > 0) == bool(raw), f"{own}: {x!r}"
            addresses.append(x.ctypes.data)
        library = _library(self.text, (f"-DT={real}",))
        run, results = library.run, ctypes.c_void_p(out.ctypes.data)
        run((ctypes.c_void_p * len(addresses))(*addresses), results, ctypes.c_longlong(out.size))
        self.cp.launches.append((self.name, (out.size,)))
        intact(self.cp, self.name, out)


class Cublas:
    """gemmEx and gemmStridedBatchedEx on host memory, column by column as the manual has them."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []  # type of the operands, compute type

    def gemmEx(  # noqa: N802
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, At: int, lda: int,
        B: int, Bt: int, ldb: int, beta: int, C: int, Ct: int, ldc: int, compute: int, algo: int,
    ) -> None:  # fmt: skip
        assert handle == HANDLE
        assert At == Bt
        assert algo == blas.GEMM_DEFAULT
        self.calls.append((At, compute))
        real = {blas.COMPUTE_32F: "f4", blas.COMPUTE_32F_FAST_TF32: "f4", blas.COMPUTE_64F: "f8"}[compute]
        assert Ct == {"f4": blas.R_32F, "f8": blas.R_64F}[real]
        a = _columns(A, At, lda, (k, m) if ta else (m, k), compute)
        b = _columns(B, Bt, ldb, (n, k) if tb else (k, n), compute)
        c = _memory(C, real, ldc * n).reshape(n, ldc).T[:m]
        scale, keep = (_memory(address, real, 1)[0] for address in (alpha, beta))
        product = scale * ((a.T if ta else a) @ (b.T if tb else b))
        c[:] = product + keep * c if keep else product  # what is there is not read where beta is 0

    def gemmStridedBatchedEx(  # noqa: N802
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, At: int, lda: int, As: int,
        B: int, Bt: int, ldb: int, Bs: int, beta: int, C: int, Ct: int, ldc: int, Cs: int, stack: int,
        compute: int, algo: int,
    ) -> None:  # fmt: skip
        of_in, of_out = _ITEM[At], 4 if Ct == blas.R_32F else 8
        for i in range(stack):
            a, b, c = A + i * As * of_in, B + i * Bs * of_in, C + i * Cs * of_out
            self.gemmEx(handle, ta, tb, m, n, k, alpha, a, At, lda, b, Bt, ldb, beta, c, Ct, ldc, compute, algo)


HANDLE = 7
_ITEM = {blas.R_32F: 4, blas.R_64F: 8, blas.R_16F: 2, blas.R_16BF: 2}


def _memory(address: int, dtype: str, count: int) -> Floats:
    size = np.dtype(dtype).itemsize * count
    return np.frombuffer(memoryview((ctypes.c_char * size).from_address(address)), dtype)


def _columns(address: int, kind: int, leading: int, shape: tuple[int, int], compute: int) -> Floats:
    """A column-major matrix of this shape; of bfloat16 and TF32 the values the tensor cores would see."""
    rows, columns = shape
    assert leading >= max(rows, 1), f"a leading dimension of {leading} for {rows} rows"
    if kind == blas.R_16BF:
        flat = (_memory(address, "u2", leading * columns).astype("u4") << 16).view("f4")
    else:
        flat = _memory(address, {blas.R_32F: "f4", blas.R_64F: "f8", blas.R_16F: "f2"}[kind], leading * columns)
        flat = flat.astype("f4") if kind == blas.R_16F else flat
    if compute == blas.COMPUTE_32F_FAST_TF32:
        flat = _tf32(flat)
    return flat.reshape(columns, leading).T[:rows]


def _tf32(x: Floats) -> Floats:
    """x to the 11 bits of TF32's significand, ties away from zero."""
    return ((x.view("u4") + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view("f4")


def make_device(*, block: int = 8, chunk: int = 16, backwards: bool = False) -> device_module.Device:
    """A device of the CPU, with small blocks, so that small arrays take several rounds and several blocks."""
    cp = Emulated(backwards)
    return device_module.Device(
        cp=cp,
        compile=cp.compile,
        pointer=lambda x: int(x.ctypes.data),
        cublas=Cublas(),
        handle=lambda: HANDLE,
        block=block,
        chunk=chunk,
    )


__all__ = ["MISSING", "Cublas", "Emulated", "build", "make_device", "options"]
