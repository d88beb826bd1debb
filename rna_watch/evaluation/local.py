"""An evaluator's process as a child of ours, started without fork and ended with everything it started.

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

from rna_watch.evaluation.client import ProcessDied

if TYPE_CHECKING:
    from rna_watch.evaluation.evaluator import EvaluatorSpec


class ChildProcess:
    """A child that hosts an `AnsweringWorker`; see `client.EvaluatorProcess`."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, lifeline = os.pipe()
        self._lifeline = os.fdopen(lifeline, "wb", buffering=0)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rna_watch.evaluation.local", str(theirs.fileno()), str(lifeline_read)],
                pass_fds=(theirs.fileno(), lifeline_read),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        self.pid: int | None = self._child.pid
        # not closed by `kill`, which another thread may call while this one waits in it
        self._connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # a child that is gone by now is found out by `ask`
            self._connection.send(spec)

    def alive(self) -> bool:
        """See `client.EvaluatorProcess.alive`."""
        return self._child.poll() is None

    def ask(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        """See `client.EvaluatorProcess.ask`."""
        try:
            self._connection.send((method, arguments, options))
            if self._connection.poll(limit_s):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessDied(_status(self._child.wait())) from error
        raise TimeoutError

    def kill(self) -> None:
        """See `client.EvaluatorProcess.kill`: the child, and everything in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._lifeline.close()


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def serve(connection: Connection, lifeline: int) -> None:
    """The child: take the specification, then calls of the worker's methods, and answer each."""
    from rna_watch.evaluation.worker import AnsweringWorker

    def follow_parent() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow_parent, daemon=True).start()
    with contextlib.suppress(EOFError):
        worker = AnsweringWorker(connection.recv())
        while True:
            method, arguments, options = connection.recv()
            connection.send(worker.ask(method, *arguments, **options))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
