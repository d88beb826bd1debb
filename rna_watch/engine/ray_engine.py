"""The Ray engine: tasks and evaluators on a Ray cluster of our own (the default), or on one that is named.

Ray itself lives in a child process (ray_cluster.py), which Ray may end when it loses its cluster: the engine is broken then, and
is ended whole. We never join a cluster that happens to be there, and never stop one that is not ours. No authentication file
is left behind. Workers see no GPU and open no CUDA context unless asked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import secrets
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import rna_watch
from rna_watch.engine import ranges, ray_session, whole
from rna_watch.engine.contract import Process
from rna_watch.engine.nodes import Nonce
from rna_watch.engine.ray_cluster import LINE_S, LOCAL, START_LIMIT_S, Settings
from rna_watch.engine.ray_driver import Driver
from rna_watch.engine.ray_evaluator import ActorProcess
from rna_watch.errors import Cancelled, ClusterLost, EngineError
from rna_watch.evaluation.client import Evaluator
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.engine.ray_driver import Request
    from rna_watch.engine.ray_session import Session
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window import tasks
    from rna_watch.window.tasks_plan import Task

_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_IDLE = "ray::IDLE"
_AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # parts of Ray; the system cuts names off here
# tasks are short; a cluster that is about to be closed ends them anyway, so one on a stuck file system is hardly waited for
_SETTLE_LIMIT_S, _CANCELLED_LIMIT_S = 65.0, 5.0
_CONNECT_LIMIT_S = 5.0
_LOOK_S = 1.0
_RECONNECT_S = 10  # after which a head that does not answer is lost; Ray waits for 60 s, and ends its process then
NONCE = "nodes"


class RayEngine:
    """Runs tasks on Ray workers, one core each; started on construction.

    Args:
        workers: how many tasks run at a time.
        address: "local" for a cluster of our own, else that of a running one.
        gpus: GPUs that each evaluator asks for; with 0 no worker sees a GPU.
        folder: a folder of ours that every node must see; None if it is not known.
        on_trouble: called with a key, words ("": it is over) and a remedy: nodes that are left out, waits of more than 10 s.

    Raises:
        EngineError: Ray cannot be started or reached, or has no node that can be used.
    """

    name = "ray"

    def __init__(
        self,
        workers: int,
        *,
        address: str = LOCAL,
        gpus: float = 0.0,
        folder: Path | None = None,
        on_trouble: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self.workers = workers
        self._address = address
        self._on_trouble = on_trouble
        self._cancelled = threading.Event()
        self._evaluators: list[Evaluator] = []
        self._session: Session | None = None
        self._parts: dict[str, int] = {}  # of a cluster of our own that cannot do without them
        self._broken = ""
        self._looked = time.monotonic()
        self._told: set[str] = set()
        self._nonce: Nonce | None = None
        if importlib.util.find_spec("ray") is None:
            raise EngineError("Ray cannot be used on this machine (it is not installed); try --engine local")
        check_address(address)
        if address == LOCAL:
            ray_session.remove_stale()
            self._session = ray_session.Session()
        elif folder is not None:
            self._nonce = Nonce(path=str(folder / NONCE), text=secrets.token_hex(16))
        try:
            if self._nonce is not None:
                with disk.replacing(self._nonce.path, durable=False) as temporary:
                    disk.write_new(temporary, self._nonce.text.encode())
            self._driver = Driver(_environment(address), self._trouble)
        except OSError as error:
            self._remove_session()
            raise EngineError(f"Ray cannot be started ({error.strerror or error}); try --engine local") from error
        settings = Settings(
            workers=workers,
            address=address,
            gpus=gpus,
            session=str(self._session.folder) if self._session else "",
            package=str(Path(rna_watch.__file__).parent),
            nonce=self._nonce,
        )
        begun = time.monotonic()
        try:
            with self._driver.request("", first=settings) as request:
                parts = request.answer(lambda: self._look_at_start(begun), START_LIMIT_S)
        except BaseException as error:
            self._driver.lost = "it did not start"
            self.close()
            if isinstance(error, TimeoutError):
                raise EngineError(f"Ray did not start within {START_LIMIT_S:g} s; try --engine local") from None
            raise
        assert isinstance(parts, dict)
        self._parts = parts
        self._trouble("waits", "", "")

    def _look_at_start(self, begun: float) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the engine is stopping")
        if self._driver.refused:
            has = "it is another one" if os.environ.get("RAY_AUTH_TOKEN") else "RAY_AUTH_TOKEN is not set"
            raise EngineError(
                f"the cluster at {self._address} asks for a token, and this machine has not the same ({has} here); set "
                "RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN, or try --engine local"
            )
        if time.monotonic() - begun > LINE_S and self._session is None and not self._told:
            what = f"the cluster at {self._address} and its nodes did not answer for {LINE_S:g} s"
            self._trouble("waits", what, "look at its head; it is waited for two minutes")

    def _trouble(self, key: str, what: str, remedy: str) -> None:
        if what or key in self._told:
            self._told.add(key)
            if self._on_trouble is not None:
                self._on_trouble(key, what, remedy)

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[tasks.Result]:
        """The result of each task, in the order of the tasks; a few more than `workers` are in flight at a time.

        Raises:
            Cancelled: `cancel` was called.
            RnaWatchError, OSError: a task's own error; tasks in flight are waited for.
            ClusterLost: Ray lost its workers.
        """
        self._check()
        if not work:
            return []
        sent = [(at, pickle.dumps(task)) for at, task in zip(ranges.positions(work), work, strict=True)]
        results: dict[int, tasks.Result] = {}
        with self._driver.request("map", sent) as request:
            try:
                for kind, value in request.parts(self._check):
                    if kind == "done":
                        break
                    self._check()
                    assert isinstance(value, tuple)
                    number, result = value
                    results[number] = pickle.loads(result)
                    if on_done is not None:
                        on_done(work[number])
            except BaseException:
                self._settle(request)
                raise
        return [results[number] for number in range(len(work))]

    def _settle(self, request: Request) -> None:
        """Wait until no task in flight can still write; a cluster that goes on with them all the same is ended."""
        if self._driver.lost or request.ended:
            return
        limit_s = _CANCELLED_LIMIT_S if self._cancelled.is_set() or self._broken else _SETTLE_LIMIT_S
        self._driver.tell("stop", request.number)
        try:
            request.answer(lambda: None, limit_s)
        except TimeoutError:
            self._driver.lost = "tasks did not end when they were given up"
        except Exception:  # noqa: BLE001 - its end is what was waited for
            return

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived actor that runs the user's evaluator; it holds no CPU."""
        evaluator = Evaluator(spec, partial(ActorProcess, driver=self._driver, check=self._check_broken))
        self._evaluators.append(evaluator)
        return evaluator

    def processes(self) -> list[Process]:
        """This process, Ray's workers below its driver, and the rest of Ray; its driver alone if the cluster runs elsewhere."""
        found = [Process(name="daemon", pids=(os.getpid(),), busy=False)]
        evaluators = {evaluator.pid(): evaluator for evaluator in self._evaluators}
        system: list[int] = []
        for pid in whole.members(self._driver.pid):
            title = whole.title(pid)
            if pid in evaluators:
                found.append(Process(name="evaluator", pids=(pid,), busy=evaluators[pid].busy()))
            elif title.startswith("ray::") and not title.startswith(_AGENTS):
                found.append(Process(name="worker", pids=(pid,), busy=not title.startswith(_IDLE)))
            else:
                system.append(pid)
        if system:
            found.append(Process(name=f"ray system ({len(system)})", pids=tuple(system), busy=False))
        return found

    def broken(self) -> str:
        """See `Engine.broken`; it looks once a second."""
        if not self._broken and (self._driver.lost or time.monotonic() - self._looked >= _LOOK_S):
            self._looked = time.monotonic()
            self._broken = self._found_broken()
        return self._broken

    def _found_broken(self) -> str:
        if self._session is not None:
            dead = [name for name, pid in self._parts.items() if whole.title(pid) != name or pid not in self._living()]
            if dead:
                return f"Ray's {' and '.join(dead)} ended"
            if not any(self._session.folder.glob("session_*/logs")):
                return f"Ray's session folder {self._session.folder} was removed"
        elif not self._driver.lost and time.monotonic() - self._driver.pulse > _RECONNECT_S:
            return f"the head at {self._address} did not answer for {_RECONNECT_S} s"
        return self._driver.lost

    def _living(self) -> list[int]:
        return whole.members(self._driver.pid)

    def _check_broken(self) -> None:
        if reason := self.broken():
            raise ClusterLost(reason)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the engine is stopping")
        self._check_broken()

    def cancel(self) -> None:
        """See `Engine.cancel`."""
        self._cancelled.set()
        for evaluator in self._evaluators:
            evaluator.close()

    def close(self) -> None:
        """Shut down our cluster and remove its session folder, or leave the named cluster."""
        self.cancel()
        if self._broken:
            self._driver.kill()
        else:
            self._driver.close()
        for key in sorted(self._told):
            self._trouble(key, "", "")
        self._remove_session()

    def _remove_session(self) -> None:
        if self._session is not None:
            self._session.remove()
        if self._nonce is not None:
            with contextlib.suppress(OSError):
                disk.remove(self._nonce.path)


def _environment(address: str) -> dict[str, str]:
    """What Ray's driver, and the cluster that it may start, find in their environment."""
    environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(_RECONNECT_S)} | dict(os.environ)
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment.pop(_CLUSTERS, None)
    if address == LOCAL:
        # Ray writes no token to the home folder, which would change the user's other clusters, if we bring our own
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} | environment
        # the only way to have every part of Ray 2.60 listen on 127.0.0.1 alone: it replaces that address, if named, by
        # the machine's, unless it is told that this is no machine for clusters
        environment[_CLUSTERS] = "0"
    return environment


def check_address(address: str, limit_s: float = _CONNECT_LIMIT_S) -> None:
    """See that something answers at an address: Ray itself would wait for more than a minute, and may end the process.

    Raises:
        EngineError: nothing does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=limit_s).close()
    except OSError as error:
        raise EngineError(
            f"nothing answers at {address} ({error.strerror or error}); correct --ray-address, or leave it out"
        ) from error
