"""Threads that share out microbatches; the result does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # map, in the order of the items


@contextmanager
def worker_pool(workers: int) -> Iterator[Each]:
    """A `map` over this many threads, one per available core where 0.

    NumPy lets go of the interpreter lock inside its operations, so two threads with a BLAS of one thread each beat one
    with a BLAS of two.  BLAS has one thread for every number of workers, 1 included: so the bits are the same.
    """
    count = workers or len(os.sched_getaffinity(0))
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(count) as pool:
        yield pool.map
