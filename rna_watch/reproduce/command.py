"""What `rna-watch reproduce` does: run the parts that are missing, write results, figure and tables, say where they are."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rna_watch.reproduce import store
from rna_watch.reproduce.experiment import EXPERIMENTS, Plan, Settings, plan
from rna_watch.reproduce.tables import render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEMA = 1
_LIBRARIES = ("rna-watch", "torch", "numpy", "scipy", "matplotlib")


def reproduce(name: str, *, data: Path | None, out: Path, quick: bool, console: Console | None = None) -> None:
    """Run an experiment of the paper and write `NAME.json`, `NAME.txt`, `NAME.svg` and `NAME.png` into a folder.

    Args:
        name: one of `experiment.EXPERIMENTS`.
        data: folder of data in its standard format, where the experiment needs one.
        out: where to write; parts that were finished there are not run again.
        quick: a small version, in seconds.
        console: where to print.

    Raises:
        UsageError: no such experiment, or it lacks data or a library.
        StoreError: the folder cannot be written.
    """
    console = console or Console(highlight=False)
    begun = time.perf_counter()
    chosen = plan(name, Settings(data=data, quick=quick))
    stem = out / (f"{name}-quick" if quick else name)
    identity = {"experiment": name, "schema": _SCHEMA, "settings": dict(chosen.settings), "seeds": list(chosen.seeds)}
    with single_threaded():
        kept, again = _run(chosen, stem.with_name(f"{stem.name}.parts"), identity, console, name)
    results = {key: part["result"] for key, part in kept.items()}
    text = _text(name, chosen, results, quick=quick)
    record = {
        **identity,
        "command": _command(name, quick=quick),
        "versions": _versions(),
        "machine": {"cores": os.cpu_count(), "threads": 1, "processor": platform.machine()},
        "seconds": {key: part["seconds"] for key, part in kept.items()},
        "total_seconds": round(sum(part["seconds"] for part in kept.values()), 1),
        "results": results,
    }
    store.write(stem.with_suffix(".json"), json.dumps(record, separators=(",", ":")) + "\n")
    store.write(stem.with_suffix(".txt"), text)
    _draw(chosen, results, stem)
    console.file.write(text)
    where = ", ".join(str(stem.with_suffix(ending)) for ending in (".json", ".txt", ".svg", ".png"))
    taken = f"; {again} of {len(kept)} parts were there from before" if again else ""
    console.print(f"\nwritten: {where}", soft_wrap=True, markup=False)
    console.print(
        f"time: {time.perf_counter() - begun:.1f} s now, {record['total_seconds']} s for all parts{taken}", markup=False
    )


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One thread in torch and in the linear algebra of numpy: the same bits, and times that can be compared."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _run(
    chosen: Plan, folder: Path, identity: dict[str, Any], console: Console, name: str
) -> tuple[dict[str, dict[str, Any]], int]:
    """Every part, kept ones as they are; and how many of them there were."""
    kept: dict[str, dict[str, Any]] = {}
    again = 0
    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen.parts), name=name)
        for part in chosen.parts:
            progress.update(task, description=part.key)
            found = store.read(folder, part.key, identity)
            if found is None:
                begun = time.perf_counter()
                result = part.run({key: done["result"] for key, done in kept.items()})
                found = store.keep(folder, part.key, identity, result, time.perf_counter() - begun)
            else:
                again += 1
            kept[part.key] = found
            progress.advance(task)
    return kept, again


def _command(name: str, *, quick: bool) -> str:
    return f"rna-watch reproduce {name}{' --quick' if quick else ''}"


def _text(name: str, chosen: Plan, results: dict[str, Any], *, quick: bool) -> str:
    head = [
        f"{name}: {EXPERIMENTS[name]}",
        f"command: {_command(name, quick=quick)}; seeds: {', '.join(map(str, chosen.seeds)) or 'none, nothing is random'}",
    ]
    if quick:
        head.append("This is the small version: it shows that the experiment runs, not the paper's figure.")
    return "\n".join([*head, "", *(render(table) for table in chosen.tables(results))])


def _draw(chosen: Plan, results: dict[str, Any], stem: Path) -> None:
    from rna_watch.reproduce import style

    with style.context():
        style.save(chosen.draw(results), stem)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
