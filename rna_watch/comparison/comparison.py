"""The comparison of all methods over one run: a pure function of what the journal adds up to."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from rna_watch.acceleration.direction import direction
from rna_watch.acceleration.methods import (
    ANNEAL,
    AVERAGE,
    AVERAGES,
    LAST,
    LAYERED,
    RE_ESTIMATED,
    RNA,
    SOLUTIONS,
    TRAINED,
    UNIFORM,
)
from rna_watch.acceleration.methods import kind_of as kind_of_method
from rna_watch.acceleration.significance import ranked
from rna_watch.comparison.levels import Level, known, levels, same
from rna_watch.comparison.members import Member, length_of, members_of, recipe_at
from rna_watch.comparison.sequences import pick, sequences
from rna_watch.errors import NothingToDo, UsageError
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.metric import metric_of, mode_of
from rna_watch.journal.replay import PENDING
from rna_watch.journal.standing import Standing, standing
from rna_watch.journal.words import stands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rna_watch.acceleration.significance import Mode
    from rna_watch.journal.recipe import Recipe
    from rna_watch.journal.replay import Checkpoint, RunState

ORIGINAL = "original"
CHOSEN = "chosen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate and the shown metric's value for it; None if the evaluator did not give that metric for it."""

    candidate: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One checkpoint: a point for each kind and each fixed recipe that was evaluated there.

    `points` has what was picked by the choosing metric (`original`, `average`, `rna`, other methods by their name,
    `chosen`) and the fixed recipes by name; `candidates` has all there is: (method, value) by name.
    `batches` are those that the picked branch of the training drew, in the unit of `step` (0: not known).
    `better` and `significant` are the journal's own verdict on the chosen one; `best` names the kinds that no other
    kind beats, and is empty where there was nothing to compare.
    """

    checkpoint: str
    step: int
    points: Mapping[str, Point]
    candidates: Mapping[str, tuple[str, float | None]]
    best: tuple[str, ...]
    better: bool | None
    significant: bool | None
    decided: bool
    batches: float = 0.0

    def value(self, key: str) -> float | None:
        """The finite value of a kind or a recipe, or None."""
        point = self.points.get(key)
        return point.value if point and known(point.value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All methods at all checkpoints of a run.

    `metric` is shown, `choosing` is the one by which the daemon chose (None: it did not say); `others` are the evaluator's
    remaining metrics. `kinds` are the columns that are picked anew at each checkpoint, `members` the fixed recipes at
    most checkpoints, of which `fixed` are the paper's RNA (largest window, smallest lambda), the uniform average of its
    window, and the largest uniform average. `sequence` names the checkpoints that are compared, `sequences` all that the
    folder has. `taken_back` counts those left out because a restart or a rerun went over their steps again, and
    `judged_otherwise` those that another evaluator judged, or that hold another model.
    """

    run: str
    sequence: str
    sequences: tuple[str, ...]
    taken_back: int
    judged_otherwise: int
    step_kind: str
    metric: str
    mode: Mode
    choosing: str | None
    choosing_mode: Mode
    others: tuple[str, ...]
    kinds: tuple[str, ...]
    members: tuple[str, ...]
    fixed: tuple[str, ...]
    rows: tuple[Row, ...]
    levels: tuple[Level, ...]
    standing: Standing | None
    stands: str
    cooled: str = ""

    @property
    def name(self) -> str:
        """The end of the run's path: its folder and the one around it."""
        return "/".join(PurePath(self.run).parts[-2:]).lstrip("/")

    @property
    def flattered(self) -> bool:
        """Whether the numbers shown are those by which the models were picked."""
        return self.choosing in {None, self.metric}

    def curve(self, key: str) -> list[tuple[int, float | None]]:
        """(step, value) of a kind or a recipe at every checkpoint."""
        return [(row.step, row.value(key)) for row in self.rows]


