"""The process that holds Ray's driver ends with its parent, whatever Ray does."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Pipe

# a call into C that keeps Python's lock, as Ray's `connect` does while its raylet ends
_STUCK = """
import ctypes, sys
from rna_watch.engine import ray_serve
class Stuck:
    def __init__(self, settings, tell):
        tell(1, "stuck", None)
        ctypes.PyDLL(None).sleep(1000)
ray_serve._Requests = Stuck
ray_serve.serve(int(sys.argv[1]), int(sys.argv[2]))
"""


def test_a_driver_that_is_stuck_in_ray_ends_with_its_parent() -> None:
    """No thread of it can run; the process and its guard are gone when the lifeline's other end is."""
    ours, theirs = Pipe()
    lifeline, end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _STUCK, str(theirs.fileno()), str(lifeline)],
        pass_fds=(theirs.fileno(), lifeline),
        start_new_session=True,
    )
    theirs.close()
    os.close(lifeline)
    try:
        ours.send(None)
        assert ours.poll(60.0)
        assert ours.recv() == (1, "stuck", None)
        assert process.poll() is None
        os.close(end)
        assert process.wait(20.0) == -9
    finally:
        process.kill()
