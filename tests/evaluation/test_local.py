import errno
import json
import os
import subprocess
import sys

import psutil
import pytest

from rna_watch.errors import EngineError, EvaluationFailed
from rna_watch.evaluation import client, local
from rna_watch.evaluation.client import Evaluator
from rna_watch.evaluation.local import ChildProcess

from . import users_evaluator as user
from .contract import EvaluatorContract, is_gone
from .models import combination, spec


class TestLocalEvaluator(EvaluatorContract):
    """The contract in a child process."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        """Makes evaluators, and closes them in the end."""
        made = []

        def make(specification):
            made.append(Evaluator(specification, ChildProcess))
            return made[-1]

        yield make
        for evaluator in made:
            evaluator.close()

    def test_how_the_process_died_is_told(self, evaluator, folder):
        """The exit status is in the message."""
        with pytest.raises(EvaluationFailed, match=r"died \(status 3\)"):
            evaluator.evaluate(combination(folder, user.DIE))

    def test_a_file_that_is_mended_works(self, make, folder):
        """An evaluator that could not be loaded is loaded again at the next model."""
        file = folder / "mended.py"
        evaluator = make(spec(folder, function="mended.py:evaluate"))
        with pytest.raises(EvaluationFailed, match="mended.py does not exist"):
            evaluator.evaluate(combination(folder))
        file.write_text("def evaluate(state_dict, device):\n    return {'n': len(state_dict)}\n")
        assert evaluator.evaluate(combination(folder)).metrics == {"n": 2.0}


EDGES = """
import argparse, json, os, sys
import neighbour, there, random, statistics, named
assert argparse.ArgumentParser().parse_args() == argparse.Namespace()
import __main__
SEEN = {"argv": sys.argv, "main": sorted(name for name in vars(__main__) if not name.startswith("__"))}
SEEN["random"] = random.random() < 1


def evaluate(state_dict, device):
    if state_dict["mode"] == 1 and os.fork() == 0:
        return {"total": -1.0}
    if state_dict["mode"] == 2 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), 9)
    if state_dict["mode"] == 3:
        os.kill(os.getpid(), 9)
    with open("seen.json", "w") as file:
        json.dump(SEEN, file)
    return {"total": float(state_dict["w"].sum())}
"""


class TestEdges:
    """An evaluator beside files that are named like the standard library's."""

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory):
        """The working directory, and beside it the folders of the evaluator and of PYTHONPATH."""
        home = tmp_path_factory.mktemp("home")
        for name in ("random", "json", "socket", "threading"):
            (home / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
        for name, folder in (("neighbour", "code"), ("there", "home"), ("named", "path")):
            (home.parent / folder).mkdir(exist_ok=True)
            (home if folder == "home" else home.parent / folder).joinpath(f"{name}.py").write_text("")
        (home.parent / "code" / "edges.py").write_text(EDGES)
        return home

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls, home):
        """One for all of them, started from that folder."""
        function = f"{home.parent / 'code' / 'edges.py'}:evaluate"
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(home.parent / "path")]))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            patch.setattr(client, "PAUSES_S", (0.01, 0.01))
            evaluator = Evaluator(spec(home, function=function, environment={"PYTHONPATH": path}), ChildProcess)
            yield evaluator
            evaluator.close()

    def test_neighbours_are_found_and_the_standard_library_is_not_hidden(self, evaluator, home):
        """Its own folder, the current one and PYTHONPATH are searched; argv and `__main__` hold nothing of ours."""
        assert evaluator.evaluate(combination(home)).metrics == {"total": 8.0}
        seen = json.loads((home / "seen.json").read_text())
        assert seen == {"argv": [str(home.parent / "code" / "edges.py")], "main": [], "random": True}

    def test_a_function_that_forks_and_returns_twice_answers_once(self, evaluator, home):
        """The copy's answer is dropped, and the next model gets its own."""
        assert evaluator.evaluate(combination(home, 1)).metrics == {"total": 8.0}
        before = evaluator.pid()
        for _ in range(3):
            assert evaluator.evaluate(combination(home)).metrics == {"total": 8.0}
        assert evaluator.pid() == before

    def test_a_killed_process_is_tried_again_and_not_the_user_s_fault(self, evaluator, home):
        """Killed once, nothing is lost; killed always, the words name the machine."""
        assert evaluator.evaluate(combination(home, 2)).metrics == {"total": 8.0}
        with pytest.raises(
            EvaluationFailed, match=r"killed from outside \(signal SIGKILL\), as Linux does where memory"
        ):
            evaluator.evaluate(combination(home, 3))

    def test_too_few_descriptors_are_ours(self, home, monkeypatch):
        """EMFILE while a process is started is tried again; if it lasts, it is told as what it is."""
        monkeypatch.setattr(client, "PAUSES_S", (0.01, 0.01))
        tries = []

        def begin(specification):
            tries.append(specification)
            if len(tries) < 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return ChildProcess(specification)

        monkeypatch.chdir(home)
        text = (home.parent / "code" / "edges.py").as_posix()
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(home.parent / "path")]))
        evaluator = Evaluator(spec(home, function=f"{text}:evaluate", environment={"PYTHONPATH": path}), begin)
        assert evaluator.evaluate(combination(home)).metrics == {"total": 8.0}
        evaluator.close()
        del tries[:]
        monkeypatch.setattr(client, "PAUSES_S", ())
        with pytest.raises(EngineError, match="no process can be started for the evaluator"):
            Evaluator(spec(home, function=f"{text}:evaluate"), begin).evaluate(combination(home))


PARENT = """
import sys
from rna_watch.window.combine import Combination
from rna_watch.formats.probe import probe
from rna_watch.evaluation.client import Evaluator
from rna_watch.evaluation.evaluator import EvaluatorSpec
from rna_watch.evaluation.local import ChildProcess
folder, path = sys.argv[1:]
command = "sleep 1000 & echo $! > pid; wait"
spec = EvaluatorSpec(
    function=None, command=command, device="cpu", timeout_s=60.0, threads=1, cwd=folder, scratch=folder
)
Evaluator(spec, ChildProcess).evaluate(Combination(layouts=(probe(path),), weights=(1.0,)))
"""


def test_everything_ends_when_the_daemon_is_killed(tmp_path):
    """A daemon that is killed without a chance to clean up leaves neither its evaluator nor a command behind."""
    os.mkfifo(tmp_path / "pid")
    path = combination(tmp_path).layouts[0].path
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), path]) as parent:
        command = psutil.Process(int((tmp_path / "pid").read_text()))
        (evaluator,) = psutil.Process(parent.pid).children()
        assert command in evaluator.children(recursive=True)
        parent.kill()
    assert is_gone(evaluator.pid)
    assert is_gone(command.pid)


def test_a_process_that_was_started_early_is_taken_once_and_only_for_its_evaluator(tmp_path):
    """Another evaluator gets a process of its own, and what nobody takes is ended."""
    wanted, other = spec(tmp_path), spec(tmp_path, timeout_s=61.0)
    local.begin_early(wanted)
    ((_, early),) = local._early
    taken = local.begun(wanted)
    assert taken is early
    again = local.begun(wanted)
    local.begin_early(wanted)
    ((_, stale),) = local._early
    another = local.begun(other)
    assert len({early.pid, again.pid, stale.pid, another.pid}) == 4
    assert not stale.alive()
    local.begin_early(wanted)
    ((_, left),) = local._early
    local.end_early()
    assert not left.alive()
    for each in (taken, again, another):
        each.kill()
