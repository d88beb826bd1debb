"""An evaluator's process as a Ray actor; the engine (ray_engine.py) passes Ray in."""

from __future__ import annotations

import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any

from rna_watch.errors import EngineError
from rna_watch.evaluation.client import ProcessDied
from rna_watch.evaluation.worker import AnsweringWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.evaluation.evaluator import EvaluatorSpec

_POLL_S = 0.2


class ActorProcess:
    """An actor that hosts an `AnsweringWorker`; see `client.EvaluatorProcess`.

    Args:
        spec: the user's evaluator.
        ray: the library.
        options: what the actor needs of the cluster, as `ray.remote(...).options` takes it.
        broken: why the cluster cannot be used any more; "" if it can. It is looked at anew if its argument is true.
    """

    def __init__(self, spec: EvaluatorSpec, ray: Any, options: dict[str, Any], broken: Callable[[bool], str]) -> None:
        self._ray = ray
        self._broken = broken
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
        """See `client.EvaluatorProcess.ask`.

        Raises:
            EngineError: the cluster is gone.
        """
        until = time.monotonic() + limit_s
        try:
            reference = self._actor.ask.remote(method, *arguments, **options)
            while not self._ray.wait([reference], timeout=_POLL_S)[0]:
                if self._killed:
                    raise ProcessDied("killed")
                self._check(now=False)
                if time.monotonic() > until:
                    raise TimeoutError
            # Ray's arrays are read-only and lie in its object store, which ends before we do
            return copy.deepcopy(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            self._check(now=True)
            raise ProcessDied(type(error).__name__) from error

    def _check(self, *, now: bool) -> None:
        """Tell a cluster that is gone from an evaluator that died: the user's code has no part in it."""
        if reason := self._broken(now):
            raise EngineError(reason)

    def kill(self) -> None:
        """See `client.EvaluatorProcess.kill`."""
        self._killed = True
        if self._broken(True):
            return  # Ray would wait for what is gone
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)
