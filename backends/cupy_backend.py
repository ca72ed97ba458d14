"""CuPy: NVIDIA GPUs.  Loading this module finds out whether one can be used, and says why where none can.

The host never waits but in `to_host`.  `from_host` returns at once: CuPy copies through pinned memory of its own, which
it holds until the copy is done, in the order of the stream.  The pool's memory may be bounded by the environment
variable CUPY_GPU_MEMORY_LIMIT, a number of bytes or a share such as 50%.
"""

from __future__ import annotations

import array_api_compat.cupy as xp
import cupy as cp
from cupyx.scipy.special import erf

from sora_ref.backends import Backend
from sora_ref.backends.cupy_probe import require_device
from sora_ref.backends.cupy_scatter import make_scatter_add

require_device(cp)


def _memory() -> int:
    return int(cp.get_default_memory_pool().total_bytes())  # the pool gives nothing back, so this is its peak


BACKEND = Backend(
    name="cupy",
    xp=xp,
    from_host=cp.asarray,
    to_host=cp.asnumpy,
    erf=erf,
    scatter_add=make_scatter_add(cp),
    shares_memory=cp.may_share_memory,
    synchronous=False,
    memory=_memory,
)
