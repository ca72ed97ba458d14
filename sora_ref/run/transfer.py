"""From the device to the host, in one transfer however many arrays there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace

from sora_ref.backends import Array, Backend


def gather_to_host(backend: Backend, arrays: Sequence[Array]) -> list[np.ndarray]:
    """These float arrays on the host, each with its shape and dtype.

    An asynchronous device (GPU) finishes all the work before it in its queue when something is transferred: so the
    arrays go over as one.  float32 among float64 travels as float64, which holds it exactly.
    """
    if backend.synchronous or len(arrays) < 2:
        return [backend.to_host(x) for x in arrays]
    xp = array_namespace(*arrays)
    widest = xp.result_type(*(x.dtype for x in arrays))
    together = backend.to_host(xp.concat([xp.reshape(xp.astype(x, widest), (-1,)) for x in arrays]))
    found, start = [], 0
    for x in arrays:
        end = start + math.prod(x.shape)
        own = np.float32 if x.dtype == xp.float32 else np.float64
        found.append(together[start:end].astype(own).reshape(tuple(x.shape)))
        start = end
    return found
