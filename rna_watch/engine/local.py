"""The local engine: this machine without Ray. Small work runs in this process, large work in a few child processes.

Threads would be slower than one thread: every small read and product hands over the interpreter's lock (measured on two
cores: 2.9 s for what one thread does in 1.4 s).
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import zip_longest
from queue import SimpleQueue
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from rna_watch.engine.child import Child
from rna_watch.engine.contract import Process
from rna_watch.errors import Cancelled
from rna_watch.window import tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window.tasks_plan import Task

_POLL_S = 0.2
# below this, starting processes and waking them takes longer than the work
_SMALL_BYTES = 2**26


class LocalEngine:
    """Runs tasks in this process, or `workers` at a time in children that are started when they are first needed.

    Args:
        workers: how many tasks run at a time.
        here: this process is one of the workers, and does nothing else meanwhile: there is one child less.
    """

    name = "local"

    def __init__(self, workers: int, *, here: bool = False) -> None:
        self.workers = workers
        self._works_too = here
        self._children: list[Child] = []
        self._idle: SimpleQueue[Child] = SimpleQueue()
        self._drivers: ThreadPoolExecutor | None = None  # a thread for each child, which waits for its results
        self._cancelled = threading.Event()
        self._evaluators: list[Evaluator] = []
        self._busy = False

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[tasks.Result]:
        """The result of each task, in the order of the tasks; `on_done` is called with each task as it ends.

        Raises:
            Cancelled: `cancel` was called.
            RnaWatchError, OSError: a task's own error; the tasks not yet begun are dropped.
            EngineError: a child died.
        """
        self._check()
        small = len(work) < 2 or self.workers < 2 or not _is_large(sum(task.work_bytes for task in work))
        self._busy = True
        try:
            return self._here(work, on_done) if small else self._in_children(work, on_done)
        finally:
            self._busy = False

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the engine is stopping")

    def _here(self, work: Sequence[Task], on_done: Callable[[Task], None] | None) -> list[tasks.Result]:
        results = []
        with threadpool_limits(limits=1, user_api="blas"):
            for task in work:
                self._check()
                results.append(tasks.run(task))
                if on_done is not None:
                    on_done(task)
        return results

    def prepare(self, work_bytes: int) -> None:
        """Start the children now, if so much work is to come, so that they load while this process goes on."""
        if self._drivers is None and self.workers > 1 and _is_large(work_bytes):
            self._begin()

    def _begin(self) -> ThreadPoolExecutor:
        for _ in range(self.workers - self._works_too):
            self._children.append(Child())
            self._idle.put(self._children[-1])
        self._drivers = ThreadPoolExecutor(len(self._children))
        return self._drivers

    def _in_child(self, task: Task) -> tasks.Result:
        child = self._idle.get()
        try:
            return child.run(task)
        finally:
            self._idle.put(child)

    def _in_children(self, work: Sequence[Task], on_done: Callable[[Task], None] | None) -> list[tasks.Result]:
        drivers = self._drivers or self._begin()
        order = _runs(len(work), self.workers, own=self._works_too)
        numbers = {drivers.submit(self._in_child, work[number]): number for number in order}
        results: dict[int, tasks.Result] = {}
        open_ones, untaken = set(numbers), list(numbers) if self._works_too else []
        try:
            while open_ones:
                self._check()
                own = self._taken(untaken)
                if own is not None:
                    (results[numbers[own]],) = self._here([work[numbers[own]]], None)
                    done = {own} | {future for future in open_ones if future.done()}
                else:
                    done, _ = wait(open_ones, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                open_ones -= done
                for future in done:
                    if future is not own:
                        results[numbers[future]] = future.result()
                    if on_done is not None:
                        on_done(work[numbers[future]])
        except BaseException:
            for future in open_ones:
                future.cancel()
            wait(open_ones)  # none of them may still write into what is thrown away now
            raise
        return [results[number] for number in range(len(work))]

    @staticmethod
    def _taken(untaken: list[Future[tasks.Result]]) -> Future[tasks.Result] | None:
        """The last task that no child has begun, taken from them; None if there is none."""
        while untaken:
            if (future := untaken.pop()).cancel():
                return future
        return None

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived evaluating process."""
        from rna_watch.evaluation.client import Evaluator
        from rna_watch.evaluation.local import begun

        evaluator = Evaluator(spec, begun)
        self._evaluators.append(evaluator)
        return evaluator

    def processes(self) -> list[Process]:
        """This process, the children that run tasks, and the evaluators'."""
        found = [Process(name="daemon", pids=(os.getpid(),), busy=self._busy)]
        children = [child.pid for child in self._children if child.alive()]
        found += [Process(name="worker", pids=(pid,), busy=self._busy) for pid in children]
        for evaluator in self._evaluators:
            pid = evaluator.pid()
            if pid is not None:
                found.append(Process(name="evaluator", pids=(pid,), busy=evaluator.busy()))
        return found

    def broken(self) -> str:
        """See `Engine.broken`: a child that dies is found out by the work that it had."""
        return ""

    def cancel(self) -> None:
        """See `Engine.cancel`."""
        self._cancelled.set()
        for evaluator in self._evaluators:
            evaluator.close()

    def close(self) -> None:
        """End the children and the evaluators' processes."""
        self.cancel()
        if self._drivers is not None:
            self._drivers.shutdown(wait=True, cancel_futures=True)
        for child in self._children:
            child.close()
        self._children.clear()


def _runs(count: int, workers: int, *, own: bool) -> list[int]:
    """The order of tasks in which each worker has neighbours, so that what the system reads ahead is read once.

    Args:
        count: of tasks.
        workers: that take them from the front.
        own: one of them takes them from the end instead.
    """
    size = -(-count // workers)
    parts = [range(first, min(first + size, count)) for first in range(0, count, size)]
    last = list(reversed(parts.pop())) if own and len(parts) == workers else []
    return [number for each in zip_longest(*parts) for number in each if number is not None] + last


def _is_large(work_bytes: int) -> bool:
    """Whether children are worth their start."""
    return work_bytes >= _SMALL_BYTES
