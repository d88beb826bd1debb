"""A window that is cut into many tasks."""

import pytest

from rna_watch.window import tasks_plan

from . import windows


@pytest.fixture
def small_tasks(monkeypatch):
    """Tasks of a few tensors, so that small models are cut into many."""
    monkeypatch.setattr(tasks_plan, "TASK_ELEMENTS", 2000)


@pytest.fixture
def layouts(small_tasks, tmp_path):
    """A window whose Gram matrix takes a dozen tasks."""
    return windows.write(tmp_path)
