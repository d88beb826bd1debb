"""What `rna-watch reproduce` does: run the parts that are missing, write results, figure and tables, say where they are."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rna_watch.config import read_settings
from rna_watch.dashboard.terminal import PlainConsole
from rna_watch.errors import NothingToDo, StoreError
from rna_watch.journal.echo import shown
from rna_watch.reproduce import store
from rna_watch.reproduce.experiment import EXPERIMENTS, Plan, Settings, plan
from rna_watch.reproduce.tables import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

_SCHEMA = 1
_LIBRARIES = ("rna-watch", "torch", "numpy", "scipy", "matplotlib")


def reproduce(
    name: str,
    *,
    data: Path | None,
    out: Path,
    quick: bool,
    config: Path | None = None,
    so_far: bool = False,
    console: Console | None = None,
) -> None:
    """Run an experiment of the paper and write `NAME.json`, `NAME.txt`, `NAME.svg` and `NAME.png` into a folder.

    Args:
        name: one of `experiment.EXPERIMENTS`.
        data: folder of data in its standard format, if the experiment needs one.
        out: where to write; parts that were finished there are not run again.
        quick: run a small version, in seconds.
        config: a YAML file of the experiment's own settings, if it has any.
        so_far: run nothing; make tables and figure of the parts that are finished.
        console: where to print.

    Raises:
        UsageError: there is no such experiment, or it lacks data or a library, or a setting is wrong.
        NothingToDo: `so_far`, and no part is finished.
        StoreError: the folder cannot be written.
    """
    from rna_watch.reproduce.machine import single_threaded

    console = console or PlainConsole(highlight=False)
    begun = time.perf_counter()
    stem = out / (f"{name}-quick" if quick else name)
    own = read_settings(config) if config else {}
    work = stem.with_name(f"{stem.name}.runs")
    with _unwound_by_signals(), _progress(console, name) as (advance, say), single_threaded():
        chosen = plan(name, Settings(data=data, quick=quick, config=own, work=work, say=say, so_far=so_far))
        report = _Report(
            name=name,
            plan=chosen,
            stem=stem,
            command=_command(name, quick=quick, config=config, data=data),
            quick=quick,
        )
        with contextlib.nullcontext() if so_far else store.alone(out / f".{stem.name}.lock"):
            kept, again = report.run(advance, so_far=so_far)
    if not kept:
        raise NothingToDo(f"no part of {name} is finished in {out}: run it without --so-far")
    text = report.write(kept)
    console.file.write(shown(text))
    where = ", ".join(str(stem.with_suffix(ending)) for ending in (".json", ".txt", ".svg", ".png"))
    taken = f"; {again} of {len(kept)} parts were there from before" if again else ""
    console.print(f"\nwritten: {where}", soft_wrap=True, markup=False)
    console.print(f"time: {time.perf_counter() - begun:.1f} s now, {_total(kept)} s for all parts{taken}", markup=False)


def on_cuda(
    *,
    data: Path | None,
    out: Path,
    quick: bool,
    budget: str | None = None,
    tables: Path | None = None,
    console: Console | None = None,
) -> None:
    """The paper's networks on one GPU, as far as the time goes; records in `OUT/networks-cuda`, tables on the console.

    Args:
        data: folder of CIFAR-10's files, which may arrive one after another.
        out: where to write.
        quick: a tiny version, on the processor if there is no GPU.
        budget: the time to take, such as 9m.
        tables: a folder of records; nothing is trained then.
        console: where to print.

    Raises:
        UsageError: there is no GPU, images are missing, or the budget is no time.
        NothingToDo: the folder of `tables` holds no records.
        StoreError: the folder cannot be written.
    """
    from rna_watch.reproduce.cuda.command import DEFAULT_BUDGET, networks

    console = console or PlainConsole(highlight=False)
    with _unwound_by_signals():
        text = networks(
            data=data,
            out=out / f"networks-cuda{'-quick' if quick else ''}",
            work=None,
            budget=budget or DEFAULT_BUDGET,
            quick=quick,
            tables=tables,
            say=lambda line: console.print(line, soft_wrap=True, markup=False),
        )
    console.file.write(shown(text))


@contextlib.contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """SIGTERM (a batch system) and SIGHUP (a lost terminal) end us like an exception, and so everything that we started."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def _progress(console: Console, name: str) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """A bar of parts, or lines in a log: `advance(done, total, key)` moves it, `say` shows what the present part does."""
    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("", total=None, name=name)
    try:

        def advance(done: int, total: int, key: str) -> None:
            progress.start()  # not before there is work: a refusal must leave no empty line
            progress.update(task, completed=done, total=total, description=key)

        def say(text: str) -> None:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)

        yield advance, say
    finally:
        if progress.live.is_started:
            progress.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """An experiment and where its results go."""

    name: str
    plan: Plan
    stem: Path
    command: str
    quick: bool

    def run(self, advance: Callable[[int, int, str], None], *, so_far: bool) -> tuple[dict[str, dict[str, Any]], int]:
        """The results of every part, and how many of them were kept from before."""
        folder = self.stem.with_name(f"{self.stem.name}.parts")
        own = {"settings": dict(self.plan.settings), "seeds": list(self.plan.seeds)}
        identities = {
            part.key: {"experiment": self.name, "schema": _SCHEMA, **(part.identity or own)} for part in self.plan.parts
        }
        before = {key: store.read(folder, key, identity) for key, identity in identities.items()}
        kept = {key: found for key, found in before.items() if found is not None}
        again = len(kept)
        for number, part in enumerate(self.plan.parts):
            advance(number, len(self.plan.parts), part.key)
            if part.key in kept or so_far:
                continue
            identity, begun = identities[part.key], time.perf_counter()
            try:
                result = part.run({key: done["result"] for key, done in kept.items()})
            except BaseException:
                with contextlib.suppress(StoreError):  # the first error is reported, not this one
                    store.interrupted(folder, part.key, identity, time.perf_counter() - begun)
                raise
            seconds = store.spent(folder, part.key, identity) + time.perf_counter() - begun
            kept[part.key] = store.keep(folder, part.key, identity, result, seconds)
            if self.plan.partial:
                self.write(kept)
        return {part.key: kept[part.key] for part in self.plan.parts if part.key in kept}, again

    def write(self, kept: Mapping[str, dict[str, Any]]) -> str:
        """Write results, tables and figure; the tables as text."""
        results = {part.key: kept[part.key]["result"] for part in self.plan.parts if part.key in kept}
        text = self._text(results)
        record = {
            "experiment": self.name,
            "schema": _SCHEMA,
            "settings": dict(self.plan.settings),
            "seeds": list(self.plan.seeds),
            "command": self.command,
            "versions": _versions(),
            "machine": {"cores": os.cpu_count(), "threads": 1, "processor": platform.machine()},
            "seconds": {key: part["seconds"] for key, part in kept.items()},
            "total_seconds": _total(kept),
            "not_run": [part.key for part in self.plan.parts if part.key not in kept],
            "results": results,
        }
        store.write(self.stem.with_suffix(".json"), json.dumps(record, separators=(",", ":")) + "\n")
        store.write(self.stem.with_suffix(".txt"), text)
        from rna_watch.reproduce import style

        with style.context():
            style.save(self.plan.draw(results), self.stem)
        return text

    def _text(self, results: Mapping[str, Any]) -> str:
        seeds = ", ".join(map(str, self.plan.seeds)) or "none, nothing is random"
        head = [f"{self.name}: {EXPERIMENTS[self.name]}", f"command: {self.command}; seeds: {seeds}"]
        if self.plan.partial:
            head.append(f"finished: {len(results)} of {len(self.plan.parts)} parts")
        if self.quick:
            head.append("This is the small version: it shows that the experiment runs, not the paper's figure.")
        return "\n".join([*head, "", *(render(table) for table in self.plan.tables(results))])


def _total(kept: Mapping[str, dict[str, Any]]) -> float:
    return round(float(sum(part["seconds"] for part in kept.values())), 1)


def _command(name: str, *, quick: bool, config: Path | None, data: Path | None) -> str:
    options = f"{' --data DIR' if data else ''}{f' --config {config}' if config else ''}{' --quick' if quick else ''}"
    return f"rna-watch reproduce {name}{options}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
