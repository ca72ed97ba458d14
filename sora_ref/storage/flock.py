"""A lock on an open file or folder: the system releases it when it is closed, or when its process dies.

macOS and Linux have such locks (flock); Windows has none for folders, and none here.
"""

from __future__ import annotations

import errno
import os
import sys

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def flock(descriptor: int, *, wait: bool) -> None:
    """Hold the open file or folder until it is closed.

    Raises OSError where there are no locks, on this system or its file system, and, unless told to `wait`, where
    another process holds it.
    """
    if sys.platform == "win32" or fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
