"""What every evaluating process must give: one contract for the child process and the Ray actor."""

import json
import os
import threading

import psutil
import pytest

from rna_watch.errors import Cancelled, EvaluationFailed

from . import users_evaluator as user
from .models import FILE, NETWORK, combination, network_window, request, spec

LIMIT_S = 2.0


def is_gone(pid, within_s=20.0):
    """Whether a process ends soon (a zombie that nobody waits for has ended)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.wait(within_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def line_of(text, file=FILE):
    """The number of the line of the user's file that has this text."""
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


class EvaluatorContract:
    """The contract; a subclass has a class-scoped fixture `make`, which gives an evaluator for a specification."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        """The working directory of the command that started us."""
        return tmp_path_factory.mktemp("run")

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls, make, folder):
        """One evaluator for many tests, as in a run."""
        settings = {"OF_THE_CALLER": "yes"}
        return make(spec(folder, function=f"{FILE}:evaluate", timeout_s=LIMIT_S, environment=settings))

    @pytest.fixture(scope="class")
    @classmethod
    def able(cls, make, folder):
        """An evaluator whose file offers everything."""
        return make(spec(folder, function=f"{NETWORK}:evaluate", timeout_s=LIMIT_S))

    @pytest.fixture(scope="class")
    @classmethod
    def window(cls, folder):
        """Three checkpoints of its network."""
        return network_window(folder)

    @pytest.fixture
    def mode(self, folder):
        """Makes the optional functions of that file misbehave."""
        yield (folder / "mode").write_text
        (folder / "mode").unlink()

    def check_good(self, evaluator, folder):
        """A good evaluation; returns what the user's code saw."""
        found = evaluator.evaluate(combination(folder))
        assert found.metrics == {"total": 8.0, "one": 1.0}
        assert list(found.metrics) == ["total", "one"]
        assert found.seconds > 0
        return json.loads((folder / "seen.json").read_text())

    def test_the_user_s_code_gets_a_plain_model_at_home(self, evaluator, folder):
        """Plain keys, the device, no gradients, the caller's directory and environment; its data is loaded once."""
        first = self.check_good(evaluator, folder)
        assert first == {
            "keys": ["w", "mode"],
            "device": "cpu",
            "gradients": False,
            "threads": 1,
            "cwd": str(folder),
            "cuda": first["cuda"],
            "variable": "yes",
            "loaded": 1,
            "calls": first["calls"],
        }
        second = self.check_good(evaluator, folder)
        assert second["loaded"] == 1
        assert second["calls"] == first["calls"] + 1
        assert psutil.pid_exists(evaluator.pid())

    @pytest.mark.parametrize(
        ("mode", "message"),
        [
            (
                user.RAISE,
                rf"^users_evaluator.py:{line_of('raise Look')}: LookupError: the validation set is gone$",
            ),
            (user.WRONG, r"^the evaluator must return a dict of metric names to numbers, not \[0\.5\]$"),
            (user.NUMBER, r"^metric 'loss' is 'low', not a number$"),
            (user.EXIT, rf"^users_evaluator.py:{line_of('sys.exit')}: SystemExit: 3$"),
        ],
        ids=["raise", "wrong type", "no number", "sys.exit"],
    )
    def test_what_the_user_s_code_does_wrong_is_told(self, evaluator, folder, mode, message):
        """The error names the class, the words and the user's line; the process lives on and evaluates the next model."""
        self.check_good(evaluator, folder)
        before = evaluator.pid()
        with pytest.raises(EvaluationFailed, match=message):
            evaluator.evaluate(combination(folder, mode))
        self.check_good(evaluator, folder)
        assert evaluator.pid() == before

    def test_a_process_that_dies_is_replaced(self, evaluator, folder):
        """A crash of the user's code costs one evaluation; the next has a new process."""
        self.check_good(evaluator, folder)
        before = evaluator.pid()
        with pytest.raises(EvaluationFailed, match="the evaluator's process died"):
            evaluator.evaluate(combination(folder, user.DIE))
        assert self.check_good(evaluator, folder)["calls"] == 1
        assert evaluator.pid() != before
        assert is_gone(before)

    def test_a_process_that_hangs_is_ended_with_its_children(self, evaluator, folder):
        """Past its time limit an evaluation ends, and what it had started with it; the next one works."""
        with pytest.raises(
            EvaluationFailed, match=rf"longer than {LIMIT_S:g} s and was ended; raise --evaluation-timeout"
        ):
            evaluator.evaluate(combination(folder, user.HANG))
        assert is_gone(int((folder / "grandchild").read_text()))
        self.check_good(evaluator, folder)

    def test_close_ends_a_running_evaluation(self, make, folder):
        """Called from another thread, `close` makes the evaluation raise Cancelled soon, and ends its process; for good."""
        os.mkfifo(folder / "begun")
        evaluator = make(spec(folder, function=f"{FILE}:evaluate"))
        pids = []

        def close():
            with open(folder / "begun"):
                pids.append(evaluator.pid())
            evaluator.close()

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        with pytest.raises(Cancelled):
            evaluator.evaluate(combination(folder, user.WAIT))
        thread.join()
        assert is_gone(pids[0])
        assert evaluator.pid() is None
        with pytest.raises(Cancelled):
            evaluator.evaluate(combination(folder))
        evaluator.close()

    def test_a_file_that_cannot_be_imported_is_told_with_its_line(self, make, folder):
        """A syntax error in the user's file names file and line."""
        (folder / "broken.py").write_text("import torch\n\ndef evaluate(state_dict, device)\n    return {}\n")
        evaluator = make(spec(folder, function="broken.py:evaluate"))
        with pytest.raises(EvaluationFailed, match=r"broken.py cannot be imported: broken.py:3: SyntaxError: "):
            evaluator.evaluate(combination(folder))
        assert evaluator.pid() is None

    def test_what_the_file_offers_is_told(self, evaluator, able):
        """Optional functions and arguments of the user's file are known to the daemon."""
        assert able.offers() == {"fraction", "normalization", "training_loss"}
        assert evaluator.offers() == frozenset()

    def test_values_by_example_come_along(self, able, window):
        """Values by example arrive whole, as arrays of our own, for a part of the data or all of it."""
        whole, part = able.evaluate(window), able.evaluate(window, fraction=0.25)
        assert list(whole.examples) == ["error"]
        assert len(whole.examples["error"]) == 100
        assert len(part.examples["error"]) == 25
        assert part.metrics["fraction"] == 0.25
        assert whole.metrics["error"] == whole.examples["error"].mean()
        whole.examples["error"] += 1.0
        assert whole.statistics == {}

    def test_statistics_are_re_estimated(self, able, window):
        """The model is evaluated with statistics of its own, which come along under the stored names."""
        before, found = able.evaluate(window), able.evaluate(window, re_estimate=True)
        assert set(found.statistics) == {"module.bn.running_mean", "module.bn.running_var"}
        assert found.metrics["mean"] == pytest.approx(found.statistics["module.bn.running_mean"].sum())
        assert found.metrics["mean"] != before.metrics["mean"]
        assert able.evaluate(window, re_estimate=True).metrics["calls"] == found.metrics["calls"] == 1

    def test_weights_are_fitted(self, able, window):
        """Weights of sum one with a lower loss come back, the same for the same seed."""
        found = able.fit(request(window))
        assert len(found.losses) == 4  # at the start, and after each of three rounds
        assert list(found.losses) == sorted(found.losses, reverse=True)
        assert found.losses[-1] < found.losses[0]
        assert abs(sum(found.weights) - 1.0) <= 1e-12
        assert found.seconds > 0
        again = able.fit(request(window))
        assert (again.weights, again.losses) == (found.weights, found.losses)
        assert able.fit(request(window, seed=2)).losses != found.losses

    def test_what_optional_functions_do_wrong_is_told(self, able, window, mode):
        """An error in them names the user's line, and the process lives on."""
        place = rf"^users_network.py:{line_of('raise Look', NETWORK)}: LookupError: the training set is gone$"
        before = able.evaluate(window) and able.pid()
        mode("raise")
        with pytest.raises(EvaluationFailed, match=place):
            able.fit(request(window))
        assert able.pid() == before

    def test_a_fit_that_hangs_is_ended(self, able, window, mode):
        """A fit has the time limit of an evaluation; the next model has a new process."""
        before = able.evaluate(window) and able.pid()
        mode("hang")
        with pytest.raises(EvaluationFailed, match=rf"longer than {LIMIT_S:g} s and was ended"):
            able.fit(request(window))
        assert is_gone(before)
        assert able.evaluate(window).metrics["fraction"] == 1.0

    def test_a_command_is_ended_with_all_that_it_started(self, make, folder):
        """`close` during a shell command ends the shell, its children, and theirs."""
        os.mkfifo(folder / "pids")
        command = "(sleep 1000 & echo $! > deep; wait) & until [ -s deep ]; do :; done; cat deep > pids; wait"
        evaluator = make(spec(folder, command=command))
        pids = []

        def close():
            pids.append(int((folder / "pids").read_text()))
            evaluator.close()

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        with pytest.raises(Cancelled):
            evaluator.evaluate(combination(folder))
        thread.join()
        assert is_gone(pids[0])
