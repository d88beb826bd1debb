"""A child process of ours: started by its own command, without fork, so that nothing of our main program runs in it.

Parent and child talk over a socket; a pipe is the child's lifeline: when the parent is gone, it reads end-of-file and ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def begin(module: str) -> tuple[subprocess.Popen[bytes], Connection, int]:
    """Start a module with two descriptors, its end of the socket and of the lifeline, as its arguments.

    Returns its process, our end of the socket, and the descriptor that holds its lifeline until it is closed.

    Raises:
        OSError: it cannot be started; nothing is left open.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lifeline_read, lifeline = os.pipe()
        try:
            process = subprocess.Popen(
                # -P: what lies in the current folder is no module of ours, whatever its name
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(lifeline_read)],
                pass_fds=(theirs.fileno(), lifeline_read),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(lifeline_read)
        return process, Connection(ours.detach()), lifeline


def follow_parent(lifeline: int, end: Callable[[], object]) -> None:
    """In the child: end as soon as the parent is gone."""

    def wait() -> None:
        os.read(lifeline, 1)
        end()

    threading.Thread(target=wait, daemon=True).start()
