"""One pass over tasks on a cluster: each on the node of its range, elsewhere where that node is lost or sees too little."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from rna_watch.engine import ranges
from rna_watch.engine.ray_cluster import LINE_S, said
from rna_watch.errors import ClusterLost, InputChanged
from rna_watch.window.tasks_plan import CopyTask

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from rna_watch.engine.cluster_nodes import Nodes
    from rna_watch.engine.ray_cluster import Cluster
    from rna_watch.window.tasks_plan import Task

_POLL_S = 0.2
_FREE_LIMIT_S = 60.0  # for a free CPU
_STILL_LIMIT_S = 600.0  # for a task that began, or ten times as long as the longest before it
_SETTLE_LIMIT_S = 60.0
_TRIES = 5


class _Stopped(Exception):  # noqa: N818 - a request
    """The daemon wants no more of it."""


class Map:
    """One pass.

    Args:
        cluster: where it runs.
        nodes: its nodes, if it is named.
        request: the number under which each result is told.
        work: the position of each task (see `ranges.positions`), and the pickled task.
        stop: gives it up when it is set.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes | None,
        request: int,
        work: Sequence[tuple[float, bytes]],
        stop: threading.Event,
    ) -> None:
        self._nodes = nodes
        self._cluster = cluster
        self._ray = cluster.ray
        self._request = request
        self._work = work
        self._stop = stop
        self._prefix = f"rna-watch/{time.time_ns()}/{request}/".encode() if cluster.named else b""
        self._waiting: dict[str, deque[int]] = {}
        self._slots: list[str] = []
        self._flying: dict[Any, tuple[int, str, float]] = {}
        self._tries = [0] * len(work)
        self._moved = time.monotonic()
        self._longest = 0.0

    def run(self) -> None:
        """Do it.

        Raises:
            ClusterLost: nodes are lost, or none has a free CPU; what is in flight ends with this process.
            RnaWatchError, OSError: a task's own error; nothing of it is in flight any more.
        """
        try:
            self._own(range(len(self._work)))
            while self._flying or any(self._waiting.values()):
                self._submit()
                done, _ = self._ray.wait(list(self._flying), timeout=_POLL_S)
                if self._stop.is_set():
                    raise _Stopped
                for reference in done:
                    self._take(reference)
                if done:
                    self._moved = time.monotonic()
                    self._cluster.say("waits", "")
                else:
                    self._look_at_waits()
        except ClusterLost:
            raise
        except _Stopped:
            self._settle()
        except BaseException:
            self._settle()
            raise
        finally:
            self._cluster.say("waits", "")
            if self._prefix:
                self._cluster.forget(self._prefix)

    def _own(self, numbers: Sequence[int]) -> None:
        """Give tasks to the nodes that own their ranges."""
        self._slots = list(self._nodes.usable()) if self._nodes else [""]
        self._waiting = {node: deque() for node in self._slots}
        for number, node in zip(numbers, ranges.owners([self._work[n][0] for n in numbers], self._slots), strict=True):
            self._waiting[node].append(number)

    def _submit(self) -> None:
        workers = self._cluster.settings.workers
        if self._nodes and self._slots != self._nodes.usable():
            self._own(sorted(number for queue in self._waiting.values() for number in queue))
        flying = [node for _, node, _ in self._flying.values()]
        for node, queue in self._waiting.items():
            most = (self._slots.count(node) if node else workers) + 1
            while queue and flying.count(node) < most and len(self._flying) <= workers + len(self._waiting) - 1:
                number = queue.popleft()
                mark = self._prefix + b"%d" % number if self._prefix else b""
                reference = self._cluster.submit(self._work[number][1], mark, node)
                self._flying[reference] = (number, node, time.monotonic())
                flying.append(node)

    def _take(self, reference: Any) -> None:
        """Tell a result, or have the task done again where its node is to blame."""
        number, node, began = self._flying.pop(reference)
        self._tries[number] += 1
        try:
            done, result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if self._nodes is None or self._tries[number] >= _TRIES:
                raise ClusterLost(f"Ray lost a task ({type(error).__name__}: {said(error)[:300]})") from error
            self._nodes.sees(node, ())  # if it is gone, it is used no more
            self._again(number)
            return
        if done:
            self._longest = max(self._longest, time.monotonic() - began)
            self._cluster.tell(self._request, "event", (number, result))
            return
        failure = pickle.loads(result)
        again = self._nodes is not None and self._tries[number] < _TRIES and isinstance(failure, OSError | InputChanged)
        if again and self._nodes is not None:
            files = _files(self._work[number][1])
            # a network file system shows what is new a little later: one more try where it is there by now
            if not self._nodes.sees(node, files) or self._tries[number] == 1:
                self._again(number)
                return
        raise failure

    def _again(self, number: int) -> None:
        self._own(sorted([number, *(each for queue in self._waiting.values() for each in queue)]))

    def _name(self, node: str) -> str:
        return self._nodes.name(node) if self._nodes else "this machine"

    def _look_at_waits(self) -> None:
        """Say that nothing ends, and why; give up when no CPU becomes free, or nothing ever ends."""
        still = time.monotonic() - self._moved
        if not self._prefix or still < LINE_S:
            return
        begun = self._cluster.begun(self._prefix)
        waiting = [node for number, node, _ in self._flying.values() if self._prefix + b"%d" % number not in begun]
        names = ", ".join(sorted({self._name(node) for node in waiting}))
        if len(waiting) == len(self._flying):
            line = f"no CPU is free for us on {names} for {still:.0f} s"
            if still > _FREE_LIMIT_S:
                raise ClusterLost(line)
            self._cluster.say(
                "waits",
                f"no CPU is free for us on {names}",
                "end what holds them; this machine takes over after a minute",
            )
        elif still > max(LINE_S, 3 * self._longest):
            names = ", ".join(sorted({self._name(node) for _, node, _ in self._flying.values()}))
            if still > max(_STILL_LIMIT_S, 10 * self._longest):
                raise ClusterLost(f"no task ended on {names} for {still:.0f} s")
            self._cluster.say(
                "waits", f"tasks on {names} take longer than those before", "look at the node and its file system"
            )

    def _settle(self) -> None:
        """Wait until no task in flight can still write; they are few, and each is as short as its byte budget.

        We never use `ray.cancel`, forced or not: a reply that crosses it ends the whole process (Ray 2.60, a check in
        task_manager.cc: completed, but not pending; seen in one of nine runs, more often on a busy machine).

        Raises:
            ClusterLost: one goes on; it ends with this process.
        """
        references = list(self._flying)
        if references:
            left = references
            with contextlib.suppress(Exception):
                _, left = self._ray.wait(references, num_returns=len(references), timeout=_SETTLE_LIMIT_S)
            if left:
                raise ClusterLost("tasks did not end when they were given up")


def _files(payload: bytes) -> tuple[str, ...]:
    """The files that a task reads."""
    task: Task = pickle.loads(payload)
    groups = task.files if isinstance(task, CopyTask) else chain(*task.files)
    return tuple(dict.fromkeys(file.path for file in groups))
