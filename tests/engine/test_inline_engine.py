import os
import threading

import pytest
import torch

from rna_watch.engine import plan
from rna_watch.engine.inline import InlineEngine

from . import windows
from .contract import EngineContract, check_cancel


@pytest.fixture(params=[1, 3], ids=["1 worker", "3 workers"])
def engine(request):
    """An inline engine, closed at the end."""
    engine = InlineEngine(request.param)
    yield engine
    engine.close()


class TestInlineEngine(EngineContract):
    """The contract on threads of this process."""

    def test_cancel_is_heard_soon(self, engine, layouts):
        """Another thread can make it give up."""
        check_cancel(engine, layouts)

    def test_close_ends_its_threads(self, engine, layouts):
        """After `close` no thread of the engine is left."""
        windows.gram(layouts, engine.map)
        assert any(thread.name.startswith("rna-watch-task") for thread in threading.enumerate())
        engine.close()
        assert not any(thread.name.startswith("rna-watch-task") for thread in threading.enumerate())

    def test_it_works_in_this_process(self, engine):
        """Its tasks run in the calling process, which is told."""
        assert (engine.name, engine.processes()[0].pids) == ("inline", (os.getpid(),))


def test_the_result_does_not_depend_on_the_order_of_completion(tmp_path, monkeypatch):
    """Tasks that end in any order are merged in the plan's: the last bits agree over many runs."""
    monkeypatch.setattr(plan, "TASK_ELEMENTS", 700)
    found = windows.write(tmp_path, rows=60)
    engine = InlineEngine(4)
    try:
        assert len({windows.gram(found, engine.map).rows.tobytes() for _ in range(10)}) == 1
    finally:
        engine.close()


def test_torch_is_not_needed(tmp_path):
    """The engine's work is done by numpy alone: torch is for evaluators."""
    import subprocess
    import sys

    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    code = (
        "import sys\n"
        "from rna_watch.engine.inline import InlineEngine\n"
        "from rna_watch.engine import plan\n"
        "from rna_watch.checkpoints.probe import probe\n"
        "layout = probe(sys.argv[1])\n"
        "engine = InlineEngine(1)\n"
        "assert engine.map(plan.gram_tasks([layout, layout], 1, 1.0))[0].rows.tolist() == [[0.0]]\n"
        "engine.close()\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pt")], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
