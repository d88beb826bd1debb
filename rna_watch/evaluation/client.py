"""The daemon's side of a long-lived process that runs the user's evaluator; the same for every kind of process."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Protocol

from rna_watch.errors import Cancelled, EvaluationFailed, RnaWatchError
from rna_watch.evaluation.evaluator import Annealed, Evaluation, Fit
from rna_watch.evaluation.shortage import ShortOf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.evaluation.evaluator import AnnealRequest, EvaluatorSpec, FitRequest
    from rna_watch.window.combine import Combination

_START_LIMIT_S = 120.0
PAUSES_S = (0.2, 1.0, 3.0)  # between tries, where this machine is short of something or kills a process


class ProcessDied(Exception):  # noqa: N818 - an event between a process and its client, which says what it means
    """The evaluating process is gone; the text says how it ended.

    Args:
        text: how.
        killed: whether it was ended by someone else, not by itself.
        lost: whether the machine that it was on is lost.
    """

    def __init__(self, text: str, *, killed: bool = False, lost: bool = False) -> None:
        super().__init__(text)
        self.killed = killed
        self.lost = lost


class _Killed(EvaluationFailed):
    """Someone else ended the evaluator's process."""


class EvaluatorProcess(Protocol):
    """A process that hosts one `worker.AnsweringWorker`: a child of ours, or a Ray actor."""

    pid: int | None

    def alive(self) -> bool:
        """Whether the process can be asked, as far as is known."""

    def ask(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        """The worker's answer.

        Raises:
            TimeoutError: there was none within `limit_s` seconds.
            ProcessDied: the process ended, by itself or by `kill`.
        """

    def kill(self) -> None:
        """End the process with everything that it started."""


class Evaluator:
    """A long-lived place where models are evaluated, one at a time; a process that hangs or dies is replaced at the next.

    Args:
        spec: the user's evaluator.
        begin: starts a process that hosts it.
    """

    def __init__(self, spec: EvaluatorSpec, begin: Callable[[EvaluatorSpec], EvaluatorProcess]) -> None:
        self._spec = spec
        self._begin = begin
        self._lock = threading.Lock()
        self._process: EvaluatorProcess | None = None
        self._closed = False
        self._interrupted = False
        self.scratch: str | None = None  # where files are written that exist for an evaluation; None: as the spec says

    def warm_up(self) -> None:
        """Start the process and load the user's code and data, so that the first model does not wait for them.

        Raises:
            EvaluationFailed: they cannot be loaded.
            Cancelled: `close` was called.
        """
        with self._lock, contextlib.suppress(ShortOf):  # what lasts shows at the first model
            self._patiently(self._started)

    def offers(self) -> frozenset[str]:
        """What the user's evaluator offers beyond plain evaluation: names of `evaluator.py`, such as `FRACTION`.

        Raises:
            EvaluationFailed: the user's code cannot be loaded.
            Cancelled: `close` was called.
        """
        answer = self._answer(_START_LIMIT_S, "offers")
        assert isinstance(answer, frozenset)
        return answer

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """The metrics of a model.

        Args:
            combination: the model.
            fraction: the part of the data to evaluate on, 0 to 1; None for all of it.
            re_estimate: whether its batch-norm statistics are re-estimated first.

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, returned something unusable, or does not
                offer what is asked.
            Cancelled: `close` was called meanwhile.
        """
        # a command has its own time limit in the process; this one catches a process that hangs
        limit_s = self._spec.timeout_s + (_START_LIMIT_S if self._spec.command else 0.0)
        elsewhere = {} if self.scratch in {None, self._spec.scratch} else {"scratch": self.scratch}
        options = {"fraction": fraction, "re_estimate": re_estimate, **elsewhere}
        answer = self._answer(limit_s, "evaluate", combination, **options)
        assert isinstance(answer, Evaluation)
        return answer

    def fit(self, request: FitRequest) -> Fit:
        """Weights of a window that lower the user's training loss (Li et al. 2022, "Trainable Weight Averaging").

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, returned no loss to descend on, or offers
                none; or the window does not fit into memory.
            Cancelled: `close` was called meanwhile.
        """
        answer = self._answer(self._spec.timeout_s, "fit", request)
        assert isinstance(answer, Fit)
        return answer

    def anneal(self, request: AnnealRequest) -> Annealed:
        """A short branch of the training, with a learning rate that falls to zero; the model is written to a file.

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, returned no loss to descend on, or offers
                none; or it does not fit into memory, or would take too long.
            Cancelled: `close` was called meanwhile.
        """
        answer = self._answer(self._spec.timeout_s + request.seconds, "anneal", request)
        assert isinstance(answer, Annealed)
        return answer

    def pid(self) -> int | None:
        """The id of the process, if it is known and alive."""
        process = self._process
        return process.pid if process is not None and process.alive() else None

    def busy(self) -> bool:
        """Whether a call is waiting for the process."""
        return self._lock.locked()

    def interrupt(self) -> None:
        """End the process if a call waits for it, which raises Cancelled; later calls begin a new one."""
        if self.busy():
            self._interrupted = True
            self._kill()

    def close(self) -> None:
        """End the process for good; a call that waits for it raises Cancelled, and so does every later one."""
        self._closed = True
        self._kill()

    def _answer(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        with self._lock:
            return self._patiently(lambda: self._ask(self._started(), limit_s, method, *arguments, **options))

    def _patiently(self, act: Callable[[], object]) -> object:
        """An act that is tried again where what failed is this machine's, not the user's.

        Raises:
            ShortOf: it goes on failing.
            EvaluationFailed: the process was killed twice, or as the act says.
        """
        self._interrupted = False
        for number, pause_s in enumerate(PAUSES_S):
            try:
                return act()
            except _Killed:
                if number:
                    raise
            except ShortOf:
                if self._closed or self._interrupted:
                    raise Cancelled("the evaluator was ended") from None
                time.sleep(pause_s)
        return act()

    def _started(self) -> EvaluatorProcess:
        if self._closed:
            raise Cancelled("the evaluator is closed")
        if self._process is not None and self._process.alive():
            return self._process
        self._kill()
        try:
            with self._deaths(_START_LIMIT_S):
                process = self._process = self._begin(self._spec)
        except OSError as error:
            raise ShortOf(
                f"no process can be started for the evaluator ({error.strerror or error}); see `ulimit -a` and free memory"
            ) from error
        try:
            if self._closed or self._interrupted:  # while it was being started
                raise Cancelled("the evaluator is closed")
            pid = self._ask(process, _START_LIMIT_S, "pid")
        except RnaWatchError:
            self._kill()
            raise
        assert isinstance(pid, int)
        process.pid = pid
        return process

    def _ask(
        self, process: EvaluatorProcess, limit_s: float, method: str, *arguments: object, **options: object
    ) -> object:
        with self._deaths(limit_s):
            answer = process.ask(limit_s, method, *arguments, **options)
        if isinstance(answer, RnaWatchError):
            raise answer
        return answer

    @contextlib.contextmanager
    def _deaths(self, limit_s: float) -> Iterator[None]:
        """Turn a process that hangs or dies into the error that says so."""
        try:
            yield
        except TimeoutError as error:
            self._kill()
            raise EvaluationFailed(
                f"the evaluator ran longer than {limit_s:g} s and was ended; raise --evaluation-timeout"
            ) from error
        except ProcessDied as error:
            self._kill()
            if self._closed or self._interrupted:
                raise Cancelled("the evaluator was ended") from error
            if error.lost:
                raise ShortOf(f"the evaluator is lost ({error}), and its place cannot be taken") from error
            if error.killed:
                raise _Killed(
                    f"the evaluator's process was killed from outside ({error}), as Linux does where memory runs out"
                ) from error
            raise EvaluationFailed(f"the evaluator's process died ({error}); see the log") from error

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
