"""What the daemon asks of an engine; the inline and the Ray engine give the same results to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.engine.plan import Task
    from rna_watch.engine.tasks import Result
    from rna_watch.evaluation.evaluator import Evaluator, EvaluatorSpec


class Engine(Protocol):
    """Runs tasks in parallel and hosts evaluators."""

    name: str
    workers: int

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
        """The result of each task, in the order of the tasks."""

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived process that runs the user's evaluator."""

    def pids(self) -> dict[str, int]:
        """Our processes on this host by name."""

    def cancel(self) -> None:
        """Make a running `map` raise Cancelled; for good."""

    def close(self) -> None:
        """End all processes and remove what they left."""
