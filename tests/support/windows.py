"""What Windows does otherwise, as far as Linux can imitate it.

No folder can be opened, a file or folder that is open (or lies above an open one) can be neither renamed nor removed,
renaming never replaces, and some names of `os` and all of `fcntl` are missing.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sora_ref.storage import flock

MISSING = ("O_DIRECTORY", "O_NOFOLLOW", "pwrite", "sched_getaffinity")  # and O_NONBLOCK, which filelock takes here


def imitate(patch: pytest.MonkeyPatch) -> None:
    for name in MISSING:
        patch.delattr(os, name)
    patch.setattr(flock, "fcntl", None)
    patch.setattr(shutil, "_use_fd_functions", False)  # rmtree goes by paths there
    really_open = os.open

    def opened(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really_open(path, *arguments, **options)

    patch.setattr(os, "open", opened)
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        patch.setattr(os, name, _refusing_what_is_open(getattr(os, name), name))


def _refusing_what_is_open(really: Callable[..., None], name: str) -> Callable[..., None]:
    def act(*paths: Any, **options: Any) -> None:
        held_open = open_files()
        for path in map(os.path.abspath, paths):
            if any(file == path or file.startswith(f"{path}{os.sep}") for file in held_open):
                raise PermissionError(errno.EACCES, "Permission denied", path)
        if name == "rename" and os.path.lexists(paths[1]):
            raise FileExistsError(errno.EEXIST, "File exists", str(paths[1]))
        really(*paths, **options)

    return act


def open_files() -> set[str]:
    """Every file that this process has open or mapped."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(descriptor))
        except FileNotFoundError:  # the one that lists them
            continue
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return found | {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/")}
