"""An evaluator's process as a child of ours, ended with everything it started."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import types
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rna_watch.evaluation.child import begin, follow_parent
from rna_watch.evaluation.client import ProcessDied

if TYPE_CHECKING:
    from rna_watch.evaluation.evaluator import EvaluatorSpec


class ChildProcess:
    """A child that hosts an `AnsweringWorker`; see `client.EvaluatorProcess`."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._child, connection, lifeline = begin("rna_watch.evaluation.local")
        self._lifeline = os.fdopen(lifeline, "wb", buffering=0)
        self._number = 0
        self.pid: int | None = self._child.pid
        # not closed by `kill`, which another thread may call while this one waits in it
        self._connection = connection
        with contextlib.suppress(OSError):  # a child that is gone by now is found out by `ask`
            self._connection.send(spec)

    def alive(self) -> bool:
        """See `client.EvaluatorProcess.alive`."""
        return self._child.poll() is None

    def ask(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        """See `client.EvaluatorProcess.ask`."""
        self._number += 1
        until = time.monotonic() + limit_s
        try:
            self._connection.send((self._number, method, arguments, options))
            while self._connection.poll(max(0.0, until - time.monotonic())):
                number, answer = self._connection.recv()
                if number == self._number:  # and none to an earlier request
                    return answer
        except (EOFError, OSError) as error:
            status = self._child.wait()
            raise ProcessDied(_status(status), killed=status == -signal.SIGKILL) from error
        raise TimeoutError

    def kill(self) -> None:
        """See `client.EvaluatorProcess.kill`: the child, and everything in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._lifeline.close()


_early: list[tuple[EvaluatorSpec, ChildProcess]] = []


def begin_early(spec: EvaluatorSpec) -> None:
    """Start a process before there is an engine that asks for it: it loads while this one goes on."""
    with contextlib.suppress(OSError):  # tried again when it is needed
        _early.append((spec, ChildProcess(spec)))


def begun(spec: EvaluatorSpec) -> ChildProcess:
    """A process; that which was started early, if it was for the same evaluator."""
    while _early:
        told, process = _early.pop()
        if told == spec and process.alive():
            return process
        process.kill()
    return ChildProcess(spec)


def end_early() -> None:
    """End what was started early and is not needed."""
    while _early:
        _early.pop()[1].kill()


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def serve(connection: Connection, lifeline: int) -> None:
    """The child: take the specification, then calls of the worker's methods, and answer each."""
    from rna_watch.evaluation.worker import AnsweringWorker

    follow_parent(lifeline, lambda: os.killpg(0, signal.SIGKILL))
    sys.modules["__main__"] = types.ModuleType("__main__")  # nothing of ours is in the user's way
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        spec = connection.recv()
        os.environ.update(spec.environment)
        if spec.function is not None:
            with contextlib.suppress(ImportError):  # said when the function is asked for
                importlib.import_module("torch")  # before anything is asked: it takes longest
        worker = AnsweringWorker(spec)
        while True:
            number, method, arguments, options = connection.recv()
            connection.send((number, worker.ask(method, *arguments, **options)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))  # of this module as it is imported
