"""The view: a run's state and status as one frame of text, for any width and height; no clock, no files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from rna_watch.dashboard.answer import answer
from rna_watch.dashboard.chart import chart
from rna_watch.dashboard.coefficients import NEGATIVE_STYLE
from rna_watch.dashboard.details import details
from rna_watch.dashboard.header import header, others, problems
from rna_watch.dashboard.layout import Lines, fit, heading, pack, spread, wrap
from rna_watch.dashboard.look import DETAILS, HELP, KEYS, START, Look
from rna_watch.dashboard.table import common_folder, newest, ordered, table
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

_TALLEST_CHART = 14
_LOWEST_CHART = 3
_TALLEST = 60
_AIRY_FROM = 33
_MOST_EVENTS = 8
_TEAM_FROM = 40
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
    look: Look


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
    look: Look = START,
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
        look: what a person looks at.
    """
    sight = _Sight(state=state, status=status, metric=metric_of(state), best=best, now=now, look=look)
    limit = height or _TALLEST
    lines = [answer(state, best, width)]
    lines += header(state, status, sight.metric, now=now, width=width)
    lines[1:1] = problems(state, width=width, most=max(limit // 3, 2))
    foot = _footer(sight, hint, width) if hint or limit >= 20 else []
    room = limit - len(lines) - len(foot)
    if room >= _AIRY_FROM + 2:
        lines, foot, room = [*lines, Text()], [Text(), *foot], room - 2
    return framed(
        lines + _body(sight, width, room, waiting_for), foot, width=width, height=height if hint else None, limit=limit
    )


def framed(lines: Lines, foot: Lines, *, width: int, height: int | None, limit: int) -> RenderableType:
    """Lines and a foot, cut to the limit; with a height, the foot stands at the bottom of it."""
    lines = lines[: limit - len(foot)]
    if height:
        lines += [Text()] * (height - len(lines) - len(foot))
    for line in lines + foot:
        line.no_wrap = True
    return Group(*(fit(line, width) for line in lines + foot))


def _body(sight: _Sight, width: int, room: int, waiting_for: str) -> Lines:
    if sight.look.screen == HELP:
        return help_lines(width)
    if sight.state.started is None:
        return _not_started(sight, waiting_for, width)
    if sight.look.screen == DETAILS:
        every = ordered(sight.state, sight.metric, sight.look)
        if every:
            row = every[len(every) - 1 - min(sight.look.row or 0, len(every) - 1)]
            return details(sight.state, row, sight.metric, width=width)
    airy = room >= _AIRY_FROM
    now = _now(sight, width, 4 if room >= 24 else 2)
    team = _workers(sight, width, 6) if room >= _TEAM_FROM else []
    tall = min(max((room - 4) // 3, _LOWEST_CHART), _TALLEST_CHART)
    drawn = chart(sight.state, sight.metric, sight.best, width=width, rows=tall) if sight.metric and room >= 14 else []
    above = _joined(drawn, now, airy=airy)
    rest = room - len(above) - len(team) - 2 * airy - (airy and bool(team))
    # The table keeps three quarters; the events get what its rows do not need.
    share = max(rest // 4, rest - 2 - len(newest(sight.state, rest)))
    events = _events(sight, width, share, most=_MOST_EVENTS) if share >= 3 else []
    rows = _checkpoints(sight, width, rest - len(events))
    return _joined(above, rows, team, events, airy=airy)


def help_lines(width: int) -> Lines:
    """The keys and the marks."""
    room = max(len(keys) for keys, _ in KEYS)
    lines = [heading("keys", "any key goes back", width)]
    lines += [fit(Text.assemble((keys.ljust(room), "bold"), "  ", words), width) for keys, words in KEYS]
    lines += [heading("marks", "", width)]
    lines += [fit(Text.assemble((mark.ljust(room), style), "  ", words), width) for mark, style, words in _LEGEND]
    lines += [heading("the chart", "", width)]
    words = "⠂⠂ original, ╴╴ best average, ━━ chosen, ★ the best model; the first values of a training may lie off the chart"
    return lines + wrap(words, width, style="", most=3)


def _joined(*panels: Lines, airy: bool) -> Lines:
    lines: Lines = []
    for panel in panels:
        lines += [Text()] if airy and lines and panel else []
        lines += panel
    return lines


def _now(sight: _Sight, width: int, most: int) -> Lines:
    lines = work_now(sight.state, sight.status, now=sight.now, width=width, most=most)
    return [heading("now", "", width), *lines]


def _workers(sight: _Sight, width: int, most: int) -> Lines:
    team = sight.status.workers
    return [heading("workers", "memory", width), *workers(team, width=width, most=most)] if team else []


def _checkpoints(sight: _Sight, width: int, room: int) -> Lines:
    if room < 3:
        return []
    stages = Counter({stage: len(names) for stage, names in sight.state.checkpoints.stages.items()})
    behind = len(sight.state.checkpoints.left_behind)
    counts = (
        (stages.total() - stages[Stage.ALIAS] - stages[Stage.VANISHED], "seen"),
        (stages[Stage.PUBLISHED], "published"),
        (sum(stages[stage] for stage in PENDING), "in work"),
        (stages[Stage.WAITING], "not complete"),
        (stages[Stage.REFUSED] + stages[Stage.SKIPPED] - behind, "not usable"),
        (behind, "left out for now"),
        (stages[Stage.FAILED], "failed"),
        (stages[Stage.VANISHED], "gone too soon"),
    )
    folder = common_folder([row.name for row in newest(sight.state, room)])
    order = f"sorted by {sight.look.order}" if sight.look.order != "step" else ""
    parts = [order, *(f"{count} {word}" for count, word in counts if count), f"in {folder}" if folder else ""]
    title = heading("checkpoints", " · ".join(filter(None, parts)), width)
    if newest(sight.state, 1):
        first = sight.best.best.checkpoint if sight.best and sight.best.best else ""
        best = {first, *(each.moved.checkpoint for each in others(sight.state))}
        return [title, *table(sight.state, sight.metric, best, width=width, most=room - 2, look=sight.look)]
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
