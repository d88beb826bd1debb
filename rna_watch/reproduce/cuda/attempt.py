"""An attempt: two processes beside each other on one GPU, network after network, as far as the time goes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.reproduce import store
from rna_watch.reproduce.cuda import parts, records
from rna_watch.reproduce.cuda.run import FIRST, LEVERS, MARKED
from rna_watch.reproduce.cuda.scale import FULL, OPTIMIZERS, QUICK, Scale, Times, fitting, needed, worth_compiling
from rna_watch.reproduce.cuda.worker import Job, process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

# to save what is needed to go on, and to make the tables; and what a network needs to be timed at all
_RESERVE_S, _LEAST_S = 12.0, 45.0
_SAVING_S = 20.0  # for a process that is to end to come to the end of its epoch and keep its state


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person chose: the folder of the images, of the records, of what is needed to go on, and the seconds to take."""

    data: Path | None
    out: Path
    work: Path
    budget: float
    quick: bool = False

    @property
    def scale(self) -> Scale:
        """The size."""
        return QUICK if self.quick else FULL


def run(options: Options, begun: float, say: Callable[[str], None]) -> None:
    """Train as far as the time goes; the same call goes on, and what is finished is not run again.

    Args:
        options: what a person chose.
        begun: since when the time counts, by the monotonic clock.
        say: called with what happens.

    Raises:
        UsageError: there is no GPU, images are missing, or the folder holds records on other images.
        StoreError: a folder cannot be written.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        raise UsageError(
            "torch sees no GPU here: run this where there is one, or see the whole way in small with --quick"
        )
    cache = options.work / "images"
    digest = parts.take(options.data, cache)
    _check_images(options.out, digest)
    reserve = min(_RESERVE_S, 0.1 * options.budget)
    with store.alone(options.work / ".lock"), _workers(options, device, digest, cache) as workers:
        attempt = _Attempt(options=options, workers=workers, deadline=begun + options.budget - reserve, say=say)
        for network in options.scale.networks:
            attempt.train(network)
    notes = records.Records(options.out, OPTIMIZERS[0])
    notes.append({"kind": "notes", "notes": attempt.notes, "seconds": round(time.monotonic() - begun, 1)})


def _check_images(out: Path, digest: str) -> None:
    for writer in records.writers(out):
        for record in records.read(out, writer):
            if record.header["kind"] == "attempt" and record.header["digest"] != digest:
                raise UsageError(f"{out} holds records of runs on other images: name another folder with --out")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """The processes by optimizer, and what could not be done, by network."""

    options: Options
    workers: dict[str, Connection]
    deadline: float
    say: Callable[[str], None]
    notes: dict[str, str] = field(default_factory=dict)

    def train(self, network: str) -> None:
        """Time a network, choose its schedule, and train it with all optimizers; or note why not."""
        scale = self.options.scale
        keys = {optimizer: scale.spec(network, optimizer, 1, Path()).key for optimizer in self.workers}
        done = [o for o, key in keys.items() if records.has(self.options.out, o, "end", key)]
        if len(done) == len(keys):
            return
        left = self._left()
        if left < _LEAST_S and not self.options.quick:
            self._note(network, f"not run: {max(left, 0.0):.0f} s are left, too few to time it")
            return
        self._ask("prepare", network)
        timing, times = self._timed(network)
        seconds = {e: needed(scale, times, e, len(FIRST), len(MARKED) + len(LEVERS)) for e in scale.epochs}
        epochs = self._schedule(network, seconds)
        if epochs is None:
            least = min(seconds.items())
            self._note(
                network, f"not run: {least[0]} epochs would take {least[1]:.0f} s, {self._left():.0f} s are left"
            )
            return
        self.say(f"{network}: {epochs} epochs, about {seconds[epochs]:.0f} s, {self._left():.0f} s are left")
        stopped = self._ask("train", epochs, self.deadline, timing, leaving_out=done)
        lacking = [f"{o} at epoch {epoch}" for o, (finished, epoch) in stopped.items() if not finished]
        if lacking:
            self._note(
                network, f"stopped when the time was up ({', '.join(lacking)} of {epochs}); the same command goes on"
            )
        elif epochs < scale.epochs[0]:
            self._note(
                network, f"cut to {epochs} epochs: {scale.epochs[0]} would have taken {seconds[scale.epochs[0]]:.0f} s"
            )

    def _timed(self, network: str) -> tuple[dict[str, Any], Times]:
        """Time steps of all processes at once, as they are and compiled if that may pay; the faster form is kept."""
        times = self._measured()
        timing: dict[str, Any] = {"network": network, "eager": times.step, "judge": times.judge, "form": "eager"}
        if worth_compiling(self.options.scale, times, self._left()):
            begun = time.monotonic()
            failed = [said for said in self._ask("compile").values() if said]
            compiled = times if failed else self._measured()
            timing |= {"compiling": round(time.monotonic() - begun, 1), "failed": failed, "compiled": compiled.step}
            if compiled.step < times.step:
                times, timing["form"] = compiled, "compiled"
            else:
                self._ask("plain")
        self.say(
            f"{network}: {1000 * times.step:.1f} ms a step ({timing['form']}), {1000 * times.judge:.0f} ms to judge a model"
        )
        return timing, times

    def _measured(self) -> Times:
        found = list(self._ask("time").values())
        return Times(step=max(f[0] for f in found), judge=max(f[1] for f in found), steps=found[0][2])

    def _schedule(self, network: str, seconds: dict[int, float]) -> int | None:
        """The schedule of earlier attempts, which cannot be changed any more, or the one that fits."""
        path = self.options.work / f"{network}.json"
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(path.read_text()))
        epochs = fitting(self.options.scale, seconds, self._left(), self.options.budget)
        if epochs is not None:
            store.write(path, json.dumps(epochs))
        return epochs

    def _ask(self, *message: Any, leaving_out: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
        """Send all processes a message at once; their answers by optimizer."""
        asked = {optimizer: each for optimizer, each in self.workers.items() if optimizer not in leaving_out}
        for each in asked.values():
            with contextlib.suppress(ConnectionError):  # its answer says that it has ended
                each.send(message)
        return {optimizer: answer(optimizer, each) for optimizer, each in asked.items()}

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _note(self, network: str, text: str) -> None:
        self.notes[network] = text
        self.say(f"{network}: {text}")


def answer(optimizer: str, connection: Connection) -> Any:
    """The next answer of a process.

    Raises:
        RnaWatchError: it is an error, or the process has ended.
    """
    try:
        found = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise RnaWatchError(f"the process that trains with {optimizer} ended; what it said is above") from error
    if isinstance(found, RnaWatchError):
        raise found
    return found


@contextlib.contextmanager
def _workers(options: Options, device: str, digest: str, cache: Path) -> Iterator[dict[str, Connection]]:
    """A process for each optimizer; they end with this block."""
    spawn = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    try:
        for optimizer in OPTIMIZERS:
            ours, theirs = spawn.Pipe()
            job = Job(
                optimizer=optimizer,
                out=options.out,
                work=options.work,
                cache=cache,
                device=device,
                scale=options.scale,
                digest=digest,
            )
            started = spawn.Process(target=process, args=(theirs, job))  # no daemon: compiling starts processes
            started.start()
            theirs.close()
            processes.append(started)
            connections[optimizer] = ours
        for optimizer, connection in connections.items():
            answer(optimizer, connection)
        yield connections
    finally:
        for connection in connections.values():
            connection.close()
        for started in processes:
            started.join(_SAVING_S)
            if started.is_alive():
                started.terminate()
                started.join()
