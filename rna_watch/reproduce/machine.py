"""The machine of an experiment: its device, what that is called, and one thread for results that can be compared."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator


def device() -> str:
    """The torch device that is used: cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """What that device is called."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One thread in torch and in the linear algebra of numpy: the same bits, and times that can be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
