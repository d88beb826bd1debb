"""The view: a run's state and status as one frame of text, for any width and height; no clock, no files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from rna_watch.dashboard.choice import choice
from rna_watch.dashboard.coefficients import NEGATIVE_STYLE
from rna_watch.dashboard.header import header, others, problems
from rna_watch.dashboard.history import history
from rna_watch.dashboard.layout import GAP, Lines, fit, heading, pack, side_by_side, spread, wrap
from rna_watch.dashboard.table import newest, table
from rna_watch.dashboard.work import resources, work_now, workers
from rna_watch.journal.metric import Metric, metric_of
from rna_watch.journal.quantities import age
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.journal.words import describe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing
    from rna_watch.journal.status import Status

SIDE_BY_SIDE_FROM = 160
_WIDEST_TABLE = 150
_TALLEST_STRIP = 6
_TALLEST = 60
_AIRY_FROM = 33
_MOST_EVENTS = 8
_TALLEST_CHOICE = 6
_LEGEND = (
    ("▲", "green", "better"),
    ("~", "dim", "within noise"),
    ("=", "dim", "not better"),
    ("★", "green", "best"),
    ("▼", NEGATIVE_STYLE, "negative weight"),
)
_EVENT_STYLES = {"problem": "red", "failed": "red", "evaluation_failed": "yellow", "best_moved": "green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """The values that all parts of one frame are drawn from."""

    state: RunState
    status: Status
    metric: Metric | None
    best: Standing | None
    now: float


def render(
    state: RunState,
    status: Status,
    *,
    now: float,
    width: int,
    height: int | None = None,
    waiting_for: str = "",
    hint: str = "",
    best: Standing | None = None,
) -> RenderableType:
    """One frame.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        now: seconds since 1970.
        width: terminal cells; no line is wider.
        height: the most lines; None: as many as suit the content.
        waiting_for: the journal that is waited for, shown while the run has none.
        hint: what the keys do, shown on the very last line of `height`.
        best: the best model and the best original, if there are any.
    """
    sight = _Sight(state=state, status=status, metric=metric_of(state), best=best, now=now)
    limit = height or _TALLEST
    lines = problems(state, width=width, most=max(limit // 3, 2))
    lines += header(state, status, sight.metric, best, now=now, width=width)
    foot = _footer(sight, hint, width) if hint or limit >= 20 else []
    room = limit - len(lines) - len(foot)
    if room >= _AIRY_FROM + 2:
        lines, foot, room = [*lines, Text()], [Text(), *foot], room - 2
    lines = (lines + _body(sight, width, room, waiting_for))[: limit - len(foot)]
    if hint and height:
        lines += [Text()] * (height - len(lines) - len(foot))
    for line in lines + foot:
        line.no_wrap = True
    return Group(*(fit(line, width) for line in lines + foot))


def _body(sight: _Sight, width: int, room: int, waiting_for: str) -> Lines:
    if sight.state.started is None:
        return _not_started(sight, waiting_for, width)
    if width < SIDE_BY_SIDE_FROM:
        return _stacked(sight, width, room)
    left_width = min(_WIDEST_TABLE, width * 3 // 5)
    right_width = width - left_width - GAP
    airy = room >= _AIRY_FROM
    events = _events(sight, width, room // 4, most=_MOST_EVENTS)
    now = _now(sight, left_width, 4)
    left = _joined(now, _checkpoints(sight, left_width, room - len(events) - len(now) - 2 * airy), airy=airy)
    team = _workers(sight, right_width, 8 if room >= 34 else 4)
    # Title and tally take two lines, and there are two strips.
    explained = choice(sight.state, width=right_width, most=_TALLEST_CHOICE + 1)
    rows = (len(left) - len(team) - len(explained) - 2 - 2 * airy) // 2
    explained = explained if rows >= 1 else []
    chart = _history(sight, right_width, rows=min(max(rows, 1), _TALLEST_STRIP))
    return _joined(
        side_by_side(left, _joined(chart, explained, team, airy=airy), left_width=left_width), events, airy=airy
    )


def _stacked(sight: _Sight, width: int, room: int) -> Lines:
    airy, roomy = room >= _AIRY_FROM, room >= 28
    now = _now(sight, width, 4 if room >= 24 else 2)
    has_team = roomy and width >= 100 and bool(sight.status.workers)
    chart_width = width * 3 // 5 if has_team else width
    chart = _history(sight, chart_width, rows=3 if roomy else 1) if room >= 12 else []
    if has_team and chart:
        chart = side_by_side(chart, _workers(sight, width - chart_width - GAP, 7), left_width=chart_width)
    elif has_team:
        chart = _workers(sight, width, 4)
    above = _joined(now, chart, choice(sight.state, width=width, most=_TALLEST_CHOICE if roomy else 0), airy=airy)
    rest = room - len(above) - 2 * airy
    events = _events(sight, width, rest, most=_MOST_EVENTS)
    rows = _checkpoints(sight, width, rest)
    if len(rows) + len(events) > rest:
        # The table keeps three quarters; the events get what its rows do not need.
        share = max(rest // 4, rest - len(rows))
        events = _events(sight, width, share, most=_MOST_EVENTS) if share >= 3 else []
        rows = _checkpoints(sight, width, rest - len(events))
    return _joined(above, rows, events, airy=airy)


def _joined(*panels: Lines, airy: bool) -> Lines:
    lines: Lines = []
    for panel in panels:
        lines += [Text()] if airy and lines and panel else []
        lines += panel
    return lines


def _now(sight: _Sight, width: int, most: int) -> Lines:
    lines = work_now(sight.state, sight.status, now=sight.now, width=width, most=most)
    return [heading("now", "", width), *lines]


def _history(sight: _Sight, width: int, *, rows: int) -> Lines:
    return history(sight.state, sight.metric, width=width, rows=rows) if sight.metric else []


def _workers(sight: _Sight, width: int, most: int) -> Lines:
    team = sight.status.workers
    return [heading("workers", "memory", width), *workers(team, width=width, most=most)] if team else []


def _checkpoints(sight: _Sight, width: int, room: int) -> Lines:
    if room < 3:
        return []
    stages = Counter({stage: len(names) for stage, names in sight.state.checkpoints.stages.items()})
    counts = (
        (stages.total() - stages[Stage.ALIAS] - stages[Stage.VANISHED], "seen"),
        (stages[Stage.PUBLISHED], "published"),
        (sum(stages[stage] for stage in PENDING), "in work"),
        (stages[Stage.WAITING], "not complete"),
        (stages[Stage.REFUSED] + stages[Stage.SKIPPED], "not usable"),
        (stages[Stage.FAILED], "failed"),
    )
    note = " · ".join(f"{count} {word}" for count, word in counts if count)
    title = heading("checkpoints", note, width)
    if newest(sight.state, 1):
        first = sight.best.best.checkpoint if sight.best and sight.best.best else ""
        best = {first, *(each.moved.checkpoint for each in others(sight.state))}
        return [title, *table(sight.state, sight.metric, best, width=width, most=room - 2)]
    run = sight.state.started.run if sight.state.started else ""
    return [
        title,
        *wrap(
            f"No checkpoint yet. What a training writes below {run} is used as soon as it is complete.",
            width,
            style="",
            most=3,
        ),
        *wrap("The first model comes once there are enough checkpoints for a window.", width, style="dim", most=2),
    ][:room]


def _events(sight: _Sight, width: int, room: int, *, most: int) -> Lines:
    lines: Lines = []
    for event in reversed(sight.state.recent):
        if len(lines) >= min(room - 1, most):
            break
        text = describe(event, sight.state)
        # The head of the frame already says how the run was started and which problems there are.
        said = event is sight.state.started or getattr(event, "key", None) in sight.state.problems
        if text is not None and not said:
            style = _EVENT_STYLES.get(event.kind, "")
            lines.append(fit(Text.assemble((age(sight.now - event.time).rjust(6), "dim"), "  ", (text, style)), width))
    return [heading("last events", "", width), *reversed(lines)] if lines else []


def _not_started(sight: _Sight, waiting_for: str, width: int) -> Lines:
    if sight.status.alive:
        return [heading("now", "", width), Text("A daemon has the run and begins.")]
    return [
        heading("now", "", width),
        Text("Nothing is known of this run yet: no daemon has watched it."),
        *wrap(f"Waiting for {waiting_for}" if waiting_for else "", width, style="dim", most=3),
        Text("Start one with: rna-watch start RUN_DIR", "yellow"),
    ]


def _footer(sight: _Sight, hint: str, width: int) -> Lines:
    lines: Lines = []
    if sight.state.started:
        lines += resources(sight.state, sight.status, width=width)[:1]
    marks = _LEGEND if sight.metric else _LEGEND[-1:]
    legend = [Text.assemble((mark, style), (f" {word}", "dim")) for mark, style, word in marks]
    shown = any(checkpoint.chosen for checkpoint in newest(sight.state, 40))
    left = pack(legend, width - len(hint) - 2, separator="  ")[0] if shown else Text()
    return [*lines, spread(left, Text(hint, "dim"), width)] if shown or hint else lines
