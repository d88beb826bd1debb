"""The process of one optimizer: it holds the images, and prepares, times and trains one network after another as it is told."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import RnaWatchError
from rna_watch.reproduce.cuda import parts
from rna_watch.reproduce.cuda.records import Records
from rna_watch.reproduce.cuda.run import Run
from rna_watch.reproduce.images.data import InMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from rna_watch.reproduce.cuda.scale import Scale

_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process needs: its optimizer, folders, device and size, and the digest of its images."""

    optimizer: str
    out: Path
    work: Path
    cache: Path
    device: str
    scale: Scale
    digest: str


class Worker:
    """The runs of one optimizer; every public method answers one message.

    Args:
        job: what it needs.
        wanted: whether to go on, asked before every epoch.
    """

    def __init__(self, job: Job, wanted: Callable[[], bool]) -> None:
        self._job, self._wanted, self._device = job, wanted, torch.device(job.device)
        network = job.scale.networks[0]
        spec = job.scale.spec(network, job.optimizer, job.scale.epochs[0], job.cache)
        self._images = InMemory(*parts.load(job.cache), spec, self._device)
        count, size = job.scale.estimated
        self._estimated = [x for x, _ in itertools.islice(self._images.train(0, spec.seed, size), count)]
        self._records = Records(job.out, job.optimizer)
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        about = {"digest": job.digest, "device": name, "torch": torch.__version__, "networks": job.scale.networks}
        self._records.append({"kind": "attempt", **about})
        self._run: Run | None = None

    def prepare(self, network: str) -> str:
        """Build a network and warm it up."""
        job = self._job
        self._run = None  # frees its memory first
        spec = job.scale.spec(network, job.optimizer, job.scale.epochs[0], job.cache)
        state = job.work / f"{network}-{job.optimizer}.state.pt"
        self._run = Run(spec, self._images, self._device, self._records, state, job.scale, self._estimated)
        self._run.time(_WARM_UP)
        return ""

    def compile(self) -> str:
        """Compile the network and warm it up; returns why that failed, if it did."""
        run = self._prepared()
        try:
            run.compile()
            run.time(_WARM_UP)
        except Exception as error:  # noqa: BLE001 - whatever the compiler raises, the network runs without it
            run.forward = run.network
            return (str(error).splitlines() or [type(error).__name__])[0]
        return ""

    def plain(self) -> str:
        """Go back to the network as it is."""
        run = self._prepared()
        run.forward = run.network
        return ""

    def time(self) -> tuple[float, float, int]:
        """Seconds of a step and of judging a model, and the steps of an epoch."""
        run = self._prepared()
        step, judge = run.time(self._job.scale.timed)
        return step, judge, sum(1 for _ in self._images.train(1, 0, run.spec.batch))

    def train(self, epochs: int, deadline: float, timing: dict[str, Any]) -> tuple[bool, int]:
        """Train the network, or go on with it; returns whether it is finished, and the epoch that it has reached.

        Args:
            epochs: of the schedule.
            deadline: when to stop, by the monotonic clock.
            timing: what was measured, for the records.
        """
        run = self._prepared()
        run.spec = replace(run.spec, epochs=epochs)
        self._records.append({"kind": "timing", "run": run.spec.key, **timing})

        def go_on(seconds: float) -> bool:
            return self._wanted() and time.monotonic() + 1.2 * seconds < deadline

        finished = run.train(go_on, lambda line: print(line, flush=True))
        return finished, run.epoch

    def _prepared(self) -> Run:
        assert self._run is not None
        return self._run


def process(connection: Connection, job: Job) -> None:
    """`work` in a process of its own, which Ctrl-C leaves to end by itself: its command closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if job.device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    work(connection, job)


def work(connection: Connection, job: Job) -> None:
    """Answer messages, `(method, *arguments)`, until the connection is closed; an error of ours is answered as such.

    A training stops where the connection is closed, or another message waits, and keeps its state.

    Args:
        connection: of the messages.
        job: what the process needs.
    """
    try:
        worker = Worker(job, lambda: not connection.poll())
        connection.send("ready")
        while True:
            method, *arguments = connection.recv()
            connection.send(getattr(worker, method)(*arguments))
    except (EOFError, ConnectionError):
        return
    except RnaWatchError as error:
        connection.send(error)
        sys.exit(error.exit_code)
