"""Threads that share out microbatches; the result does not depend on how many there are."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

ParallelMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # results in the order of the items

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_MIB = 2**20


@contextmanager
def worker_pool(workers: int) -> Iterator[ParallelMap]:
    """A `map` over this many threads, one per available core where 0.

    NumPy lets go of the interpreter lock inside its operations, so two threads with a BLAS of one thread each beat one
    with a BLAS of two.  BLAS has one thread for every number of workers, 1 included: so the bits are the same.  Where
    the system starts fewer threads, there are fewer; where none, this thread does the work.
    """
    count = workers or available_cores()
    keep_freed_memory()
    pool = _started(count)
    with threadpool_limits(limits=1, user_api="blas"), pool or nullcontext():
        yield pool.map if pool is not None else map


def available_cores() -> int:
    """The cores that this process may use; on macOS and Windows, which do not say which, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _started(count: int) -> ThreadPoolExecutor | None:
    """A pool whose threads run already, `count` or as many as can be started; None where not one can be."""
    while count:
        pool, held, running = ThreadPoolExecutor(count), threading.Event(), 0
        try:
            while running < count:
                pool.submit(held.wait)  # a thread each, for none of them is idle
                running += 1
            return pool
        except RuntimeError:  # "can't start new thread"
            held.set()
            pool.shutdown()
            count = running
        finally:
            held.set()
    return None


def keep_freed_memory() -> bool:
    """Have glibc keep what NumPy frees for the next array, for the rest of the process; whether it will.

    By default arrays of some megabytes go back to the kernel when they are freed, and every new one is cleared page by
    page: 60,000 page faults in a step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    kept = [(_MMAP_THRESHOLD, 32 * _MIB), (_TRIM_THRESHOLD, 1024 * _MIB), (_TOP_PAD, 32 * _MIB)]
    return all(mallopt(option, size) == 1 for option, size in kept)
