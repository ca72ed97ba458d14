"""The decorator of every compiled kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, overload

import numba
from numba.core.event import Listener, install_listener
from numba.core.registry import cpu_target

from sora_ref.kernels.numba.kept import Kept

F = TypeVar("F", bound=Callable[..., Any])
Flag = Literal["contract", "reassoc"]


@overload
def compiled(function: F) -> F: ...


@overload
def compiled(*, fastmath: Set[Flag]) -> Callable[[F], F]: ...


def compiled(function: F | None = None, *, fastmath: Set[Flag] = frozenset()) -> F | Callable[[F], F]:
    """Have Numba compile a function when it is first called with arguments of new types; see `Kept` for the cache.

    It runs without the interpreter's lock, so that it computes in any number of threads at once.  A division by zero
    gives what IEEE 754 says, as in NumPy, and no error.

    fastmath: what the compiler may do to sums and products, by LLVM's names: "contract" rounds a product and the sum it
              goes into once, not twice; "reassoc" gives a sum several partial sums, in an order that is fixed once it
              is compiled.  No other is allowed: most of them give NaN, infinities or signs of zero up.
    """

    def compile_later(function: F) -> F:
        made: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath))(function)
        if made is not function:  # as it is with NUMBA_DISABLE_JIT
            made._cache = Kept(function)
        return made  # type: ignore[no-any-return]

    return compile_later if function is None else compile_later(function)


def processor() -> str:
    """The processor that functions are compiled for: its name in LLVM, and a digest of the instructions it offers."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return f"{name} (instructions {hashlib.sha256(features.encode()).hexdigest()[:8]})"


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Within it, `tell` hears the name of every function when its compilation begins; of none that was on disk."""
    with install_listener("numba:compile", _Told(tell)):
        yield


class _Told(Listener):  # type: ignore[misc]
    """Passes the names on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def on_start(self, event: Any) -> None:
        """A compilation begins."""
        self._tell(event.data["dispatcher"].py_func.__name__.strip("_"))

    def on_end(self, event: Any) -> None:
        """It has ended."""
