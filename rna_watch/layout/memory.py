"""Memory: what is not in use any more and the C library would keep, and what is made at once and need not be searched."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_M_ARENA_MAX = -8  # glibc's malloc.h


def keep_little() -> None:
    """Have many threads share one pool of memory, where the C library would keep one for each few (glibc): 0.8 MB less a run."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def return_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def unsearched() -> Iterator[None]:
    """While much is made that stays, cycles are not looked for: each search would go over all of it."""
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()
