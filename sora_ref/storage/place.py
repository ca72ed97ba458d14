"""Where fetched models and data, and compiled kernels, are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The cache folder: ``$SORA_REF_CACHE``, or the user's cache folder on this system."""
    chosen = os.environ.get("SORA_REF_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("sora_ref")
