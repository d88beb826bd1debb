"""The sign of life of a daemon: what its threads do, as the heartbeat tells it."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from rna_watch.daemon.setup import as_worker
from rna_watch.engine.contract import Process
from rna_watch.journal.heartbeat import Heartbeat

if TYPE_CHECKING:
    from rna_watch.daemon.watcher import Watcher
    from rna_watch.daemon.worker import Worker


def sign(state: str, *, worker: Worker | None = None, watcher: Watcher | None = None, queue: int = 0) -> Heartbeat:
    """The heartbeat of this moment.

    Args:
        state: starting, watching, working or stopped.
        worker: the thread that works, once there is one.
        watcher: the thread that watches, once there is one.
        queue: how many checkpoints wait.
    """
    engine = worker.engine if worker is not None and state != "stopped" else None
    own = Process(name="daemon", pids=(os.getpid(),), busy=False)
    progress = worker.progress if worker is not None else None
    return Heartbeat(
        host=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        state=state,
        watching=watcher.by if watcher is not None else "scans",
        queue=queue,
        work=progress.work if progress is not None else None,
        workers=tuple(map(as_worker, engine.processes() if engine else [own])),
        read_bytes_per_s=progress.read_bytes_per_s if progress is not None else 0.0,
    )
