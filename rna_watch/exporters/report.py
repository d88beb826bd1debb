"""The report of a run: one HTML page that needs nothing else, made from the journal and the best model's manifest."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

from rna_watch.comparison.comparison import Comparison, compare
from rna_watch.comparison.findings import findings, provenance
from rna_watch.errors import NothingToDo, UsageError
from rna_watch.exporters import answer, curves, outputs, style, tables, weights
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.journal.quantities import plain
from rna_watch.journal.words import DIRECTIONS, engine_of

if TYPE_CHECKING:
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.run_paths import RunPaths

_MOST_METRICS = 6
_MOST_SEQUENCES = 12


def page(state: RunState, paths: RunPaths) -> str:
    """The page; equal journals and manifests give equal pages.

    Args:
        state: what the run's journal adds up to.
        paths: where its models and manifests lie.

    Raises:
        NothingToDo: the journal knows of no checkpoint.
    """
    known = [each for each in state.checkpoints.values() if each.admitted]
    if not known:
        raise NothingToDo(
            "nothing is known of this run (no journal, or no checkpoint in it); `rna-watch once RUN_DIR` processes what is there"
        )
    first = _comparison(state, paths)
    parts = [_header(state, paths, first), answer.section(state, paths, first)]
    if first is None:
        parts.append(weights.section(sorted(known, key=lambda each: each.step or 0), None, _step_kind(known)))
    else:
        parts += _sequence(first, state, paths, heading="Metrics")
        for name in list(dict.fromkeys(first.sequences))[:_MOST_SEQUENCES]:
            other = _comparison(state, paths, sequence=name) if name != first.sequence else None
            if other:
                parts += [
                    answer.of_another(other),
                    *_sequence(other, state, paths, heading=f"Metrics of {plain(name)}"),
                ]
    parts += [outputs.section(state, paths, first), _origin(state, paths)]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{plain(paths.run.name)}: rna-watch report"),
        tag("style", Markup(style.sheet())),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en") + "\n"


def _comparison(state: RunState, paths: RunPaths, **what: Any) -> Comparison | None:
    try:
        return compare(state, there=paths.there, **what)
    except (NothingToDo, UsageError):  # nothing was evaluated, the metric's direction or the sequence is not known
        return None


def _step_kind(known: list[Checkpoint]) -> str:
    return plain(next((each.admitted.step_kind for each in known if each.admitted), "") or "step")


def _sequence(c: Comparison, state: RunState, paths: RunPaths, *, heading: str) -> list[Markup]:
    """What is told of the checkpoints of one sequence."""
    others = [
        found
        for name in c.others[: _MOST_METRICS - 1]
        if (found := _comparison(state, paths, metric=name, sequence=c.sequence))
    ]
    checkpoints = [state.checkpoints[row.checkpoint] for row in c.rows]
    said = [line for line in provenance(c) if line not in answer.said(c)]
    sentences = [*findings(c), *said]
    return [
        tag("section", tag("h2", heading), curves.all_figures(c, others, state)),
        weights.section(checkpoints, c, plain(c.step_kind)),
        tables.section(c),
        tag("section", tag("h2", "Findings"), tag("ul", *(tag("li", line) for line in sentences), class_="findings")),
    ]


def _header(state: RunState, paths: RunPaths, c: Comparison | None) -> Markup:
    last = max((event.time for event in state.recent), default=0.0)
    count = len([each for each in state.checkpoints.values() if each.admitted])
    told = [f"{count} checkpoint{'s' if count != 1 else ''}"]
    if c and c.rows:
        told.append(f"{len(c.rows)} evaluated, {plain(c.step_kind)} {c.rows[0].step} to {c.rows[-1].step}")
    if last:
        told.append(f"as of {_date(last)}")
    return tag("header", tag("h1", plain(paths.run.name) or "run"), tag("p", "; ".join(told), class_="soft"))


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def _origin(state: RunState, paths: RunPaths) -> Markup:
    """Where all of this comes from."""
    started, metric = state.started, state.metric
    facts = [("run", str(paths.run)), ("models and manifests", str(paths.models)), ("journal", str(paths.journal))]
    if started:
        facts += [
            ("evaluator", started.evaluator or "none"),
            ("engine", engine_of(started)),
            ("watched by", f"rna-watch {started.version}, last started {_date(started.time)}"),
        ]
    if metric:
        facts.append(("chosen by", f"{metric.metric} ({DIRECTIONS.get(metric.mode, 'direction not known')})"))
    verify = f"rna-watch verify {shlex.quote(str(paths.run))}"
    return tag(
        "section",
        tag("h2", "Where this comes from"),
        tag("dl", *(join(tag("dt", key), tag("dd", plain(value))) for key, value in facts)),
        tag("p", "To check every model against its manifest and its inputs, bit for bit: ", tag("code", verify)),
    )
