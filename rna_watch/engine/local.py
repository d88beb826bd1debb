"""The local engine: this machine without Ray. Small work runs in this process, large work in a few child processes.

Threads would be slower than one thread: every small read and product hands over the interpreter's lock (measured on two
cores: 2.9 s for what one thread does in 1.4 s).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from rna_watch.engine.contract import Process
from rna_watch.errors import Cancelled, EngineError
from rna_watch.evaluation.client import Evaluator
from rna_watch.evaluation.local import ChildProcess
from rna_watch.window import tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window.tasks_plan import Task

_SAFE_PATH = "PYTHONSAFEPATH"
_POLL_S = 0.2
_ORPHAN_POLL_S = 1.0
# below this, starting processes and waking them takes longer than the work
_SMALL_BYTES = 2**26


class LocalEngine:
    """Runs tasks in this process, or `workers` at a time in children that are started when they are first needed."""

    name = "local"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
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
        small = len(work) < 2 or self.workers < 2 or sum(task.work_bytes for task in work) < _SMALL_BYTES
        self._busy = True
        try:
            return self._here(work, on_done) if small else self._in_children(work, on_done)
        except BrokenProcessPool as error:
            raise EngineError("a child process of the local engine died; see the log") from error
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

    def _in_children(self, work: Sequence[Task], on_done: Callable[[Task], None] | None) -> list[tasks.Result]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
            )
        with _safe_path():
            futures: dict[Future[tasks.Result], Task] = {self._pool.submit(tasks.run, task): task for task in work}
        open_ones = set(futures)
        try:
            while open_ones:
                done, open_ones = wait(open_ones, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                self._check()
                for future in done:
                    future.result()
                    if on_done is not None:
                        on_done(futures[future])
        except BaseException:
            for future in open_ones:
                future.cancel()
            wait(open_ones)  # none of them may still write into what is thrown away now
            raise
        return [future.result() for future in futures]

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived evaluating process."""
        evaluator = Evaluator(spec, ChildProcess)
        self._evaluators.append(evaluator)
        return evaluator

    def processes(self) -> list[Process]:
        """This process, the children that run tasks, and the evaluators'."""
        found = [Process(name="daemon", pids=(os.getpid(),), busy=self._busy)]
        children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
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
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Children that are started now take nothing from the current folder for a module (as `python -P`)."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _begin(parent: int) -> None:
    """Prepare a child: one thread for the kernels, and an exit when the parent is gone."""
    tasks.single_thread()

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_S)
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
