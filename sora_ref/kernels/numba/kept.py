"""Compiled functions on disk, in the folder `kernels` of the cache folder.

Numba's own cache is not used, for three reasons.  It goes by the file of a function alone, so that a change in a
function which that one calls leaves the old machine code in use.  It has one index for all signatures of a function:
two processes that write it at once may leave the machine code of one type under the name of another
(findings/numba_cache_of_two_processes.sh).  It has no checksum, and a damaged file ends in a traceback or worse.

Here every signature is a file of its own, which is whole or absent.  Its name holds a digest of all that its machine
code depends on: the versions of Numba, of llvmlite and of Python, the sources of the kernels, the processor, and the
types of the arguments.  It begins with the sha256 of its name and of the rest.  What cannot be read, is damaged,
or was kept under another name, is compiled anew; where nothing can be written, nothing is kept; neither is an error.
The folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite.binding import add_symbol, address_of_symbol
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime import _nrt_python
from numba.core.serialize import dumps

from sora_ref.errors import SoRAError
from sora_ref.storage.files import write_bytes
from sora_ref.storage.place import cache_dir
from sora_ref.storage.regular import read_regular

_DIGEST = 32  # bytes of a sha256


class Kept(_Cache):  # type: ignore[misc]
    """The place on disk of one function's machine code, as Numba's dispatcher wants it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        closed_over = tuple(cell.cell_contents for cell in function.__closure__ or ())
        self._code = function.__code__.co_code, dumps(closed_over)
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The folder; it need not exist.  Empty for a user who has none."""
        with suppress(SoRAError):
            return str(folder())
        return ""

    def path(self, signature: Any, codegen: Any) -> Path:
        """The file of this signature on this processor."""
        parts = (str(signature), codegen.magic_tuple(), self._code, numba.config.OPT, numba.config.BOUNDSCHECK)
        return folder() / f"{self._name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was kept for these types; None where it must be compiled.

        Numba's own cache first loads all that the compiler knows of Python and NumPy: half a second and 47 MB.  Here
        that is done only for machine code that calls a function whose address is not known before.
        """
        if not self._enabled:
            return None
        try:
            payload = _read(self.path(sig, target_context.codegen()))
        except SoRAError:  # there is no folder, or no such file
            return None
        if payload is None:
            return None
        _tell_runtime()
        called, reduced = pickle.loads(payload)
        if any(address_of_symbol(name) is None for name in called):
            target_context.refresh()
        return CompileResult._rebuild(target_context, *reduced)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for these types, unless its code holds addresses of this process."""
        if not self._enabled or data.lifted or data.library.has_dynamic_globals:
            return
        payload = dumps((_called(data.library._final_module), data._reduce()))
        with suppress(SoRAError):  # no folder, or one that is read-only or full: it is compiled again next time
            path = self.path(sig, data.codegen)
            write_bytes(path, _digest(path, payload) + payload)

    def enable(self) -> None:
        """Read and write again."""
        self._enabled = True

    def disable(self) -> None:
        """Neither read nor write."""
        self._enabled = False

    def flush(self) -> None:
        """Forget what is kept of this function, as `Dispatcher.recompile` wants it."""
        with suppress(OSError, SoRAError):
            for path in folder().glob(f"{self._name}-*"):
                path.unlink(missing_ok=True)


def folder() -> Path:
    """Where machine code from these sources, made by these versions, is kept."""
    return cache_dir() / "kernels" / sources_digest(Path(__file__).parents[1])[:16]


@cache
def sources_digest(kernels: Path) -> str:
    """A digest of the versions of what compiles, and of all modules below this folder."""
    made_by = (numba.__version__, llvmlite.__version__, sys.version)
    digest = hashlib.sha256(repr(made_by).encode())
    for path in sorted(kernels.rglob("*.py")):
        digest.update(f"\0{path.relative_to(kernels).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _tell_runtime() -> None:
    """Tell LLVM the addresses of Numba's runtime in C, which nearly every compiled function calls.

    These are the first lines of `numba.core.runtime.rtsys.initialize`, whose rest is for what is yet to be compiled.
    """
    for name, address in _nrt_python.c_helpers.items():
        add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def _called(module: Any) -> list[str]:
    """The functions and variables that this LLVM module uses and does not define; LLVM's own are not among them."""
    used = (*module.functions, *module.global_variables)
    return [one.name for one in used if one.is_declaration and not one.name.startswith("llvm.")]


def _read(path: Path) -> bytes | None:
    """What follows the digest that a file begins with; None where it is another, SoRAError where there is no file."""
    data = read_regular(path, "machine code")
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    return payload if _digest(path, payload) == digest else None


def _digest(path: Path, payload: bytes) -> bytes:
    """That of a file's name and what it holds: machine code for other types would compute, and not what was asked."""
    return hashlib.sha256(path.name.encode() + b"\0" + payload).digest()
