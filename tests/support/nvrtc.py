"""NVRTC by ctypes: CUDA C++ compiled where there is neither a GPU nor a driver."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path


@functools.cache
def library() -> ctypes.CDLL | None:
    """libnvrtc of the nvidia-cuda-nvrtc wheel, or the system's; None where there is none."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found is not None else []
    names = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"))]
    for name in [*names, "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(str(name))
        except OSError:
            continue
    return None


def compile_ptx(code: str, options: Sequence[str]) -> str:
    """The PTX of the code; ValueError with the compiler's log where it does not compile."""
    nvrtc, program = library(), ctypes.c_void_p()
    if nvrtc is None:
        raise RuntimeError("there is no libnvrtc: expected the wheel nvidia-cuda-nvrtc-cu12")
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), given)
    text = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    if status:
        raise ValueError(text)
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx


def _text(size_of: ctypes._NamedFuncPointer, read: ctypes._NamedFuncPointer, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.value.decode()
