"""What the daemon asks of an engine; the local and the Ray engine give the same results to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of ours, or several that belong together: its purpose, its process ids, and whether it is busy."""

    name: str
    pids: tuple[int, ...]
    busy: bool


class Engine(Protocol):
    """Runs tasks in parallel and hosts evaluators."""

    name: str
    workers: int

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
        """The result of each task, in the order of the tasks; `on_done` is called with each task as it ends."""

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived process that runs the user's evaluator: it evaluates models, and fits weights if the file offers it."""

    def processes(self) -> list[Process]:
        """Our processes on this host."""

    def broken(self) -> str:
        """Why the engine cannot be used any more and has to be closed, in words; "" if it can. Called every second."""

    def cancel(self) -> None:
        """Make a running `map` and running evaluations raise Cancelled, and every later one too."""

    def close(self) -> None:
        """End all processes and remove what they left."""
