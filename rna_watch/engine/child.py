"""A child process of the local engine: it does one task after another, and ends when its parent does."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rna_watch.errors import EngineError
from rna_watch.evaluation.child import begin, follow_parent

if TYPE_CHECKING:
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task


class Child:
    """A child process; it begins to load what tasks need at once.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._process, self._connection, self._lifeline = begin("rna_watch.engine.child")
        self.pid = self._process.pid

    def run(self, task: Task) -> Result:
        """What `tasks.run` gives in the child, or raises there.

        Raises:
            EngineError: the child died.
        """
        try:
            self._connection.send(task)
            done, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise EngineError("a child process of the local engine died; see the log") from error
        if not done:
            raise result
        found: Result = result
        return found

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; it must be at no task."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        os.close(self._lifeline)


def serve(connection: Connection, lifeline: int) -> None:
    """The child: one thread for the kernels, and an exit when the parent is gone."""
    from rna_watch.window import tasks

    follow_parent(lifeline, partial(os._exit, 1))
    tasks.single_thread()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer: tuple[bool, object]
        try:
            answer = (True, tasks.run(task))
        except Exception as error:  # noqa: BLE001 - the task's own, whatever it is, for whoever asked
            answer = (False, error)
        with contextlib.suppress(ConnectionError):
            connection.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
