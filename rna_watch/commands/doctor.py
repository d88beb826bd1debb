"""What `rna-watch doctor` does: look at all that a run's watching needs, and say what works, what will not, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch import kernels
from rna_watch.commands import trial
from rna_watch.daemon.setup import Timing, start_engine, usable_cores
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.journal.quantities import age, printable, size
from rna_watch.journal.run_paths import check_output
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.status import status_of
from rna_watch.watching.hints import Hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rna_watch.commands.trial import Newest
    from rna_watch.config import RunConfig
    from rna_watch.journal.run_paths import RunPaths

_SHARED_MEMORY_BYTES = 75 * 2**20  # Ray's least
_QUOTA_S = 10.0


class Verdict(StrEnum):
    """What a check found: it works, it should be known, it will not work."""

    WORKS = "works"
    NOTE = "note"
    FAILS = "fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, what was found, and what to do about it."""

    verdict: Verdict
    subject: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        """As a line for a person."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return printable(f"{self.verdict:<6} {self.subject:<12} {self.found}{remedy}")


def doctor(run_dir: Path, config: RunConfig, typed: Sequence[str], say: Callable[[str], None]) -> None:
    """Look at everything, one line each.

    Args:
        run_dir: the run directory, as typed.
        config: the settings.
        typed: the command line.
        say: shows a line.

    Raises:
        UsageError: there is no such folder.
        RnaWatchError: something will not work; its lines say what to do.
    """
    failing = 0
    for finding in _findings(run_dir, config, typed):
        say(finding.line())
        failing += finding.verdict is Verdict.FAILS
    if failing:
        raise RnaWatchError(
            f"{failing} thing{'s' if failing > 1 else ''} will not work as {'they are' if failing > 1 else 'it is'}"
        )


def _findings(run_dir: Path, config: RunConfig, typed: Sequence[str]) -> Iterator[Finding]:
    paths = resolve(run_dir, config.output)
    newest: Newest | None = None
    try:
        newest = trial.newest(run_dir, config, typed)
    except NothingToDo as error:
        yield Finding(verdict=Verdict.NOTE, subject="checkpoints", found=str(error))
    except RnaWatchError as error:
        yield Finding(verdict=Verdict.FAILS, subject="checkpoints", found=str(error))
    if newest is not None:
        paths = resolve(newest.run, config.output)
        for line in newest.lines:
            subject, _, text = line.partition(" ")
            yield Finding(
                verdict=Verdict.WORKS, subject="series" if subject == "found" else subject, found=text.strip()
            )
        layout = newest.layout
        changed = age(max(0.0, time.time() - max(file.mtime_ns for file in layout.files) / 1e9))
        under = f", the model under {layout.source!r}" if layout.source else ""
        yield Finding(
            verdict=Verdict.WORKS,
            subject="checkpoint",
            found=f"{newest.name}, {changed} old: complete, {layout.format}, {size(layout.size_bytes)}, "
            f"{layout.parameters:,} parameters{under}",
        )
    yield _watched(paths)
    yield from _place(paths, config)
    yield _events(paths, config)
    yield from _room(paths, config, newest)
    yield _quota(paths)
    yield from _engine(config)
    yield _gpu(config)
    yield from _evaluator(config, newest, run_dir)


def _watched(paths: RunPaths) -> Finding:
    status = status_of(paths)
    if status.alive:
        return Finding(verdict=Verdict.WORKS, subject="watched", found=f"by {status.who()}")
    return Finding(verdict=Verdict.NOTE, subject="watched", found="by nobody at the moment")


def _place(paths: RunPaths, config: RunConfig) -> Iterator[Finding]:
    timing = Timing.of(paths.run, config.quiet, config.scan_interval)
    kind = f"{timing.network}, a network file system" if timing.network else "a local one"
    yield Finding(
        verdict=Verdict.WORKS,
        subject="file system",
        found=f"{kind}: scans every {timing.scan_s:g} s, files rest {timing.quiet_s:g} s before they are read",
    )
    try:
        check_output(paths)
    except RnaWatchError as error:
        yield Finding(verdict=Verdict.FAILS, subject="output", found=str(error))
        return
    place = next(each for each in (paths.state, paths.output, *paths.output.parents) if each.exists())
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        yield Finding(
            verdict=Verdict.FAILS,
            subject="output",
            found=f"{place} cannot be written by this user",
            remedy="name another folder with --output",
        )
    else:
        yield Finding(verdict=Verdict.WORKS, subject="output", found=f"models go to {paths.models}")


def _events(paths: RunPaths, config: RunConfig) -> Finding:
    if Timing.of(paths.run, config.quiet, config.scan_interval).network:
        return Finding(
            verdict=Verdict.NOTE,
            subject="inotify",
            found="a network file system shows no writes of others: scans do it",
        )
    hints = Hints(paths.run, lambda: None, [paths.models, paths.state])
    refused = hints.start()
    hints.stop()
    if refused:
        return Finding(
            verdict=Verdict.NOTE,
            subject="inotify",
            found=refused,
            remedy="raise fs.inotify.max_user_watches and fs.inotify.max_user_instances for faster notice",
        )
    return Finding(verdict=Verdict.WORKS, subject="inotify", found="events tell of checkpoints at once")


def _room(paths: RunPaths, config: RunConfig, newest: Newest | None) -> Iterator[Finding]:
    place = next(each for each in (paths.output, *paths.output.parents) if each.exists())
    free = shutil.disk_usage(place).free
    if newest is None:
        yield Finding(verdict=Verdict.WORKS, subject="disk", found=f"{size(free)} free")
        return
    one = newest.layout.size_bytes
    reserve = 2 * one if config.reserve == "auto" else int(config.reserve * 2**30)
    most = (config.keep + 1) * one + min((config.window + 1) * one, int(config.store_budget * 2**30))
    told = f"{size(free)} free; {size(reserve)} stay free for the training, models and kept checkpoints take up to {size(most)}"
    if free < reserve + one:
        yield Finding(
            verdict=Verdict.FAILS,
            subject="disk",
            found=f"{told}: not one model can be written",
            remedy="make room, or name another disk with --output",
        )
    elif free < reserve + most:
        yield Finding(
            verdict=Verdict.NOTE,
            subject="disk",
            found=f"{told}: windows become shorter, or models wait, when it gets narrow",
            remedy="make room, or lower --keep and --window",
        )
    else:
        yield Finding(verdict=Verdict.WORKS, subject="disk", found=told)


def _quota(paths: RunPaths) -> Finding:
    program = shutil.which("quota")
    if program is None:
        return Finding(
            verdict=Verdict.NOTE,
            subject="quota",
            found="cannot be told here (no program `quota`): free space may not be all yours",
        )
    try:
        done = subprocess.run([program, "-w"], capture_output=True, text=True, timeout=_QUOTA_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(verdict=Verdict.NOTE, subject="quota", found=f"cannot be told: {error}")
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
    if done.returncode or "*" in last:
        return Finding(
            verdict=Verdict.FAILS,
            subject="quota",
            found=f"it is used up: {' '.join(last.split())}",
            remedy=f"make room, or name a folder outside {paths.output} with --output",
        )
    return Finding(verdict=Verdict.WORKS, subject="quota", found=" ".join(last.split()) or "none")


def _loops() -> Finding:
    if kernels.COMPILED:
        return Finding(
            verdict=Verdict.WORKS, subject="loops", found=f"compiled, for vectors of {8 * kernels.vector_bytes()} bits"
        )
    return Finding(
        verdict=Verdict.NOTE,
        subject="loops",
        found="by numpy, which takes up to 1.6 times as long: none were compiled when rna-watch was installed",
        remedy="install gcc and Python's headers, and rna-watch again (pip install --force-reinstall --no-deps --no-cache-dir)",
    )


def _engine(config: RunConfig) -> Iterator[Finding]:
    yield Finding(verdict=Verdict.WORKS, subject="cores", found=f"{usable_cores()} may be used")
    yield _loops()
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if config.engine != "ray":
        known = f"version {version} is there" if version else "not installed"
        yield Finding(
            verdict=Verdict.WORKS, subject="Ray", found=f"not needed to begin (engine {config.engine}); {known}"
        )
        return
    shared = Path("/dev/shm")  # noqa: S108 - Ray's own place
    if shared.is_dir() and config.ray_address == "local" and shutil.disk_usage(shared).free < _SHARED_MEMORY_BYTES:
        yield Finding(
            verdict=Verdict.FAILS,
            subject="Ray",
            found=f"{shared} has less than 75 MiB free, which Ray needs",
            remedy="give the container more (docker: --shm-size 1g), or use --engine local",
        )
        return
    told: dict[str, Finding] = {}

    def on_trouble(key: str, what: str, remedy: str) -> None:
        told[key] = Finding(verdict=Verdict.NOTE, subject="Ray", found=what, remedy=remedy)

    try:
        engine = start_engine(config, None, on_trouble)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting is what is asked for
        yield Finding(verdict=Verdict.FAILS, subject="Ray", found=f"{error}", remedy="use --engine local")
        return
    yield from (finding for finding in told.values() if finding.found)
    engine.close()
    yield Finding(verdict=Verdict.WORKS, subject="Ray", found=f"version {version} starts ({config.ray_address})")


def _gpu(config: RunConfig) -> Finding:
    count = len(list(Path("/dev").glob("nvidia[0-9]*"))) + len(list(Path("/dev/dri").glob("renderD*")))
    there = f"{count} in this machine" if count else "none in this machine"
    if config.device.startswith("cuda") and not count:
        return Finding(
            verdict=Verdict.FAILS,
            subject="GPU",
            found=f"{there}, and the evaluator is to use one",
            remedy="use --device cpu",
        )
    use = f"the evaluator runs on {config.device}" + ("" if config.gpus or config.device != "cpu" else " and sees none")
    return Finding(verdict=Verdict.WORKS, subject="GPU", found=f"{there}; {use}")


def _evaluator(config: RunConfig, newest: Newest | None, run_dir: Path) -> Iterator[Finding]:
    if not config.evaluator and not config.evaluate_command:
        yield Finding(
            verdict=Verdict.NOTE,
            subject="evaluator",
            found="none: it will not be known which models are better",
            remedy=f"rna-watch init {run_dir} writes one",
        )
        return
    if newest is None:
        yield Finding(verdict=Verdict.NOTE, subject="evaluator", found="not tried: there is no checkpoint")
        return
    try:
        lines = trial.said(config, trial.evaluate(config, newest.layout))
    except RnaWatchError as error:
        yield Finding(verdict=Verdict.FAILS, subject="evaluator", found=str(error))
        return
    for line in lines:
        subject, _, text = line.partition(" ")
        bare = subject == "test" and "no gain can be told" in text
        unclear = subject == "choose" and "does not tell" in text
        yield Finding(verdict=Verdict.NOTE if bare or unclear else Verdict.WORKS, subject=subject, found=text.strip())
