"""The parts of a daemon, by the settings and the machine: timing, engine, evaluator, priority."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.evaluation.evaluator import EvaluatorSpec, check_exists, split_function
from rna_watch.journal.heartbeat import Worker
from rna_watch.watching.scan import network_file_system

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.engine.contract import Engine, Process
    from rna_watch.layout.identity import FileIdentity

    Trouble = Callable[[str, str, str], None]

_WORKER_LIMIT = 4
_NICENESS = 10
_SCRIPT_BYTES = 2**20
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long files must rest, and how often the folder is scanned, in seconds."""

    quiet_s: float
    scan_s: float
    network: str | None

    @classmethod
    def of(cls, run: Path, quiet_s: float | None, scan_s: float | None) -> Timing:
        """What is set, or what suits the file system: attribute caches of network file systems lag by up to a minute.

        Args:
            run: a folder on the file system.
            quiet_s: the setting `quiet`.
            scan_s: the setting `scan_interval`.
        """
        network = network_file_system(run)
        return cls(
            quiet_s=quiet_s if quiet_s is not None else (30.0 if network else 0.5),
            scan_s=scan_s if scan_s is not None else (10.0 if network else 1.0),
            network=network,
        )


def start_engine(config: RunConfig, folder: Path | None = None, on_trouble: Trouble | None = None) -> Engine:
    """The engine that work begins on; arguments as of `start_ray`.

    Raises:
        EngineError: it cannot start.
    """
    if begins_on_ray(config):
        return start_ray(config, folder, on_trouble)
    from rna_watch.engine.local import LocalEngine

    return LocalEngine(workers(config))


def begins_on_ray(config: RunConfig) -> bool:
    """Whether nothing is done before Ray is up: it is named, or evaluators need GPUs of a cluster elsewhere."""
    return config.engine == "ray" or (config.engine == "auto" and config.gpus > 0 and config.ray_address != "local")


def start_ray(config: RunConfig, folder: Path | None = None, on_trouble: Trouble | None = None) -> Engine:
    """Ray, as the settings say.

    Args:
        config: the settings.
        folder: a folder of ours that every node must see.
        on_trouble: hears, by a key, of nodes that are left out and of long waits; "" if that is over.

    Raises:
        EngineError: it cannot start.
    """
    from rna_watch.engine.ray_engine import RayEngine

    return RayEngine(
        workers(config),
        address=config.ray_address,
        gpus=config.gpus,
        folder=folder,
        on_trouble=on_trouble,
    )


def workers(config: RunConfig) -> int:
    """How many tasks run at a time."""
    return config.workers or min(_WORKER_LIMIT, usable_cores())


def usable_cores() -> int:
    """Cores that this process may use: its affinity, or its control group's quota if that is less (a container's limit)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def evaluator_spec(config: RunConfig, scratch: Path) -> EvaluatorSpec | None:
    """The evaluator that the settings name, to run as if from this process; None if there is none.

    Args:
        config: the settings.
        scratch: the folder for models that a command evaluates.

    Raises:
        UsageError: the evaluator's file or its function does not exist, or it is not named as FILE.py:function.
    """
    if config.evaluator is None and config.evaluate_command is None:
        return None
    if config.evaluator is not None:
        check_exists(config.evaluator)
    # our own processes inherit the environment; those of another cluster do not
    elsewhere = config.engine != "local" and config.ray_address != "local"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "CUDA_"))} if elsewhere else {}
    environment |= unseen_gpus(config)
    return EvaluatorSpec(
        function=config.evaluator,
        command=config.evaluate_command,
        device=config.device,
        timeout_s=config.evaluation_timeout,
        threads=config.evaluation_threads,
        cwd=str(Path.cwd()),
        scratch=os.path.realpath(scratch) if config.allow_links else str(scratch),
        environment=environment,
    )


def unseen_gpus(config: RunConfig) -> dict[str, str]:
    """What keeps the user's code from GPUs that it was not given, as a part of its environment."""
    return {} if config.gpus or config.device.startswith("cuda") else {"CUDA_VISIBLE_DEVICES": ""}


def evaluator_digest(function: str | None, command: str | None) -> str:
    """The digest of the evaluator's file, or of the files that its command names: another one means that it was edited.

    Files that these import or read are not looked at.
    """
    words = [split_function(function)[0]] if function else (command or "").split()
    digest = hashlib.blake2b(digest_size=16)
    for file in map(Path, words):
        with contextlib.suppress(OSError, ValueError):
            if file.is_file() and file.stat().st_size <= _SCRIPT_BYTES:  # not the interpreter, nor data
                digest.update(file.read_bytes())
    return digest.hexdigest() if words else ""


def be_nice() -> None:
    """Lower our priority in favour of the training; it can never be raised again."""
    with contextlib.suppress(OSError):
        os.nice(max(0, _NICENESS - os.nice(0)))


def rested_s(identity: FileIdentity) -> float:
    """Seconds since a file last changed, by the clock of this machine; 0 if that lies ahead."""
    return max(0.0, time.time() - max(identity.mtime_ns, identity.ctime_ns) / 1e9)


def as_worker(process: Process) -> Worker:
    """A process as the heartbeat tells of it."""
    memory_bytes = sum(private_bytes(pid) for pid in process.pids)
    return Worker(name=process.name, pid=process.pids[0], memory_bytes=memory_bytes, busy=process.busy)


def private_bytes(pid: int) -> int:
    """Bytes of memory that a process shares with no other (RssAnon)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
