"""Whether compiled kernels can be tested here."""

from __future__ import annotations

try:
    import numba  # noqa: F401
except ImportError as error:
    MISSING: str | None = f"Numba cannot be imported ({error}): pip install 'sora_ref[fast]'"
else:
    MISSING = None
