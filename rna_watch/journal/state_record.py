"""The state of a run as a JSON object: checkpoints and admissions in columns, which are fast to read and to check."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any

from rna_watch.journal import events as e
from rna_watch.journal import records
from rna_watch.journal.checkpoint import LIGHT, Brief, Stage, Verdict, of_brief
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.journal.hooks import Due
from rna_watch.journal.replay import RECENT_EVENTS, Best, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    "original": (dict, type(None)),
    "verdict": (list, type(None)),
    "evaluated": (bool,),
    "trained": (bool,),
    "bytes": (int,),
}
_ADMITTED: dict[str, tuple[type, ...]] = {
    each.name: {"int": (int,), "float": (float, int), "str": (str,), "dict[str, int]": (dict,)}[str(each.type)]
    for each in dataclasses.fields(e.Admitted)
}


def to_record(state: RunState, briefs: list[Brief | None], sizes: list[int]) -> dict[str, Any]:
    """A state as a JSON object.

    Args:
        state: the state.
        briefs: those of its checkpoints, all packed.
        sizes: the bytes of the bulk of each.
    """
    admitted = {id(each): each for each in state.told if isinstance(each, e.Admitted)}
    admitted |= {id(each.admitted): each.admitted for each in state.checkpoints.values() if each.admitted}
    starts = {id(each.under): each.under for each in state.checkpoints.values() if each.under}
    places, started = ({key: number for number, key in enumerate(each)} for each in (admitted, starts))
    columns: dict[str, list[Any]] = {name: [] for name in _CHECKPOINT}
    for checkpoint, brief, size in zip(state.checkpoints.values(), briefs, sizes, strict=True):
        assert brief is not None
        for name in LIGHT:
            columns[name].append(getattr(checkpoint, name))
        columns["admitted"][-1] = places.get(id(checkpoint.admitted))
        columns["under"][-1] = started.get(id(checkpoint.under))
        columns["taken_up"][-1] = checkpoint.taken_up and records.to_record(checkpoint.taken_up)
        for name, value in (
            ("original", brief.original),
            ("verdict", brief.verdict),
            ("evaluated", brief.evaluated),
            ("trained", brief.trained),
            ("bytes", size),
        ):
            columns[name].append(value)
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
        "told": [places[id(each)] if isinstance(each, e.Admitted) else records.to_record(each) for each in state.told],
        "starts": [records.to_record(each) for each in starts.values()],
        "admitted": {name: [getattr(each, name) for each in admitted.values()] for name in _ADMITTED},
        "checkpoints": columns,
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
    admitted = list(_admissions(_columns(record.pop("admitted"), _ADMITTED)))
    starts = [_event(each, e.Started) for each in record["starts"]]
    columns = _columns(record.pop("checkpoints"), _CHECKPOINT)
    state = RunState(
        started=_event(record["started"], e.Started),
        stopped=_event(record["stopped"], e.Stopped),
        checkpoints=Checkpoints(_checkpoints(columns, admitted, starts, bulk)),
        problems={each.key: each for one in record["problems"] if (each := _event(one, e.Problem))},
        metric=_event(record["metric"], e.MetricChosen),
        bests={str(series): Best(_event(moved, e.BestMoved), _decision(by)) for series, moved, by in record["bests"]},
        outputs={each.output: each for one in record["outputs"] if (each := _event(one, e.Published))},
        replaced=[(_key(key), metrics) for key, metrics in record["replaced"]],
        judges=[tuple(map(str, each)) for each in record["judges"]],
        judged=None if record["judged"] is None else _key(record["judged"]),
        due=tuple(Due(str(hook), _event(of, e.Published | e.BestMoved)) for hook, of in record["due"]),
        recent=deque((_event(each, e.Event) for each in record["recent"]), maxlen=RECENT_EVENTS),
        told=[admitted[each] if isinstance(each, int) else _event(each, e.Aliased) for each in record["told"]],
        ages={str(output): _age(age) for output, age in record["ages"].items()},
        **{name: record[name] for name in _PLAIN},
    )
    texts = isinstance(state.first, str) and isinstance(state.explained, str)
    if not texts or not all(isinstance(state.ages[each], tuple) for each in state.outputs):
        raise TypeError("a field of the state is of another type")
    return state


def _columns(columns: dict[str, list[Any]], kinds: dict[str, tuple[type, ...]]) -> Iterator[dict[str, Any]]:
    """The rows of a table.

    Raises:
        TypeError: a value is of another type than its column.
    """
    for name, kind in kinds.items():
        if not set(map(type, columns[name])) <= set(kind):
            raise TypeError(f"{name} holds a value of another type")
    for name in _PATHS & kinds.keys():
        for path in columns[name]:
            if path is not None:
                records.check_path(path, name)
    alike: dict[str, str] = {}
    for name in (each for each, kind in kinds.items() if str in kind):
        columns[name] = [each and alike.setdefault(each, each) for each in columns[name]]
    return (dict(zip(kinds, row, strict=True)) for row in zip(*(columns[name] for name in kinds), strict=True))


_PATHS = {"name", "checkpoint", "path", "output"}


def _admissions(rows: Iterable[dict[str, Any]]) -> Iterator[e.Admitted]:
    empty: dict[str, int] = {}
    for row in rows:
        if row["pin"] != "none":
            records.check_path(row["pin_path"], "pin_path")
        yield e.Admitted(**row | {"counters": row["counters"] or empty})


def _checkpoints(
    rows: Iterable[dict[str, Any]],
    admitted: list[e.Admitted],
    starts: list[e.Started],
    bulk: Callable[[int, int], Packed],
) -> Iterator[Checkpoint]:
    stages = {str(stage): stage for stage in Stage}
    decisions: dict[Any, Any] = {}
    empty: dict[str, str] = {}
    offset = 0
    for row in rows:
        verdict = row["verdict"]
        brief = Brief(
            row["original"],
            Verdict(*verdict) if verdict else None,
            row["evaluated"],
            row["trained"],
            bulk(offset, row["bytes"]),
        )
        offset += row["bytes"]
        row["stage"] = stages[row["stage"]]
        row["before"] = row["before"] and stages[row["before"]]
        row["admitted"] = None if row["admitted"] is None else admitted[row["admitted"]]
        row["under"] = None if row["under"] is None else starts[row["under"]]
        row["taken_up"] = _event(row["taken_up"], e.TakenUp)
        decision = _decision(row["chosen_by"])
        row["age"] = _age(row["age"])
        row["chosen_by"] = decisions.setdefault(decision, decision)
        row["apart_from"] = row["apart_from"] or empty
        yield of_brief(brief, row)


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
