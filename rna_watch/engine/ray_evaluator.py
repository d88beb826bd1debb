"""An evaluator's process as a Ray actor; the engine (ray_engine.py) passes Ray in."""

from __future__ import annotations

import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any

from rna_watch.evaluation.client import ProcessDied
from rna_watch.evaluation.worker import AnsweringWorker

if TYPE_CHECKING:
    from rna_watch.evaluation.evaluator import EvaluatorSpec

_POLL_S = 0.2


class ActorProcess:
    """An actor that hosts an `AnsweringWorker`; see `client.EvaluatorProcess`.

    Args:
        spec: the user's evaluator.
        ray: the library.
        options: what the actor needs of the cluster, as `ray.remote(...).options` takes it.
    """

    def __init__(self, spec: EvaluatorSpec, ray: Any, options: dict[str, Any]) -> None:
        self._ray = ray
        self._killed = False
        self.pid: int | None = None
        try:
            self._actor = ray.remote(AnsweringWorker).options(max_restarts=0, **options).remote(spec)
        except ray.exceptions.RayError as error:
            raise ProcessDied(type(error).__name__) from error

    def alive(self) -> bool:
        """See `client.EvaluatorProcess.alive`; only `ask` finds out that an actor died."""
        return not self._killed

    def ask(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        """See `client.EvaluatorProcess.ask`."""
        until = time.monotonic() + limit_s
        try:
            reference = self._actor.ask.remote(method, *arguments, **options)
            while not self._ray.wait([reference], timeout=_POLL_S)[0]:
                if self._killed:
                    raise ProcessDied("killed")
                if time.monotonic() > until:
                    raise TimeoutError
            # Ray's arrays are read-only and lie in its object store, which ends before we do
            return copy.deepcopy(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            raise ProcessDied(type(error).__name__) from error

    def kill(self) -> None:
        """See `client.EvaluatorProcess.kill`."""
        self._killed = True
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)
