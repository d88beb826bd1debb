import os
import signal
import subprocess
import sys

import pytest
import torch

from rna_watch.engine import local
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import EngineError
from rna_watch.window import tasks_plan
from tests.engine import windows
from tests.engine.contract import EngineContract, check_cancel
from tests.evaluation.contract import is_gone


@pytest.fixture(scope="class")
def large_work():
    """Even small work counts as large, and goes to child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_SMALL_BYTES", 0)
        yield


@pytest.fixture(
    scope="class",
    params=[(1, False), (2, False), (2, True)],
    ids=["in this process", "in two children", "in this process and a child"],
)
def engine(request, large_work):
    """A local engine for many tests, closed at the end."""
    workers, here = request.param
    engine = LocalEngine(workers, here=here)
    yield engine
    engine.close()


class TestLocalEngine(EngineContract):
    """The contract in this process and in children of it."""


@pytest.mark.parametrize(("workers", "here"), [(1, False), (2, False), (2, True)])
def test_cancel_is_heard_soon(workers, here, large_work, layouts):
    """Another thread can make it give up."""
    engine = LocalEngine(workers, here=here)
    check_cancel(engine, layouts)
    engine.close()


def test_close_ends_its_children(large_work, layouts):
    """Its processes are listed: this one, and as many children as there are workers; after `close` none is left."""
    engine = LocalEngine(2)
    windows.gram(layouts, engine.map)
    assert [process.name for process in engine.processes()] == ["daemon", "worker", "worker"]
    assert engine.processes()[0].pids == (os.getpid(),)
    engine.close()
    assert [process.name for process in engine.processes()] == ["daemon"]


def test_a_process_that_works_too_has_one_child_less(large_work, layouts):
    """Children that were prepared load while the caller goes on; with `here` there is one less than there are workers."""
    engine = LocalEngine(2, here=True)
    engine.prepare(0)
    assert [process.name for process in engine.processes()] == ["daemon", "worker"]
    assert windows.gram(layouts, engine.map).rows.tobytes() == windows.gram(layouts).rows.tobytes()
    assert len(engine.processes()) == 2
    engine.close()


def test_small_work_starts_no_process(layouts):
    """A window of a few kilobytes is done here, whatever the number of workers."""
    engine = LocalEngine(2)
    windows.gram(layouts, engine.map)
    assert [process.name for process in engine.processes()] == ["daemon"]
    engine.close()


def test_a_child_that_dies_is_an_error_of_the_engine(large_work, layouts):
    """A killed child is not waited for: the map ends with an error that says so."""
    engine = LocalEngine(2)
    windows.gram(layouts, engine.map)
    for process in engine.processes()[1:]:
        os.kill(process.pids[0], signal.SIGKILL)
    with pytest.raises(EngineError, match="child process"):
        windows.gram(layouts, engine.map)
    engine.close()


def test_children_of_a_killed_parent_end(tmp_path):
    """The engine's children end by themselves after SIGKILL of the process that owns it."""
    code = (
        "import sys\n"
        "from rna_watch.engine import local\n"
        "from rna_watch.window import tasks_plan\n"
        "if __name__ == '__main__':\n"
        "    local._SMALL_BYTES = 0\n"
        "    engine = local.LocalEngine(2)\n"
        "    engine.map([tasks_plan.CopyTask(files=(), copies=(), outputs=())] * 4)\n"
        "    print(*(each.pids[0] for each in engine.processes()[1:]), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    script = tmp_path / "owner.py"
    script.write_text(code)
    owner = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children = [int(pid) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.communicate()
    assert len(children) == 2
    assert all(is_gone(pid) for pid in children)


def test_the_result_does_not_depend_on_the_order_of_completion(large_work, tmp_path, monkeypatch):
    """Tasks that end in any order are merged in the plan's: the last bits agree over many runs."""
    monkeypatch.setattr(tasks_plan, "TASK_ELEMENTS", 700)
    found = windows.write(tmp_path, rows=60)
    engine = LocalEngine(2)
    try:
        assert len({windows.gram(found, engine.map).rows.tobytes() for _ in range(10)}) == 1
    finally:
        engine.close()


def test_torch_is_not_needed(tmp_path):
    """The engine's work is done by numpy alone: torch is for evaluators."""
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    code = (
        "import sys\n"
        "from rna_watch.engine.local import LocalEngine\n"
        "from rna_watch.window import tasks_plan\n"
        "from rna_watch.formats.probe import probe\n"
        "layout = probe(sys.argv[1])\n"
        "engine = LocalEngine(1)\n"
        "assert engine.map(tasks_plan.gram_tasks([layout, layout], 1, 1.0))[0].rows.tolist() == [[0.0]]\n"
        "engine.close()\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pt")], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("count", [2, 7, 16, 33])
def test_each_worker_has_neighbouring_tasks(count, workers, own):
    """Taken from the front by turns, and by one of them from the end, each gets a run of neighbours; all tasks are there once."""
    order = local._runs(count, workers, own=own)
    assert sorted(order) == list(range(count))
    size = -(-count // workers)
    parts = -(-count // size)
    taken = [order[-1 : -1 - (count - (parts - 1) * size) : -1]] if own and parts == workers else []
    front = order[: count - len(taken[0])] if taken else order
    taken += [[each for each in front if each // size == number] for number in range(parts)]
    for run in filter(None, taken):
        assert run == list(range(run[0], run[0] + len(run)))
