"""An evaluator in a child process of ours, started without fork and ended with everything it started.

Parent and child talk over a socket; a second pipe is the child's lifeline: when the parent is gone, it reads
end-of-file and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rna_watch.errors import Cancelled, EvaluationFailed, RnaWatchError
from rna_watch.evaluation.evaluator import Evaluation, EvaluatorSpec, Fit, FitRequest

if TYPE_CHECKING:
    from rna_watch.window.combine import Combination

_START_LIMIT_S = 120.0


class LocalEvaluator:
    """Runs an `EvaluationWorker` in a child; a child that hangs or dies is replaced at the next model."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lifeline: int | None = None
        self._closed = False

    def warm_up(self) -> None:
        """See `Evaluator.warm_up`."""
        with self._lock:
            self._connected()

    def _connected(self) -> Connection:
        if self._closed:
            raise Cancelled("the evaluator is closed")
        if self._process is None or self._connection is None or self._process.poll() is not None:
            self._connection = self._start()
        return self._connection

    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        answer = self._answer(_START_LIMIT_S, "offers")
        assert isinstance(answer, frozenset)
        return answer

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """See `Evaluator.evaluate`."""
        # a command has its own time limit in the child; this one catches a child that hangs
        limit = self._spec.timeout_s + (_START_LIMIT_S if self._spec.command else 0.0)
        answer = self._answer(limit, "evaluate", combination, fraction=fraction, re_estimate=re_estimate)
        assert isinstance(answer, Evaluation)
        return answer

    def fit(self, request: FitRequest) -> Fit:
        """See `Evaluator.fit`."""
        answer = self._answer(self._spec.timeout_s, "fit", request)
        assert isinstance(answer, Fit)
        return answer

    def _answer(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        with self._lock:
            answer = self._ask(self._connected(), (method, arguments, options), limit_s)
        if isinstance(answer, RnaWatchError):
            raise answer
        return answer

    def pid(self) -> int | None:
        """See `Evaluator.pid`."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def busy(self) -> bool:
        """Whether a model is being evaluated."""
        return self._lock.locked()

    def close(self) -> None:
        """End the child and everything in its process group."""
        self._closed = True
        self._kill()

    def _start(self) -> Connection:
        self._kill()
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rna_watch.evaluation.local", str(theirs.fileno()), str(lifeline_read)],
                pass_fds=(theirs.fileno(), lifeline_read),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        if self._closed:  # while it was being started
            self._kill()
            raise Cancelled("the evaluator is closed")
        connection = Connection(ours.detach())
        answer = self._ask(connection, self._spec, _START_LIMIT_S)
        if isinstance(answer, RnaWatchError):
            self._kill()
            raise answer
        return connection

    def _ask(self, connection: Connection, message: object, limit_s: float) -> object:
        try:
            connection.send(message)
            if not connection.poll(limit_s):
                self._kill()
                raise EvaluationFailed(
                    f"the evaluator ran longer than {limit_s:g} s and was ended; raise --evaluation-timeout"
                )
            return connection.recv()
        except (EOFError, OSError) as error:
            if self._closed:
                raise Cancelled("the evaluator was ended") from error
            process = self._process
            status = process.wait() if process else None
            self._kill()
            raise EvaluationFailed(f"the evaluator's process died ({_status(status)}); see the log") from error

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self._connection = None  # another thread may be waiting in it: it is closed when that one lets go


def _status(status: int | None) -> str:
    if status is not None and status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


def serve(connection: Connection, lifeline: int) -> None:
    """The child: take the specification, then calls of the worker's methods, and answer each with its result or error."""
    from rna_watch.evaluation.worker import EvaluationWorker

    def follow_parent() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow_parent, daemon=True).start()
    try:
        worker = EvaluationWorker(connection.recv())
    except RnaWatchError as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            method, arguments, options = connection.recv()
        except EOFError:
            return
        try:
            connection.send(getattr(worker, method)(*arguments, **options))
        except RnaWatchError as error:
            connection.send(error)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
