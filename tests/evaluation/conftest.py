"""What tests of the evaluating side share."""

import os
import sys

import pytest
import torch


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A worker changes directory, path and threads of its process: put them back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)
