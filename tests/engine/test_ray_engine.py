"""The Ray engine, started once for all tests of this module (each start takes seconds); the last ones close it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rna_watch.engine.ray_engine import RayEngine
from rna_watch.errors import EngineError
from rna_watch.window import tasks_plan
from tests.evaluation.contract import EvaluatorContract, is_gone

from . import windows
from .contract import EngineContract, check_cancel

pytestmark = pytest.mark.xdist_group("ray")  # two clusters at a time would be too much for two cores


def on_terminate(_number, _frame):
    """The calling program's own handler."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home folder."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def others():
    """The processes below this one that are none of Ray's (pytest's own, another engine's)."""
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def engine(home, others):
    """Ray, started by us in a program with its own home, its own handler of SIGTERM and a GPU that is none of our business."""
    environment, handler = dict(os.environ), signal.signal(signal.SIGTERM, on_terminate)
    os.environ["HOME"] = str(home)
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    engine = RayEngine(2)
    yield engine
    engine.close()
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(environment)


def workers(engine):
    """The numbers of Ray's worker processes."""
    return [pid for process in engine.processes() if process.name == "worker" for pid in process.pids]


class TestRayEngine(EngineContract):
    """The contract on Ray."""

    def test_the_handlers_of_signals_are_the_caller_s(self, engine):
        """Ray's start leaves SIGTERM to the program that called us."""
        assert signal.getsignal(signal.SIGTERM) is on_terminate

    def test_nobody_else_gets_at_it(self, engine):
        """Every part listens on this machine's loopback alone, and the folder of its sockets is closed to other users."""
        assert stat.S_IMODE(engine._session.folder.parent.stat().st_mode) == 0o700
        below = {engine_process.pid for engine_process in psutil.Process().children(recursive=True)} | {os.getpid()}
        listening = {
            each.laddr.ip.removeprefix("::ffff:")
            for pid in below
            for each in psutil.Process(pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}

    def test_no_key_is_left_in_the_home_folder(self, engine, home):
        """Ray writes no authentication file, which would change the user's other clusters."""
        assert list(home.rglob("*")) == []

    def test_workers_see_no_gpu(self, engine, layouts):
        """Workers that asked for no GPU see none, whatever the caller sees."""
        windows.gram(layouts, engine.map)
        seen = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in workers(engine)]
        assert any(b"CUDA_VISIBLE_DEVICES=" in environment for environment in seen)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"

    def test_a_worker_that_is_killed_costs_nothing(self, engine, layouts):
        """Workers killed in the midst of a map (out of memory, say) are replaced, and the result has the same bits."""
        work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB) * 5
        killed = []

        def on_done(_task):
            if not killed:
                for pid in workers(engine):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

        results = engine.map(work, on_done)
        assert killed
        expected = windows.serial(work[: len(work) // 5]) * 5
        assert [result.rows.tobytes() for result in results] == [result.rows.tobytes() for result in expected]


class TestRayEvaluator(EvaluatorContract):
    """The evaluator's contract in a Ray actor."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, engine):
        """Makes evaluators, and closes them in the end."""
        made = []

        def make(specification):
            made.append(engine.evaluator(specification))
            return made[-1]

        yield make
        for evaluator in made:
            evaluator.close()

    def test_the_actor_sees_no_gpu(self, evaluator, folder):
        """User's code that asked for no GPU sees none."""
        assert self.check_good(evaluator, folder)["cuda"] == ""


class TestItsEnd:
    """What is left when it ends."""

    def test_an_address_where_nothing_answers_is_an_engine_error(self):
        """A cluster that cannot be reached is reported with its address, and our own goes on."""
        code = (
            "from rna_watch.engine.ray_engine import RayEngine\n"
            "from rna_watch.errors import EngineError\n"
            "try:\n    RayEngine(1, address='127.0.0.1:1')\n"
            "except EngineError as error:\n    print(error)\n"
        )
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.startswith("nothing answers at 127.0.0.1:1 (Connection refused); correct --ray-address")

    def test_a_program_without_a_parent_outlives_a_raylet(self):
        """Ray does not end a program that nothing waits for (a background process, a container) with its raylet."""
        code = (
            "import os, signal, sys\n"
            "from rna_watch.engine import ray_engine\n"
            "engine = ray_engine.RayEngine(1)\n"
            "os.kill(engine._parts['raylet'], signal.SIGKILL)\n"
            "engine.close()\n"
            "print('ended in order', os.getppid(), file=sys.stderr)\n"
        )
        orphan = ["sh", "-c", 'trap "" HUP; "$0" -c "$1" >/dev/null &', sys.executable, code]
        child = subprocess.run(orphan, stderr=subprocess.PIPE, text=True, check=True, timeout=120)
        assert "ended in order" in child.stderr

    def test_cancel_is_heard_soon(self, engine, layouts):
        """Another thread can make it give up, and its evaluators with it."""
        check_cancel(engine, layouts)

    def test_close_leaves_nothing(self, engine, others):
        """There is no process of Ray, no session folder and no key after `close`, and the caller's handlers are back."""
        session = engine._session.folder.parent
        assert session.is_dir()
        processes = set(psutil.Process().children(recursive=True)) - others
        assert {process.pid for process in processes} >= set(workers(engine))
        assert len(processes) > 4
        engine.close()
        assert all(is_gone(process.pid) for process in processes)
        assert not session.exists()
        assert signal.getsignal(signal.SIGTERM) is on_terminate
        engine.close()


def test_where_ray_is_not_installed_that_is_said(monkeypatch):
    """It is an error in words, with the way on, and no defect."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match="Ray cannot be used on this machine .*; try --engine local"):
        RayEngine(1)