def compare(
    state: RunState,
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    given: Sequence[float] | None = None,
    sequence: str | None = None,
    there: Callable[[str], bool] = lambda _: True,
) -> Comparison:
    """The comparison of a run, finished or living.

    Args:
        state: what its journal adds up to.
        metric: which of the evaluator's numbers to show; the one by which models are chosen, if not given.
        mode: whether it is minimized or maximized; the daemon's own, or told from the name, if not given.
        given: levels to ask for; around the original's best, if not given.
        sequence: which checkpoints, by the pattern of their names or its beginning; the longest sequence, if not given.
        there: whether an output is in the output tree.

    Raises:
        NothingToDo: nothing was evaluated.
        UsageError: the evaluator never reported that metric, its direction is not known, or there is no such sequence.
    """
    remedy = "`rna-watch once RUN_DIR --evaluator FILE.py:function` evaluates everything that is there"
    if not state.checkpoints:
        raise NothingToDo(f"nothing is known of this run (no journal, or no checkpoint in it); {remedy}")
    judged = [c for c in state.checkpoints.values() if c.evaluated and c.step is not None]
    # what one evaluator said of one model in the files; the others' numbers are of another scale
    evaluated = [c for c in judged if state.judged in {None, c.key}]
    default = metric_of(state)
    if not evaluated or default is None:
        raise NothingToDo(f"no model of this run was evaluated, so there is nothing to compare; {remedy}")
    found = sequences(evaluated)
    compared = pick(found, sequence)
    evaluated = list(compared.members)
    # all that has to be unpacked, checkpoint by checkpoint: a long run is unpacked once
    families, lengths, said = [], [], {}
    for each in evaluated:
        families.append(family := members_of(each))
        lengths.append(length_of(each, family))
        said.update(dict.fromkeys(name for metrics in each.evaluations.values() for name in metrics))
    names = list(said)
    shown = metric or default.name
    if shown not in names:
        near = difflib.get_close_matches(shown, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"the evaluator reported no metric {shown!r}, only {', '.join(names)}{hint}")
    shown_mode = mode or (mode_of(state) if shown == default.name else None) or direction(shown)
    if shown_mode is None:
        raise UsageError(
            f"the name {shown!r} does not tell whether it is to be small or large: add --mode min or --mode max"
        )
    # by a metric whose direction is not known nothing was chosen
    chosen_in = mode_of(state)
    choosing = state.metric.metric if state.metric and chosen_in else None
    picker = _Picker(shown=shown, choosing=choosing or shown, mode=chosen_in or shown_mode)

    kinds = _kinds(families)
    recipes = _recipes(families, lengths, kinds)
    members = tuple(recipes)
    rows = [
        _row(checkpoint, family, length, picker, shown_mode, recipes)
        for checkpoint, family, length in zip(evaluated, families, lengths, strict=True)
    ]
    curves = {key: [(row.step, row.value(key)) for row in rows] for key in (*kinds, CHOSEN, *members)}
    best = standing(state, there, compared.name if compared.name in state.series() else None)
    return Comparison(
        run=state.started.run if state.started else "",
        sequence=compared.name,
        sequences=tuple(each.name for each in found),
        taken_back=compared.taken_back,
        judged_otherwise=len(judged) - sum(len(each.members) + each.taken_back for each in found),
        step_kind=next((c.admitted.step_kind for c in evaluated if c.admitted), "") or "step",
        metric=shown,
        mode=shown_mode,
        choosing=choosing,
        choosing_mode=picker.mode,
        others=tuple(name for name in names if name != shown),
        kinds=kinds,
        members=members,
        fixed=_fixed(recipes),
        rows=tuple(rows),
        levels=tuple(levels(curves, ORIGINAL, shown, shown_mode, given)),
        standing=best,
        stands=stands(best, state) if best else "",
        cooled=sentence(branch) if (branch := cooled(state)) else "",
    )


def kind_of(method: str) -> str:
    """The kind that a method is shown under: all averages together, all solutions together, others by themselves."""
    if method == LAST:
        return ORIGINAL
    return {AVERAGES: AVERAGE, SOLUTIONS: RNA}.get(kind_of_method(method) or "", method)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picker:
    """How one of a kind is picked: by the choosing metric, as the daemon does, whatever metric is shown."""

    shown: str
    choosing: str
    mode: Mode

    def point(self, member: Member) -> Point:
        return Point(candidate=member.name, value=member.metrics.get(self.shown))

    def pick(self, members: Sequence[Member]) -> Member | None:
        finite = [member for member in members if known(member.metrics.get(self.choosing))]
        return next(iter(ranked(finite, lambda member: member.metrics[self.choosing], self.mode)), None)


def _kinds(families: Sequence[Mapping[str, Member]]) -> tuple[str, ...]:
    seen = {kind_of(member.method) for family in families for member in family.values()}
    usual = [ORIGINAL, *(kind for kind in (AVERAGE, RNA, LAYERED, TRAINED) if kind in seen)]
    return (*usual, *sorted(seen - set(usual)))


