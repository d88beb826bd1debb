"""The Ray engine: tasks and evaluators on a Ray cluster of our own (the default), or on one that is named.

Each precaution answers a problem that was really met. We never join a cluster that happens to be there, and never stop
one that is not ours. No authentication file is left behind. Workers see no GPU and open no CUDA context unless asked.
Only paths and coefficients travel, never tensors.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.engine import ray_session
from rna_watch.engine.contract import Process
from rna_watch.engine.ray_evaluator import ActorProcess
from rna_watch.errors import Cancelled, EngineError, RnaWatchError
from rna_watch.evaluation.client import Evaluator
from rna_watch.window import tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rna_watch.engine.ray_session import Session
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window.tasks_plan import Task

LOCAL = "local"
_OBJECT_STORE_BYTES = 80 * 2**20
_POLL_S = 0.2
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_IDLE = "ray::IDLE"
_AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # parts of Ray; the system cuts names off here
_START_LIMIT_S = 120.0
# tasks are short; a cluster that is about to be closed ends them anyway, so one on a stuck file system is hardly waited for
_SETTLE_LIMIT_S, _CANCELLED_LIMIT_S = 60.0, 5.0
_CONNECT_LIMIT_S = 5.0
_LOOK_S = 1.0
_SILENCES = 3
_RECONNECT_S = "3600"  # after which Ray ends this process; we notice within seconds, and a call may last for minutes
_PARTS = ("gcs_server", "raylet")
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class RayEngine:
    """Runs tasks on Ray workers, one core each; started on construction.

    Args:
        workers: how many tasks run at a time.
        address: "local" for a cluster of our own, else that of a running one.
        gpus: GPUs that each evaluator asks for; with 0 no worker sees a GPU.
        evaluators: how many evaluators run at the same time as the tasks.
        evaluator_cpus: cores of each evaluator.

    Raises:
        EngineError: Ray cannot be started or reached.
    """

    name = "ray"

    def __init__(
        self, workers: int, *, address: str = LOCAL, gpus: float = 0.0, evaluators: int = 1, evaluator_cpus: int = 1
    ) -> None:
        self.workers = workers
        self._gpus = gpus
        self._evaluator_cpus = evaluator_cpus
        self._cancelled = threading.Event()
        self._evaluators: list[Evaluator] = []
        self._session: Session | None = None
        self._address = address
        self._parts: dict[str, int] = {}  # of a cluster of our own that cannot do without them
        self._broken = ""
        self._silent = 0
        self._looked = time.monotonic()
        check_address(address)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray ends this very process without a message (status 1) when its connection to the raylet breaks and the process
        # of this number is gone; without a number, when our parent is process 1 (a daemon, a container). We are never gone.
        os.environ["RAY_RAYLET_PID"] = str(os.getpid())
        if address == LOCAL:
            # Ray writes no token to the home folder, which would change the user's other clusters, if we bring our own
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # the only way to have every part of Ray 2.60 listen on 127.0.0.1 alone: it replaces that address, if named, by
            # the machine's, unless it is told that this is no machine for clusters
            os.environ[_CLUSTERS] = "0"
        else:
            os.environ.pop(_CLUSTERS, None)
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT_S)
        try:
            import ray
            from ray._private import ray_constants
        except ImportError as error:
            raise EngineError(f"Ray cannot be used on this machine ({error}); try --engine local") from error
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # remarks for programmers; what fails is raised
        ray_constants.ENABLE_RAY_CLUSTER = address != LOCAL  # it was read when Ray was imported
        self._ray = ray
        try:
            with _keep_signal_handlers():
                if address == LOCAL:
                    self._start_own(workers + evaluators * evaluator_cpus)
                else:
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except EngineError:
            raise
        except Exception as error:
            with contextlib.suppress(Exception):
                ray.shutdown()
            self._remove_session()
            where = "on this machine" if address == LOCAL else f"at {address}"
            said = str(error).partition("\n")[0]
            raise EngineError(
                f"Ray cannot be used {where} ({type(error).__name__}: {said}); try --engine local"
            ) from error
        self._run = ray.remote(tasks.run).options(num_cpus=1, num_gpus=0, max_retries=3, runtime_env=_runtime_env(0.0))
        self._warm_up()

    def _start_own(self, cpus: int) -> None:
        ray_session.remove_stale()
        self._session = ray_session.Session()
        self._ray.init(
            address=LOCAL,
            num_cpus=cpus,
            num_gpus=None if self._gpus else 0,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=str(self._session.folder),
        )
        found = {_title(pid): pid for pid in _descendants(os.getpid())}
        self._parts = {name: found[name] for name in _PARTS if name in found}

    def _warm_up(self) -> None:
        """Start the workers and load the kernels, so that the first checkpoint does not wait for them."""
        from rna_watch.window.tasks_plan import CopyTask

        empty = CopyTask(files=(), copies=(), outputs=())
        pending = [self._run.remote(empty) for _ in range(self.workers)]
        done, _ = self._ray.wait(pending, num_returns=len(pending), timeout=_START_LIMIT_S)
        if len(done) < len(pending):
            self.close()
            raise EngineError(
                f"Ray started no worker within {_START_LIMIT_S:g} s: it has no free core for us; lower --workers"
            )

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[tasks.Result]:
        """The result of each task, in the order of the tasks; a few more than `workers` are in flight at a time.

        Raises:
            Cancelled: `cancel` was called.
            RnaWatchError, OSError: a task's own error; tasks in flight are waited for.
            EngineError: Ray lost its workers.
        """
        results: list[Any] = [None] * len(work)
        waiting = list(enumerate(work))[::-1]
        flying: dict[Any, int] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) < self.workers + 1:
                    number, task = waiting.pop()
                    flying[self._run.remote(task)] = number
                done, _ = self._ray.wait(list(flying), timeout=_POLL_S)
                if self._cancelled.is_set():
                    raise Cancelled("the engine is stopping")
                self._check_broken()
                for reference in done:
                    number = flying.pop(reference)
                    results[number] = self._get(reference)
                    if on_done is not None:
                        on_done(work[number])
        except BaseException:
            self._settle(list(flying))
            raise
        return results

    def _settle(self, references: list[Any]) -> None:
        """Wait until no task in flight can still write; they are few, and each is as short as its byte budget.

        We never use `ray.cancel`, forced or not: a reply that crosses it ends the whole process (Ray 2.60, a check in
        task_manager.cc: completed, but not pending; seen in one of nine runs, more often on a busy machine).
        """
        if references:
            ends = self._cancelled.is_set() or self._broken
            limit_s = _CANCELLED_LIMIT_S if ends else _SETTLE_LIMIT_S
            with contextlib.suppress(Exception):
                self._ray.wait(references, num_returns=len(references), timeout=limit_s)

    def _get(self, reference: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            return self._ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, RnaWatchError | OSError):
                raise error.cause from None
            raise RnaWatchError(f"a task failed: {error.cause!r}") from error
        except RayError as error:
            said = str(error).partition("\n")[0]
            raise EngineError(f"Ray lost a task ({type(error).__name__}: {said})") from error

    def evaluator(self, spec: EvaluatorSpec) -> Evaluator:
        """A long-lived actor that runs the user's evaluator."""
        needs = {
            "num_cpus": self._evaluator_cpus,
            "num_gpus": self._gpus,
            "runtime_env": _runtime_env(self._gpus),
        }
        process = partial(ActorProcess, ray=self._ray, options=needs, broken=self._look)
        evaluator = Evaluator(spec, process)
        self._evaluators.append(evaluator)
        return evaluator

    def processes(self) -> list[Process]:
        """This process, Ray's workers below it, and the rest of Ray; only this process if the cluster runs elsewhere."""
        found = [Process(name="daemon", pids=(os.getpid(),), busy=False)]
        evaluators = {evaluator.pid(): evaluator for evaluator in self._evaluators}
        system: list[int] = []
        for pid in _descendants(os.getpid()):
            title = _title(pid)
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
        """See `Engine.broken`; it looks once a second.

        Ray would end this very process from C++ about a minute after its control service is gone: the engine is closed
        before. A named cluster counts as gone when nothing answers at its address several times in a row.
        """
        return self._look(False)

    def _look(self, now: bool) -> str:
        if not self._broken and (now or time.monotonic() - self._looked >= _LOOK_S):
            self._looked = time.monotonic()
            self._broken = self._found_broken()
        return self._broken

    def _found_broken(self) -> str:
        if self._session is not None:
            dead = [name for name, pid in self._parts.items() if not _runs(pid, name)]
            if dead:
                return f"Ray's {' and '.join(dead)} ended"
            return "" if self._session_is_there() else f"Ray's session folder {self._session.folder} was removed"
        try:
            check_address(self._address, _LOOK_S)
        except EngineError as error:
            self._silent += 1
            return str(error) if self._silent >= _SILENCES else ""
        self._silent = 0
        return ""

    def _session_is_there(self) -> bool:
        return self._session is not None and any(self._session.folder.glob("session_*/logs"))

    def _check_broken(self) -> None:
        if reason := self.broken():
            raise EngineError(reason)

    def cancel(self) -> None:
        """See `Engine.cancel`."""
        self._cancelled.set()
        for evaluator in self._evaluators:
            evaluator.close()

    def close(self) -> None:
        """Shut down our cluster and remove its session folder, or leave the named cluster."""
        self.cancel()
        with _keep_signal_handlers():
            self._ray.shutdown()
        self._remove_session()

    def _remove_session(self) -> None:
        if self._session is not None:
            self._session.remove()


def _runtime_env(gpus: float) -> dict[str, Any]:
    # Ray no longer hides GPUs from workers that asked for none: they would open contexts next to the training's
    return {"env_vars": _QUIET if gpus else _QUIET | {"CUDA_VISIBLE_DEVICES": ""}}


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


@contextlib.contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers of the calling program, which `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _descendants(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(child) for child in task.read_text().split()]
                found += children
                todo += children
    return found


def _title(pid: int) -> str:
    """The name that a process gave itself (Ray's workers name what they run), at most 15 characters."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _runs(pid: int, name: str) -> bool:
    """Whether a process of this name runs; one that ended and was not waited for does not."""
    try:
        told, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return False
    return told.partition("(")[2] == name and rest.split()[0] not in "ZX"
