"""An evaluator in a Ray actor.

Ray itself is handed in by the engine (ray_engine.py).
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from typing import TYPE_CHECKING, Any

from rna_watch.errors import Cancelled, EvaluationFailed, RnaWatchError
from rna_watch.evaluation.evaluator import Evaluation, Fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.evaluation.evaluator import EvaluatorSpec, FitRequest
    from rna_watch.evaluation.worker import EvaluationWorker
    from rna_watch.window.combine import Combination

_POLL_S = 0.2
_START_LIMIT_S = 120.0


class _Actor:
    """Hosts an `EvaluationWorker`; its errors are answers, so that Ray does not wrap them."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        from rna_watch.evaluation.worker import EvaluationWorker

        self._worker: EvaluationWorker | None = None
        self._error: RnaWatchError | None = None
        try:
            self._worker = EvaluationWorker(spec)
        except RnaWatchError as error:
            self._error = error

    def start(self) -> int | RnaWatchError:
        return self._error or os.getpid()

    def ask(self, method: str, *arguments: object, **options: object) -> object:
        try:
            return getattr(self._worker, method)(*arguments, **options)
        except RnaWatchError as error:
            return error


class RayEvaluator:
    """Runs an `EvaluationWorker` in an actor; one that hangs or dies is replaced at the next model."""

    def __init__(self, spec: EvaluatorSpec, ray: Any, options: dict[str, Any]) -> None:
        self._spec = spec
        self._ray = ray
        self._options = options
        self._actor: Any = None
        self._pid: int | None = None
        self._closed = False

    def warm_up(self) -> None:
        """See `Evaluator.warm_up`."""
        with self._deaths():
            if self._actor is None:
                self._start()

    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        answer = self._answer(_START_LIMIT_S, "offers")
        assert isinstance(answer, frozenset)
        return answer

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """See `Evaluator.evaluate`."""
        limit = self._spec.timeout_s + (_START_LIMIT_S if self._spec.command else 0.0)
        answer = self._answer(limit, "evaluate", combination, fraction=fraction, re_estimate=re_estimate)
        assert isinstance(answer, Evaluation)
        return copy.deepcopy(answer)  # Ray's arrays are read-only and lie in its object store, which ends before we do

    def fit(self, request: FitRequest) -> Fit:
        """See `Evaluator.fit`."""
        answer = self._answer(self._spec.timeout_s, "fit", request)
        assert isinstance(answer, Fit)
        return answer

    def _answer(self, limit_s: float, method: str, *arguments: object, **options: object) -> object:
        with self._deaths():
            actor = self._actor or self._start()
            answer = self._wait(actor.ask.remote(method, *arguments, **options), limit_s)
        if isinstance(answer, RnaWatchError):
            raise answer
        return answer

    @contextlib.contextmanager
    def _deaths(self) -> Iterator[None]:
        """Say what it means when the actor, or Ray below it, dies."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            self._kill()
            if self._closed:
                raise Cancelled("the evaluator was ended") from error
            raise EvaluationFailed(f"the evaluator's process died ({type(error).__name__}); see the log") from error

    def _start(self) -> Any:
        if self._closed:
            raise Cancelled("the evaluator is closed")
        actor = self._actor = self._ray.remote(_Actor).options(max_restarts=0, **self._options).remote(self._spec)
        answer = self._wait(actor.start.remote(), _START_LIMIT_S)
        if isinstance(answer, RnaWatchError):
            self._kill()
            raise answer
        self._pid = answer
        return actor

    def _wait(self, reference: Any, limit_s: float) -> Any:
        until = time.monotonic() + limit_s
        while True:
            done, _ = self._ray.wait([reference], timeout=_POLL_S)
            if self._closed:
                self._kill()  # it may have been started while `close` ran
                raise Cancelled("the evaluator was ended")
            if done:
                return self._ray.get(reference)
            if time.monotonic() > until:
                self._kill()
                raise EvaluationFailed(
                    f"the evaluator ran longer than {limit_s:g} s and was ended; raise --evaluation-timeout"
                )

    def pid(self) -> int | None:
        """See `Evaluator.pid`."""
        return self._pid

    def _kill(self) -> None:
        actor, self._actor, self._pid = self._actor, None, None
        if actor is not None:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def close(self) -> None:
        """End the actor."""
        self._closed = True
        self._kill()
