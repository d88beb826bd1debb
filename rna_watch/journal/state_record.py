"""The state of a run as a JSON object: checkpoints and admissions in columns, which are fast to read and to check."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any

from rna_watch.journal import events as e
from rna_watch.journal import records
from rna_watch.journal.checkpoint import LIGHT, Stage, Verdict
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.journal.hooks import Due
from rna_watch.journal.replay import RECENT_EVENTS, Best, RunState
from rna_watch.journal.table import ADMITTED, BRIEF, Row, Table
from rna_watch.journal.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.ages import Age
    from rna_watch.journal.checkpoint import Checkpoint, Packed

_PLAIN = (
    "first",
    "explained",
    "judge",
    "failed_work",
    "failed_evaluations",
    "seq",
    "read_bytes",
    "written_bytes",
)
_CHECKPOINT: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "stage": (str,),
    "reason": (str,),
    "seen_time": (float, int),
    "done_time": (float, int),
    "starts_window": (bool,),
    "repeats": (str,),
    "apart_from": (dict,),
    "output": (str, type(None)),
    "pinned": (bool,),
    "attempts": (int,),
    "judge": (int,),
    "chosen_by": (list, type(None)),
    "under": (int, type(None)),
    "taken_up": (dict, type(None)),
    "before": (str, type(None)),
    "for_now": (bool,),
    "admitted": (int, type(None)),
    "age": (list,),
    "original": (dict, bool, type(None)),
    "verdict": (list, type(None)),
    "evaluated": (bool,),
    "trained": (bool,),
    "bytes": (int,),
}
_ADMITTED: dict[str, tuple[type, ...]] = {
    each.name: {"int": (int,), "float": (float, int), "str": (str,), "dict[str, int]": (dict,)}[str(each.type)]
    for each in dataclasses.fields(e.Admitted)
}


def gathered(state: RunState, checkpoints: list[Checkpoint], sizes: list[int]) -> tuple[Table, Told]:
    """The checkpoints and admissions of a state in columns, and what was told of names; what is in columns already is copied.

    Args:
        state: the state.
        checkpoints: its checkpoints, all packed.
        sizes: the bytes of the bulk of each.
    """
    base = state.told.table
    admitted: dict[str, list[Any]] = {name: list(base.admitted[name]) if base else [] for name in ADMITTED}
    starts = list(base.starts) if base else []
    places = {key: place for place, key in enumerate(zip(*(admitted[name] for name in _APART), strict=True))}

    def place(of: e.Admitted) -> int:
        key = tuple(getattr(of, name) for name in _APART)
        if key not in places:
            places[key] = len(places)
            for name, column in admitted.items():
                column.append(getattr(of, name))
        return places[key]

    began = {id(each): number for number, each in enumerate(starts)}
    rows = []
    for checkpoint, size in zip(checkpoints, sizes, strict=True):
        brief = checkpoint.brief
        assert brief is not None
        if isinstance(brief, Row) and brief.table is base:
            rows.append((*base.row(brief.number)[:-1], size))
            continue
        values = {name: getattr(checkpoint, name) for name in LIGHT}
        if checkpoint.under is not None:
            values["under"] = began.setdefault(id(checkpoint.under), len(starts))
            starts += [checkpoint.under] if values["under"] == len(starts) else []
        values["admitted"] = None if checkpoint.admitted is None else place(checkpoint.admitted)
        rows.append((*values.values(), brief.original, brief.verdict, brief.evaluated, brief.trained, size))
    names = (*LIGHT, *BRIEF)
    columns = dict(zip(names, map(list, zip(*rows, strict=True)) if rows else ([] for _ in names), strict=True))
    later = (place(each) if isinstance(each, e.Admitted) else each for each in state.told.later)
    told = [*state.told.earlier, *later]
    table = Table(columns, admitted, starts)
    return table, Told(told, table)


def to_record(state: RunState, table: Table, told: Told) -> dict[str, Any]:
    """A state as a JSON object.

    Args:
        state: the state.
        table: its checkpoints and admissions.
        told: what was told of names.
    """
    columns = table.columns | {
        "taken_up": [each and records.to_record(each) for each in table.columns["taken_up"]],
        "verdict": [each and each._replace(metrics=_once(each.metrics)) for each in table.columns["verdict"]],
        "original": [
            True if said is not None and verdict and verdict.metrics.get("original") == said else said
            for said, verdict in zip(table.columns["original"], table.columns["verdict"], strict=True)
        ],
    }
    return {name: getattr(state, name) for name in _PLAIN} | {
        "ages": state.ages,
        "started": state.started and records.to_record(state.started),
        "stopped": state.stopped and records.to_record(state.stopped),
        "metric": state.metric and records.to_record(state.metric),
        "problems": [records.to_record(each) for each in state.problems.values()],
        "bests": [[series, records.to_record(each.moved), each.by] for series, each in state.bests.items()],
        "outputs": [records.to_record(each) for each in state.outputs.values()],
        "replaced": state.replaced,
        "judges": state.judges,
        "judged": state.judged,
        "due": [[each.hook, records.to_record(each.of)] for each in state.due],
        "recent": [records.to_record(each) for each in state.recent],
        "told": [each if isinstance(each, int) else records.to_record(each) for each in told.earlier],
        "starts": [records.to_record(each) for each in table.starts],
        "admitted": {name: _short(column) for name, column in table.admitted.items()},
        "checkpoints": {name: _short(column) for name, column in columns.items()},
    }


def from_record(record: dict[str, Any], bulk: Callable[[int, int], Packed]) -> RunState:
    """The state of a JSON object, checked as the journal's lines are; what is taken from the object is left out of it.

    Args:
        record: as `to_record` gave it.
        bulk: the packed bytes at an offset, and their number.

    Raises:
        PathError: a path in it leads out of our folders.
        ValueError, TypeError, KeyError, IndexError: it is none.
    """
    starts = [_event(each, e.Started) for each in record["starts"]]
    admitted = _columns(record.pop("admitted"), _ADMITTED)
    for path, pin in zip(admitted["pin_path"], admitted["pin"], strict=True):
        if pin != "none":
            records.check_path(path, "pin_path")
    columns = _columns(record.pop("checkpoints"), _CHECKPOINT)
    columns["original"] = [
        verdict.metrics["original"] if said is True else said
        for said, verdict in zip(columns["original"], columns["verdict"], strict=True)
    ]
    table = _table(columns, admitted, starts, bulk)
    state = RunState(
        started=_event(record["started"], e.Started),
        stopped=_event(record["stopped"], e.Stopped),
        checkpoints=Checkpoints.of_table(table),
        problems={each.key: each for one in record["problems"] if (each := _event(one, e.Problem))},
        metric=_event(record["metric"], e.MetricChosen),
        bests={str(series): Best(_event(moved, e.BestMoved), _decision(by)) for series, moved, by in record["bests"]},
        outputs={each.output: each for one in record["outputs"] if (each := _event(one, e.Published))},
        replaced=[(_key(key), metrics) for key, metrics in record["replaced"]],
        judges=[tuple(map(str, each)) for each in record["judges"]],
        judged=None if record["judged"] is None else _key(record["judged"]),
        due=tuple(Due(str(hook), _event(of, e.Published | e.BestMoved)) for hook, of in record["due"]),
        recent=deque((_event(each, e.Event) for each in record["recent"]), maxlen=RECENT_EVENTS),
        told=Told(_told(record["told"], table), table),
        ages={str(output): _age(age) for output, age in record["ages"].items()},
        **{name: record[name] for name in _PLAIN},
    )
    texts = isinstance(state.first, str) and isinstance(state.explained, str)
    if not texts or not all(isinstance(state.ages[each], tuple) for each in state.outputs):
        raise TypeError("a field of the state is of another type")
    return state


def _once(metrics: dict[str, e.Metrics | None]) -> dict[str, e.Metrics | str | None]:
    """What was said of candidates, where one equals an earlier one as the name of that: it is most of a state."""
    found: dict[str, e.Metrics | str | None] = {}
    for name, said in metrics.items():
        found[name] = next((each for each, before in found.items() if said is not None and before == said), said)
    return found


def _verdict(value: list[Any] | None) -> Verdict | None:
    """A verdict; raises KeyError or TypeError where it refers to what was not said."""
    if value is None:
        return None
    verdict = Verdict(*value)
    for name, said in verdict.metrics.items():
        told = verdict.metrics[said] if isinstance(said, str) else said
        if not isinstance(told, dict | None):
            raise TypeError(f"what was said of {name} is of another type")
        verdict.metrics[name] = told
    return verdict


def _short(column: list[Any]) -> list[Any] | dict[str, Any]:
    """A column; one of few values as these and their places, as one number if all are equal."""
    try:
        values = dict.fromkeys(column)
    except TypeError:
        return column
    if len(values) * 4 > len(column):
        return column
    places = {value: place for place, value in enumerate(values)}
    return {"of": list(values), "at": len(column) if len(values) == 1 else [places[each] for each in column]}


def _columns(columns: dict[str, Any], kinds: dict[str, tuple[type, ...]]) -> dict[str, list[Any]]:
    """The columns of a table.

    Raises:
        TypeError: a value is of another type than its column, or columns are of other lengths.
        PathError: a path leads out of our folders.
    """
    found: dict[str, list[Any]] = {}
    paths: set[str] = set()
    for name, kind in kinds.items():
        given = columns[name]
        values, at = (given["of"], given["at"]) if isinstance(given, dict) else (given, None)
        if not set(map(type, values)) <= set(kind):
            raise TypeError(f"{name} holds a value of another type")
        if name in _PATHS:
            paths.update(value for value in values if value is not None)
            if "" in values and name == "output":
                records.check_path("", name)
        if name in _MADE:
            values = list(map(_MADE[name], values))
        found[name] = values if at is None else values * at if isinstance(at, int) else [values[each] for each in at]
    for path in paths:
        records.check_path(path, "path")
    if len(set(map(len, found.values()))) > 1:
        raise TypeError("columns are of different lengths")
    return found


def _table(
    columns: dict[str, list[Any]],
    admitted: dict[str, list[Any]],
    starts: list[e.Started],
    bulk: Callable[[int, int], Packed],
) -> Table:
    """See `Table`.

    Raises:
        IndexError: a place in another table is none.
    """
    for name, among in (("admitted", len(admitted["seq"])), ("under", len(starts))):
        if any(each is not None and not 0 <= each < among for each in columns[name]):
            raise IndexError(name)
    table = Table(columns, admitted, starts)
    table.packed = bulk
    return table


def _told(told: list[Any], table: Table) -> list[int | e.Aliased]:
    count = len(table.admitted["seq"])
    if any(type(each) is int and not 0 <= each < count for each in told):
        raise IndexError("told")
    return [each if type(each) is int else _event(each, e.Aliased) for each in told]


def _event(record: Any, kind: Any) -> Any:
    """An event of a kind, or None.

    Raises:
        TypeError: it is something else.
    """
    event = None if record is None else records.from_record(record)
    if record is not None and not isinstance(event, kind):
        raise TypeError("an event of the state is of another kind")
    return event


def _age(age: Any) -> Age:
    seq, step = age
    return int(seq), int(step)


def _key(key: Any) -> tuple[int, str, str]:
    judge, source, series = key
    return int(judge), str(source), str(series)


def _decision(by: Any) -> Any:
    if by is None:
        return None
    key, metric = by
    return _key(key), None if metric is None else (str(metric[0]), str(metric[1]))


_APART = ("seq", "checkpoint", "series", "step_kind", "step", "told", "time")  # what tells admissions apart
_PATHS = {"name", "checkpoint", "path", "output"}
_MADE: dict[str, Callable[[Any], Any]] = {
    "stage": Stage,
    "before": lambda value: value and Stage(value),
    "age": _age,
    "chosen_by": _decision,
    "verdict": _verdict,
    "taken_up": lambda value: _event(value, e.TakenUp),
}
