"""Memory that is not in use any more, and that the C library would keep for later."""

from __future__ import annotations

import contextlib
import ctypes


def return_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
