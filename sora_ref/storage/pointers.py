"""Files that stand for others: Git LFS leaves a short text where a large file was not fetched."""

from __future__ import annotations

from pathlib import Path

from sora_ref.checks import require
from sora_ref.errors import printable

_LFS = b"version https://git-lfs.github.com/spec/"  # how every pointer begins


def require_no_pointer(path: Path, head: bytes) -> None:
    """SoRAError where a file with these first bytes is a Git LFS pointer; it says which command fetches the file."""
    require(
        not head.startswith(_LFS),
        f"{printable(str(path))}: a Git LFS pointer, not the file itself: expected its contents, which `git lfs pull` "
        f"in that repository fetches",
    )
