"""An evaluator's process as a Ray actor, which the driver's process holds (ray_driver.py)."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from rna_watch.evaluation.client import ProcessDied
from rna_watch.evaluation.evaluator import split_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.engine.ray_driver import Driver
    from rna_watch.evaluation.evaluator import EvaluatorSpec

_SLACK_S = 5.0


class ActorProcess:
    """An actor that hosts an `AnsweringWorker`; see `client.EvaluatorProcess`.

    Args:
        spec: the user's evaluator.
        driver: Ray's driver.
        check: raises EngineError where the cluster is gone.

    Raises:
        EngineError: the cluster is gone, or has no place for it.
    """

    def __init__(self, spec: EvaluatorSpec, driver: Driver, check: Callable[[], None]) -> None:
        self._driver = driver
        self._check = check
        self._killed = False
        self.pid: int | None = None
        file = str(split_function(spec.function)[0]) if spec.function else ""
        with driver.request("evaluator", pickle.dumps(spec), file, bool(spec.function)) as request:
            self._actor = request.number
            request.answer(self._look)

    def _look(self) -> None:
        if self._killed:
            raise ProcessDied("killed")
        self._check()

    def alive(self) -> bool:
        """See `client.EvaluatorProcess.alive`; only `ask` finds out that an actor died."""
        return not self._killed

    def ask(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        """See `client.EvaluatorProcess.ask`.

        Raises:
            EngineError: the cluster is gone.
        """
        question = pickle.dumps((method, arguments, options))
        with self._driver.request("ask", self._actor, question, limit_s) as request:
            answer = request.answer(self._look, limit_s + _SLACK_S)
        assert isinstance(answer, bytes)
        return pickle.loads(answer)

    def kill(self) -> None:
        """See `client.EvaluatorProcess.kill`."""
        self._killed = True
        self._driver.tell("kill", self._actor)
