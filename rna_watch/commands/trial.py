"""One call of the user's evaluator, on the newest checkpoint of a run, as the daemon would make it."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.acceleration.direction import direction
from rna_watch.commands.settle_run import look, settle, understand
from rna_watch.daemon.setup import evaluator_spec
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.evaluation.evaluator import choosing_metric
from rna_watch.formats.probe import probe
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.words import DIRECTIONS
from rna_watch.window.combine import Combination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.config import RunConfig
    from rna_watch.evaluation.evaluator import Evaluation
    from rna_watch.layout.layout import Layout
    from rna_watch.watching.discovery import Discovery

_FEW_EXAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest checkpoint of a run that can be read: its name, its layout, and all that lies beside it."""

    run: Path
    name: str
    layout: Layout
    found: Discovery
    lines: tuple[str, ...]


def newest(run_dir: Path, config: RunConfig, typed: Sequence[str]) -> Newest:
    """The newest checkpoint of a run, and lines that say what the run is taken for.

    Raises:
        UsageError: there is no such folder, or there are several runs in it.
        NothingToDo: there is no checkpoint.
        RnaWatchError: none of the newest three can be read; why the newest cannot.
    """
    run, lines = settle(run_dir, config, typed, None, goes_on=False)
    paths = resolve(run, config.output)
    names = look(config, paths)
    found = understand(names, paths.run, config)
    first = found.groups[0] if found.groups else None
    if first is None:
        raise NothingToDo(f"there is no checkpoint in {run} yet: begin the training first")
    of_group = [name for name in names if first.folder == "" or name.startswith(f"{first.folder}/")]
    latest = sorted(of_group, key=names.__getitem__, reverse=True)
    latest = [first.newest, *(name for name in latest if name != first.newest)]
    failure: RnaWatchError | None = None
    for name in latest[:3]:
        try:
            layout = probe(str(paths.run / name), config.source, config.ignore)
        except (RnaWatchError, OSError) as error:
            failure = failure or RnaWatchError(f"{name} cannot be read: {error}")
        else:
            return Newest(run=paths.run, name=name, layout=layout, found=found, lines=tuple(lines))
    assert failure is not None
    raise failure


def evaluate(config: RunConfig, layout: Layout) -> Evaluation:
    """What the evaluator says of one checkpoint as it is.

    Raises:
        UsageError: the evaluator's file or function does not exist.
        EvaluationFailed: it failed, and where.
    """
    with tempfile.TemporaryDirectory(prefix="rna-watch-") as scratch:
        spec = evaluator_spec(config, Path(scratch))
        assert spec is not None
        engine = LocalEngine(1)
        try:
            evaluator = engine.evaluator(spec)
            return evaluator.evaluate(Combination(layouts=(layout,), weights=(1.0,)))
        finally:
            with contextlib.suppress(RnaWatchError):
                engine.close()


def said(config: RunConfig, result: Evaluation) -> list[str]:
    """What was found in words, and what a better test of gains needs.

    Raises:
        EvaluationFailed: the metric to choose by is not among those returned.
    """
    metric = choosing_metric(result.metrics, config.metric)
    mode = config.mode or direction(metric)
    numbers = ", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items())
    lines = [f"metrics  {numbers} ({result.seconds:.1f} s)"]
    if mode is None:
        lines.append(
            f"choose   by {metric}, whose name does not tell whether more is better: add --mode min or --mode max"
        )
    else:
        lines.append(f"choose   by {metric}: {DIRECTIONS[mode]}")
    values = result.examples.get(metric)
    if values is None:
        lines.append(
            f"test     {metric} is one number, so no gain can be told from noise: return one value for each example, as a "
            "tensor, or give --minimum-gain"
        )
    else:
        more = "; more of them tell smaller gains from noise" if len(values) < _FEW_EXAMPLES else ""
        lines.append(f"test     gains are tested on {len(values):,} values of {metric}, model against model{more}")
    return lines
