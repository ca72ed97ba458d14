"""Where fetched models and data, and compiled kernels, are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from sora_ref.errors import SoRAError


def cache_dir() -> Path:
    """The cache folder: ``$SORA_REF_CACHE``, or the user's cache folder on this system.

    Raises SoRAError for a user who has none.
    """
    if chosen := os.environ.get("SORA_REF_CACHE"):
        return Path(chosen)
    try:
        return platformdirs.user_cache_path("sora_ref")
    except RuntimeError as error:  # a number without a name, as in a container, and no HOME
        raise SoRAError("this user has no home folder: expected SORA_REF_CACHE to name a cache folder") from error
