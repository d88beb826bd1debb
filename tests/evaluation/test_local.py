import os
import subprocess
import sys

import psutil
import pytest

from rna_watch.errors import EvaluationFailed
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
