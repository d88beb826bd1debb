"""A child process of the local engine: it does one task after another, and ends when its parent does.

It is started by its own command, so that nothing of the parent's main program runs in it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rna_watch.errors import EngineError

if TYPE_CHECKING:
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task


class Child:
    """A child process; it begins to load what tasks need at once.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()  # the child reads its end when we are gone
        try:
            self._process = subprocess.Popen(
                # -P: what lies in the current folder is no module of ours, whatever its name
                [sys.executable, "-P", "-m", "rna_watch.engine.child", str(theirs.fileno()), str(lifeline)],
                pass_fds=(theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid
        self._connection = Connection(ours.detach())

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

    def follow_parent() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
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
