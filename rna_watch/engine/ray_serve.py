"""The process that holds Ray's driver: it joins the cluster, then answers requests, each in a thread.

Ray ends its driver from C++ when it loses its cluster: so this process does nothing else, and the daemon finds it gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from rna_watch.engine import whole
from rna_watch.engine.cluster_evaluators import Evaluators
from rna_watch.engine.cluster_map import Map
from rna_watch.engine.cluster_nodes import Nodes
from rna_watch.engine.ray_cluster import Cluster
from rna_watch.errors import ClusterLost, RnaWatchError
from rna_watch.evaluation.client import ProcessDied

if TYPE_CHECKING:
    from rna_watch.engine.ray_cluster import Settings, Tell

_PARTS = ("gcs_server", "raylet")  # of a cluster of our own, which cannot do without them


class _Requests:
    """The requests, by name; each gets its number first."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._cluster = Cluster(settings, tell)
        self._nodes = Nodes(self._cluster) if self._cluster.named else None
        self._evaluators = Evaluators(self._cluster, self._nodes)
        self._stops: dict[int, threading.Event] = {}

    def map(self, number: int, work: list[tuple[float, bytes]]) -> None:
        """Do tasks: each result is told with its number as it is there."""
        stop = self._stops.setdefault(number, threading.Event())
        try:
            Map(self._cluster, self._nodes, number, work, stop).run()
        finally:
            del self._stops[number]

    def stop(self, _number: int, other: int) -> None:
        """Have a `map` end as soon as nothing of it can write any more."""
        self._stops.setdefault(other, threading.Event()).set()  # it may not have begun

    def evaluator(self, number: int, spec: bytes, file: str, function: bool) -> None:
        """Start an evaluator, which has the number of this request."""
        self._evaluators.start(number, spec, file, function=function)

    def ask(self, _number: int, evaluator: int, question: bytes, limit_s: float) -> bytes:
        """An evaluator's answer."""
        return self._evaluators.ask(evaluator, question, limit_s)

    def kill(self, _number: int, evaluator: int) -> None:
        """End an evaluator."""
        self._evaluators.kill(evaluator)

    def close(self, _number: int) -> None:
        """Leave the cluster, or end it if it is ours."""
        self._cluster.ray.shutdown()


def serve(descriptor: int, lifeline: int) -> None:
    """The process: it ends with all that it started when its parent does."""
    connection, lock = Connection(descriptor), threading.Lock()

    def tell(number: int, kind: str, value: object) -> None:
        with lock, contextlib.suppress(ConnectionError):
            connection.send((number, kind, value))

    _follow_parent(descriptor, lifeline)
    os.environ["RAY_RAYLET_PID"] = str(
        os.getpid()
    )  # without it a driver whose parent is process 1 ends with its raylet
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        try:
            requests = _Requests(connection.recv(), tell)
        except RnaWatchError as error:
            tell(1, "raised", error)
            connection.recv()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent decides when it ends
        tell(1, "done", {title: pid for pid in whole.members(os.getsid(0)) if (title := whole.title(pid)) in _PARTS})
        while True:
            threading.Thread(target=_answer, args=(requests, tell, *connection.recv()), daemon=True).start()


def _follow_parent(descriptor: int, lifeline: int) -> None:
    """Start a process that ends this one, with all that it started, when the parent is gone.

    A thread would not do: while Ray joins a cluster that is just ending it may hold Python's lock for ever.
    """
    session = os.getsid(0)
    if os.fork():
        return
    try:
        os.closerange(0, 3)
        os.close(descriptor)  # the ends of all these tell the parent that this process ended
        os.read(lifeline, 1)
        whole.end(session)
    finally:
        os._exit(0)


def _answer(requests: _Requests, tell: Tell, number: int, method: str, arguments: tuple[Any, ...]) -> None:
    try:
        tell(number, "done", getattr(requests, method)(number, *arguments))
    except Exception as error:  # noqa: BLE001 - for whoever asked
        known = isinstance(error, RnaWatchError | OSError | ProcessDied)
        tell(number, "raised", error if known else ClusterLost(f"Ray failed: {error!r}"))
