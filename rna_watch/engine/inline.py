"""The inline engine: tasks on a few threads of this process. Real, for small models, `once` and machines without Ray."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from rna_watch.engine import tasks
from rna_watch.engine.contract import Process
from rna_watch.errors import Cancelled
from rna_watch.evaluation.local import LocalEvaluator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.engine.plan import Task
    from rna_watch.evaluation.evaluator import Evaluator, EvaluatorSpec

_POLL_S = 0.2


class InlineEngine:
    """Runs tasks on `workers` threads; the kernels release the interpreter's lock, and each is single-threaded."""

    name = "inline"

    def __init__(self, workers: int) -> None:
        tasks.single_thread()
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rna-watch-task")
        self._cancelled = threading.Event()
        self._evaluators: list[LocalEvaluator] = []
        self._busy = False

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[tasks.Result]:
        """The result of each task, in the order of the tasks; `on_done` hears of each as it ends.

        Raises:
            Cancelled: `cancel` was called.
            RnaWatchError, OSError: a task's own error; the tasks not yet begun are dropped.
        """
        if self._cancelled.is_set():
            raise Cancelled("the engine is stopping")
        futures: dict[Future[tasks.Result], Task] = {self._pool.submit(tasks.run, task): task for task in work}
        open_ones = set(futures)
        self._busy = True
        try:
            while open_ones:
                done, open_ones = wait(open_ones, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                if self._cancelled.is_set():
                    raise Cancelled("the engine is stopping")
                for future in done:
                    future.result()
                    if on_done is not None:
                        on_done(futures[future])
        except BaseException:
            for future in open_ones:
                future.cancel()
            wait(open_ones)
            raise
        finally:
            self._busy = False
        return [future.result() for future in futures]

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived evaluating process."""
        evaluator = LocalEvaluator(spec)
        self._evaluators.append(evaluator)
        return evaluator

    def processes(self) -> list[Process]:
        """This process, and its evaluators'."""
        found = [Process(name="daemon and tasks", pids=(os.getpid(),), busy=self._busy)]
        for evaluator in self._evaluators:
            pid = evaluator.pid()
            if pid is not None:
                found.append(Process(name="evaluator", pids=(pid,), busy=evaluator.busy()))
        return found

    def cancel(self) -> None:
        """Make `map` give up; for good."""
        self._cancelled.set()

    def close(self) -> None:
        """End the threads."""
        self.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
