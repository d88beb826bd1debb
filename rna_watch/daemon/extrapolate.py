"""One window, no daemon: combine the checkpoints that are named, and write the result."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.acceleration.family import AVERAGE, LAST, RNA, Candidate, average_of, family, rna_of, unevaluated
from rna_watch.acceleration.gram import GramRows, merge
from rna_watch.checkpoints import clone
from rna_watch.checkpoints.combine import Combination
from rna_watch.checkpoints.extents import difference
from rna_watch.checkpoints.probe import probe
from rna_watch.daemon import outputs
from rna_watch.engine import plan
from rna_watch.engine.inline import InlineEngine
from rna_watch.engine.publish import publish
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint, UsageError
from rna_watch.watching import steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.checkpoints.extents import Layout

METHODS = (RNA, AVERAGE, LAST)
_SMALLEST_WINDOW = 3


def extrapolate(
    checkpoints: Sequence[Path],
    out: Path,
    *,
    method: str,
    window: int | None,
    regularization: float | None,
    source: str | None,
    workers: int,
    memory_budget: float,
    force: bool,
) -> dict[str, Any]:
    """Combine checkpoints, write the model to `out` and its manifest to `out`.json; returns the manifest.

    Args:
        checkpoints: at least three; put in order by their steps, not as given.
        out: the model's path.
        method: rna, average or last.
        window: N; the newest N + 1 checkpoints are used (all, if None).
        regularization: lambda for rna; None: the smallest >= 1e-8 that keeps ||c||_2 <= 3.
        source: key path of the model inside the files.
        workers: threads.
        memory_budget: MiB a thread.
        force: replace an existing `out`.

    Raises:
        UsageError: too few checkpoints, `out` exists, or it is one of the inputs.
        RefusedCheckpoint: a file cannot be used, or the window cannot be extrapolated by this method.
    """
    if method not in METHODS:
        raise UsageError(f"--method must be one of {', '.join(METHODS)}, not '{method}'")
    _check_out(out, checkpoints, force=force)
    layouts = _ordered(checkpoints, source)
    if window is not None:
        layouts = layouts[-(window + 1) :]
    if len(layouts) < _SMALLEST_WINDOW:
        raise UsageError(f"{len(layouts)} checkpoints are too few: extrapolation needs {_SMALLEST_WINDOW} or more")
    for older, newer in pairwise(layouts):
        if why := difference(older, newer):
            raise RefusedCheckpoint(f"{older.path} and {newer.path} cannot be combined: {why}")
    engine = InlineEngine(workers)
    try:
        parts = engine.map(plan.gram_tasks(layouts, len(layouts) - 1, memory_budget))
        total = merge(part for part in parts if isinstance(part, GramRows))
        if total.non_finite:
            bad = ", ".join(layouts[number].path for number in sorted(total.non_finite))
            raise RefusedCheckpoint(f"NaN or infinite weights in {bad}: leave it out")
        candidate, notes = _solve(total, method, regularization)
        content = outputs.manifest(
            checkpoint=layouts[-1].path,
            step=_step(layouts[-1]),
            inputs=[{"path": each.path, "step": _step(each), "fingerprint": each.fingerprint} for each in layouts],
            candidate=candidate,
            metrics={"original": None, AVERAGE: None, "chosen": None},
            better_than_original=None,
            significant=None,
            reason=notes or candidate.diagnostics.sentence,
        )
        outputs.write_manifest(out, outputs.encode(content))
        publish(
            Combination(layouts=tuple(layouts), weights=candidate.weights),
            str(out),
            temporary=str(out.with_name(clone.temporary_name(out.name, str(os.getpid())))),
            budget_mib=memory_budget,
            run=engine.map,
        )
    finally:
        engine.close()
    return content


def _check_out(out: Path, checkpoints: Sequence[Path], *, force: bool) -> None:
    if any(out.exists() and path.exists() and out.samefile(path) for path in checkpoints):
        raise UsageError(f"{out} is one of the checkpoints; originals are never written, name another file with -o")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; name another file, or replace it with --force")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder {out.absolute().parent} does not exist; make it first")


def _ordered(checkpoints: Sequence[Path], source: str | None) -> list[Layout]:
    layouts = []
    for path in checkpoints:
        try:
            layouts.append(probe(str(path), source))
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist") from error
        except (RefusedCheckpoint, IncompleteCheckpoint) as error:
            raise RefusedCheckpoint(f"{path} cannot be used: {error}") from error
    return sorted(layouts, key=lambda each: (_step(each) or 0, each.files[0].mtime_ns, steps.natural_key(each.path)))


def _step(layout: Layout) -> int | None:
    from_name = steps.from_name(layout.path)
    if from_name is not None:
        return from_name[1]
    return layout.counters.get("step", layout.counters.get("epoch"))


def _solve(total: GramRows, method: str, regularization: float | None) -> tuple[Candidate, str]:
    n = len(total.rows)
    gram_nn = np.asarray(total.rows)
    if method == AVERAGE:
        return average_of(gram_nn, n), ""
    if method == LAST:
        return family(gram_nn, rounding_energy=0.0, windows=(), regularizations=(), limit=0).candidates[0], ""
    if regularization is None:
        members = unevaluated(gram_nn, rounding_energy=total.rounding_energy)
        return members.candidates[-1], " ".join(members.notes)
    candidate, note = rna_of(gram_nn, n, regularization, total.rounding_energy)
    if candidate is None:
        raise RefusedCheckpoint(f"{note} Use --method average.")
    return candidate, ""
