"""Tiny networks train faster on one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, and the number of before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