def _recipes(
    families: Sequence[Mapping[str, Member]], lengths: Sequence[int], kinds: Sequence[str]
) -> dict[str, Recipe]:
    """Those at more than half of the checkpoints that have a family and a window long enough for them, by name."""
    found = Counter(name for family in families for name in family)
    recipes = {name: member.recipe for family in families for name, member in family.items()}
    stable = []
    for name, recipe in recipes.items():
        least = recipe.window or 0
        possible = sum(length >= least and len(family) > 1 for family, length in zip(families, lengths, strict=True))
        if name != LAST and name not in kinds and 2 * found[name] > possible:
            stable.append(name)
    order = {name: (kinds.index(kind_of(recipes[name].method)), *_order(recipes[name]), name) for name in stable}
    return {name: recipes[name] for name in sorted(stable, key=order.__getitem__)}


def _order(recipe: Recipe) -> tuple[str, str, int, float]:
    """By method and shape, the longest window first, then the smallest lambda."""
    regularization = math.inf if recipe.regularization is None else recipe.regularization
    return (recipe.method, str(recipe.parameter("shape", "")), -(recipe.window or 0), regularization)


def _fixed(recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """The largest uniform average, the paper's RNA, and the average of that one's window.

    The paper's has the largest window, the smallest lambda, a mixing of 1 and the uniform prior; where none was tried, its
    nearest stands in.
    """

    def unlike(name: str) -> tuple[bool, bool, bool]:
        of = recipes[name]
        return (
            of.parameter("mixing", 1.0) != 1.0,
            of.parameter("prior", UNIFORM) != UNIFORM,
            of.statistics == RE_ESTIMATED,
        )

    averages, solutions = (
        sorted(
            (name for name in recipes if recipes[name].method == method), key=lambda n: (unlike(n), _order(recipes[n]))
        )
        for method in (AVERAGE, RNA)
    )
    rivals = [name for name in averages if solutions and recipes[name].window == recipes[solutions[0]].window]
    return tuple(dict.fromkeys([*averages[:1], *rivals[:1], *solutions[:1]]))


def _row(
    checkpoint: Checkpoint,
    family: Mapping[str, Member],
    length: int,
    picker: _Picker,
    mode: Mode,
    recipes: Mapping[str, Recipe],
) -> Row:
    points: dict[str, Point] = {}
    groups: dict[str, list[Member]] = {}
    for member in family.values():
        groups.setdefault(kind_of(member.method), []).append(member)
    for kind, group in groups.items():
        # There is one original, and it counts whatever the choosing metric says of it.
        picked = family.get(LAST) if kind == ORIGINAL else picker.pick(group)
        if picked:
            points[kind] = picker.point(picked)
    values = {kind: p.value for kind, p in points.items() if known(p.value)}
    best: tuple[str, ...] = ()
    if len(values) > 1:
        top = ranked(values.values(), float, mode)[0]
        best = tuple(kind for kind, value in values.items() if same(value, top))
    for name, recipe in recipes.items():
        if made := recipe_at(name, recipe, dict(family), length):
            points[name] = picker.point(made)
    decided = checkpoint.verdict is not None or checkpoint.stage not in PENDING
    if decided and (taken := _taken(checkpoint, points, family, picker)):
        points[CHOSEN] = taken
    return Row(
        checkpoint=checkpoint.name,
        step=checkpoint.step or 0,
        points=points,
        candidates={name: (member.method, member.metrics.get(picker.shown)) for name, member in family.items()},
        best=best,
        better=checkpoint.verdict.better_than_original if checkpoint.verdict else None,
        significant=checkpoint.verdict.significant if checkpoint.verdict else None,
        decided=decided,
        batches=_batches(checkpoint, points),
    )


def _batches(checkpoint: Checkpoint, points: Mapping[str, Point]) -> float:
    """The batches that the picked branch of the training drew, in the unit of the steps; 0 where that is not known."""
    training = checkpoint.training.get(points[ANNEAL].candidate, {}) if ANNEAL in points else {}
    admitted = checkpoint.admitted
    if admitted is None:
        return 0.0
    kind, counted = admitted.step_kind, admitted.counters.get("step", 0)
    unit = 1.0 if kind == "step" else counted / admitted.step if kind == "epoch" and admitted.step else 0.0
    return float(training.get("batches", 0)) / unit if unit else 0.0


def _taken(
    checkpoint: Checkpoint, points: Mapping[str, Point], family: Mapping[str, Member], picker: _Picker
) -> Point | None:
    """What a user takes: the chosen model where the journal says that it beats the original, else the original."""
    chosen = checkpoint.verdict
    if chosen is None or not chosen.better_than_original:
        original = points.get(ORIGINAL)
        return Point(candidate=ORIGINAL, value=original.value) if original else None
    if chosen.candidate in family:
        return picker.point(family[chosen.candidate])
    metrics = chosen.metrics.get("chosen") or {}
    return Point(candidate=chosen.candidate, value=metrics.get(picker.shown))
