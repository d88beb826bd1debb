"""A Ray cluster of our own, or one that is named, as its driver sees it: joining, tasks, actors, nodes. Ray is imported here.

Only paths and coefficients travel, never tensors. What the daemon sends and gets stays pickled: nodes and daemon read it.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.engine import node_work, nodes
from rna_watch.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.engine.nodes import Nonce

    Tell = Callable[[int, str, object], None]

LOCAL = "local"
LINE_S = 8.0  # after which whatever waits says so: nobody waits 10 s without a word
START_LIMIT_S = 120.0
_OBJECT_STORE_BYTES = 80 * 2**20
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the driver needs to know; `session` is the folder of a cluster of our own, "" for one that is named."""

    workers: int
    address: str
    gpus: float
    session: str
    package: str
    nonce: Nonce | None


class Cluster:
    """Joins a cluster, or starts one.

    Args:
        settings: which, and how much of it is used.
        tell: sends a sign of it (request 0) or a part of an answer to the daemon.

    Raises:
        EngineError: Ray cannot be used; the message is all that Ray says.
    """

    def __init__(self, settings: Settings, tell: Tell) -> None:
        try:
            import ray
            from ray._private import ray_constants
        except ImportError as error:
            raise EngineError(f"Ray cannot be used on this machine ({error}); try --engine local") from error
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # remarks for programmers; what fails is raised
        ray_constants.ENABLE_RAY_CLUSTER = not settings.session  # it was read when Ray was imported
        self.ray = ray
        self.named = not settings.session
        self.settings = settings
        self.tell = tell
        self._lock = threading.Lock()
        self._told: dict[str, str] = {}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **self._join_or_start())
        except Exception as error:
            where = f"at {settings.address}" if self.named else "on this machine"
            raise EngineError(
                f"Ray cannot be used {where} ({type(error).__name__}: {said(error)}); try --engine local"
            ) from error
        self._do = ray.remote(_do)
        if not self.named:
            self.check_gpus(self._resources().get("GPU", 0.0))
            self._warm_up()

    def _join_or_start(self) -> dict[str, Any]:
        """What `ray.init` gets; to the nodes of a named cluster our package is shipped, for all that we do there."""
        if self.named:
            shipped = {"py_modules": [self.settings.package], "env_vars": _QUIET}
            return {"address": self.settings.address, "runtime_env": shipped}
        return {
            "address": LOCAL,
            "num_cpus": self.settings.workers,
            "num_gpus": None if self.settings.gpus else 0,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": self.settings.session,
        }

    def _resources(self) -> dict[str, float]:
        found: dict[str, float] = self.ray.cluster_resources()  # type: ignore[no-untyped-call]
        return found

    def check_gpus(self, most: float) -> None:
        """See that an evaluator can get its GPUs; `most` is what any one node has.

        Raises:
            EngineError: it never can.
        """
        if self.settings.gpus > most:
            where = f"any node of the cluster at {self.settings.address}" if self.named else "this machine"
            raise EngineError(
                f"an evaluator is to get {self.settings.gpus:g} GPUs, and Ray knows of {most:g} on {where}; lower --gpus, "
                "or start Ray's node with as many as it has (`ray start --num-gpus`)"
            )

    def _warm_up(self) -> None:
        """Start the workers and load the kernels, so that the first checkpoint does not wait for them."""
        from rna_watch.window.tasks_plan import CopyTask

        empty = pickle.dumps(CopyTask(files=(), copies=(), outputs=()))
        pending = [self.submit(empty, b"", "") for _ in range(self.settings.workers)]
        done, _ = self.ray.wait(pending, num_returns=len(pending), timeout=START_LIMIT_S)
        if len(done) < len(pending):
            raise EngineError(f"Ray started no worker within {START_LIMIT_S:g} s on this machine; lower --workers")

    def say(self, key: str, what: str, remedy: str = "") -> None:
        """Tell of trouble that does not end the cluster, once; "" if it is over."""
        with self._lock:
            if self._told.get(key, "") != what:
                self._told[key] = what
                self.tell(0, "trouble", (key, what, remedy))

    def own_node(self) -> str:
        """The number of the node that this driver is on."""
        found: str = self.ray.get_runtime_context().get_node_id()
        return found

    def alive(self) -> dict[str, dict[str, Any]]:
        """The nodes that Ray takes for alive, by number."""
        return {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]

    def ask(self, node: str, files: tuple[str, ...]) -> Any:
        """Begin to ask a node what it has and sees."""
        path = self.settings.nonce.path if self.settings.nonce else ""
        task = self.ray.remote(nodes.report).options(num_cpus=0, max_retries=0, **self._at(node, 0.0))
        return task.remote(files, path)  # type: ignore[call-arg]

    def submit(self, task: bytes, mark: bytes, node: str) -> Any:
        """Begin a task, on a node of a named cluster; `mark` is put where `begun` finds it when it begins."""
        return self._do.options(num_cpus=1, num_gpus=0, max_retries=3, **self._at(node, 0.0)).remote(task, mark)

    def actor(self, spec: bytes, node: str) -> Any:
        """Start an evaluator; it holds no CPU, as it has nothing to do most of the time."""
        gpus = self.settings.gpus
        options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0, **self._at(node, gpus)}
        return self.ray.remote(node_work.Host).options(**options).remote(spec)

    def _at(self, node: str, gpus: float) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"runtime_env": _environment(gpus)}
        if node:  # no other: it may be left out; where this one is lost, we choose the next
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return options

    def begun(self, prefix: bytes) -> set[bytes]:
        """The marks of tasks that began."""
        from ray.experimental import internal_kv

        return set(internal_kv._internal_kv_list(prefix))

    def forget(self, prefix: bytes) -> None:
        """Remove the marks of tasks."""
        from ray.experimental import internal_kv

        with contextlib.suppress(Exception):
            internal_kv._internal_kv_del(prefix, del_by_prefix=True)


def said(error: Exception) -> str:
    """All that Ray says of an error, in one line."""
    return " ".join(str(error).split())[:1000]


def _environment(gpus: float) -> dict[str, Any]:
    # Ray no longer hides GPUs from workers that asked for none: they would open contexts next to the training's
    return {"env_vars": _QUIET if gpus else _QUIET | {"CUDA_VISIBLE_DEVICES": ""}}


def _do(payload: bytes, mark: bytes) -> tuple[bool, bytes]:
    """Runs on a node: see `node_work.do`."""
    if mark:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(mark, b"")
    return node_work.do(payload, durable=bool(mark))
