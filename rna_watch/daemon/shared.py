"""What the runs of one process share: the engine, its evaluators, Ray beside it, and the turn to work."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rna_watch.daemon.ray_beside import RayBeside, on_trouble
from rna_watch.daemon.setup import start_engine
from rna_watch.errors import RnaWatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.engine.contract import Engine
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.journal import events as e

_LOG = logging.getLogger("rna_watch")
_POLL_S = 0.2
TICK_S = 1.0  # how often a thread that nothing wakes looks whether something is to be done
_LONGEST_FIRST = 4  # each so many turns, the run that waits longest has one, whatever it is for


class Member(Protocol):
    """What works for one run."""

    recorder: Recorder
    wake: threading.Event


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    member: Member
    urgent: bool


class Shared:
    """Lent to the runs of a process; work is done for one of them at a time, on one engine.

    Args:
        many: whether there may be more than one run: each then leaves signals and the service manager to the process.
    """

    def __init__(self, *, many: bool = False) -> None:
        self.many = many
        self._lock = threading.Condition()
        self._members: list[Member] = []
        self._waiting: list[_Waiting] = []
        self._holder: Member | None = None
        self._turns = 0
        self._served: dict[int, int] = {}
        self._engine: Engine | None = None
        self._cancelled: Engine | None = None
        self._evaluators: list[Evaluator] = []
        self._ray: RayBeside | None = None

    # -- the turn

    @contextlib.contextmanager
    def turn(self, member: Member, proceed: Callable[[], None], *, urgent: bool = True) -> Iterator[bool]:
        """Work for a run as long as this is entered; yields whether others worked meanwhile.

        New checkpoints (`urgent`) go first; among equals, the run that was served longest ago does.

        Args:
            member: who works.
            proceed: called now and then while it waits; it raises Cancelled to give up.
            urgent: whether the work is on a new checkpoint.
        """
        mine = _Waiting(member=member, urgent=urgent)
        waited = False
        with self._lock:
            self._waiting.append(mine)
            try:
                while self._holder is not None or self._first() is not mine:
                    waited = True
                    self._lock.wait(_POLL_S)
                    proceed()
            finally:
                self._waiting.remove(mine)
            self._holder = member
            self._turns += 1
            self._served[id(member)] = self._turns
        try:
            yield waited
        finally:
            with self._lock:
                self._holder = None
                self._lock.notify_all()

    def _first(self) -> _Waiting:
        if (self._turns + 1) % _LONGEST_FIRST == 0:
            return self._waiting[0]
        return min(self._waiting, key=lambda each: (not each.urgent, self._served.get(id(each.member), -1)))

    # -- who shares

    def join(self, member: Member) -> None:
        """Take part, until `leave`."""
        with self._lock:
            self._members.append(member)

    def leave(self, member: Member) -> None:
        """Take part no more; with the last one, engine and evaluators end."""
        with self._lock:
            self._served.pop(id(member), None)
            if member in self._members:
                self._members.remove(member)
            if self._members:
                return
            engine, ray = self._engine, self._ray
            self._engine, self._ray = None, None
            self._evaluators = []
        if ray is not None:
            ray.close()
        _close(engine)

    def give_up(self, member: Member) -> None:
        """End the work at hand for a run that is let go; the engine is cancelled for good if there is no other run."""
        with self._lock:
            alone = all(each is member for each in self._members)
            if alone and self._engine is not None:
                self._cancelled = self._engine
                self._engine.cancel()
            if alone or self._holder is member:
                for evaluator in self._evaluators:
                    evaluator.close() if alone else evaluator.interrupt()

    # -- the engine; in one's turn

    @property
    def engine(self) -> Engine | None:
        """The engine that work is done on."""
        return self._engine

    def is_up(self, spec: EvaluatorSpec | None) -> bool:
        """Whether the engine is there, and the evaluators are, if there are to be some."""
        engine = self._engine
        return engine is not None and engine is not self._cancelled and (spec is None or bool(self._evaluators))

    def started(self, config: RunConfig, folder: Path) -> Engine:
        """The engine, which is started if there is none; the nodes of a cluster must see the folder.

        Raises:
            EngineError: it cannot start.
        """
        if self._engine is self._cancelled:
            self.close(self._engine)
        engine = self._engine or start_engine(config, folder, partial(on_trouble, self))
        self._engine = engine
        return engine

    def replaced(self, engine: Engine) -> None:
        """Work goes on on another engine."""
        before, self._engine = self._engine, engine
        self._evaluators = []
        _close(before)

    def close(self, engine: Engine | None) -> None:
        """Close the engine, unless another one took its place."""
        if engine is not None and engine is self._engine:
            self._engine = None
            self._evaluators = []
            _close(engine)

    def evaluators(self, spec: EvaluatorSpec, count: int) -> list[Evaluator]:
        """The evaluators; all runs have the same settings. Files go to the scratch folder of the run that has its turn."""
        assert self._engine is not None
        if not self._evaluators:
            self._evaluators = [self._engine.evaluator(spec) for _ in range(count)]
        return self._evaluators

    def ray_beside(self, config: RunConfig, folder: Path) -> RayBeside:
        """Ray beside the work, one for all runs; the nodes of a cluster must see the folder.

        Raises:
            EngineError: nothing answers at the address of a cluster that is named.
        """
        with self._lock:
            if self._ray is None:
                self._ray = RayBeside(config, self, folder, self._wake)
            return self._ray

    def _wake(self) -> None:
        for each in list(self._members):
            each.wake.set()

    # -- what concerns the engine is told in every run's journal

    def record(self, event: e.Event) -> None:
        """See `Recorder.record`."""
        self._tell(lambda recorder: recorder.record(event))

    def problem(self, key: str, what: str, remedy: str) -> None:
        """See `Recorder.problem`."""
        self._tell(lambda recorder: recorder.problem(key, what, remedy))

    def solved(self, key: str) -> None:
        """See `Recorder.solved`."""
        self._tell(lambda recorder: recorder.solved(key))

    def _tell(self, tell: Callable[[Recorder], None]) -> None:
        for each in list(self._members):
            with contextlib.suppress(*((RnaWatchError, OSError) if self.many else ())):  # that is the run's own trouble
                tell(each.recorder)


def _close(engine: Engine | None) -> None:
    """Close an engine; whatever a broken cluster does when it ends changes nothing of what was done."""
    try:
        if engine is not None:
            engine.close()
    except Exception:  # noqa: BLE001 - whatever it is, it changes nothing of what was done
        _LOG.exception("the engine did not end in order")
