"""A child with all that it started: its session, which is looked for in /proc, as Ray's workers have groups of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_ROUNDS, _PAUSE_S = 50, 0.02


def members(session: int) -> list[int]:
    """The living processes of a session, by the number of the process that began it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, sid = rest.split()[:4]
        if int(sid) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def end(session: int) -> None:
    """Kill every process of a session but this one, also what they start meanwhile and what lost its parent."""
    for _ in range(_ROUNDS):
        pids = [pid for pid in members(session) if pid != os.getpid()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def title(pid: int) -> str:
    """The name that a process gave itself (Ray's workers name what they run), at most 15 characters."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
