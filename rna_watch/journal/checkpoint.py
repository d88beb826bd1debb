"""What the journal tells of one checkpoint; of one that was done long ago, the bulk of it lies packed until it is asked for."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rna_watch.journal import events as e
from rna_watch.journal.ages import NEVER, Age
from rna_watch.journal.recipe import Recipe
from rna_watch.journal.records import from_record, to_record

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[int, str, str]  # the number of a judge, a source, and a series ("": written by 0.1.0)
Decision = tuple[Key, tuple[str, str] | None]  # ..., and the metric with its direction
_MOST_BYTES = 2**26  # unpacked
_LATELY = 32  # so many stay unpacked for those who ask again


class Stage(StrEnum):
    """The stages of a checkpoint on its way from a file to a model."""

    WAITING = "waiting"
    REFUSED = "refused"
    VANISHED = "vanished"
    ALIAS = "alias"
    READY = "ready"
    MEASURED = "measured"
    EVALUATING = "evaluating"
    CHOSEN = "chosen"
    PUBLISHING = "publishing"
    PUBLISHED = "published"
    FINISHED = "finished"
    SKIPPED = "skipped"
    FAILED = "failed"


PENDING = frozenset({Stage.READY, Stage.MEASURED, Stage.EVALUATING, Stage.CHOSEN, Stage.PUBLISHING})
DONE = frozenset({Stage.PUBLISHED, Stage.FINISHED})
USABLE = PENDING | DONE | {Stage.FAILED}


class Verdict(NamedTuple):
    """What was chosen for a window, in short: the candidate, the metrics that were compared, and how it compares."""

    candidate: str
    metrics: dict[str, e.Metrics | None]
    better_than_original: bool | None
    significant: bool | None
    tested_on: str


class Packed(Protocol):
    """Bytes that are in memory, or can be read; equal ones have equal hashes."""

    def __hash__(self) -> int:
        """That of a value."""

    def read(self) -> bytes:
        """The bytes; none where they cannot be read."""


class InMemory(NamedTuple):
    """Packed bytes in memory."""

    data: bytes

    def read(self) -> bytes:
        """See `Packed`."""
        return self.data


class Brief(NamedTuple):
    """What every view asks of a checkpoint whose bulk is packed, and the bulk."""

    original: e.Metrics | None
    verdict: Verdict | None
    evaluated: bool
    trained: bool
    bulk: Packed


class Row(Protocol):
    """A checkpoint of which all lies elsewhere (`table.Row`): what `Brief` has, and the fields of `LIGHT`."""

    @property
    def original(self) -> e.Metrics | None:
        """See `Checkpoint`."""

    @property
    def verdict(self) -> Verdict | None:
        """See `Checkpoint`."""

    @property
    def evaluated(self) -> bool:
        """See `Checkpoint`."""

    @property
    def trained(self) -> bool:
        """See `Checkpoint`."""

    @property
    def bulk(self) -> Packed:
        """See `Checkpoint`."""

    @property
    def key(self) -> Key:
        """See `Checkpoint`."""

    def light(self, name: str) -> Any:
        """A field of `LIGHT`."""

    def brief(self) -> Brief:
        """The first five of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint of the run, as far as the journal tells; `judge` is the one that evaluated it, as `RunState` counts them.

    `repeats` names an earlier checkpoint that it equals, and `apart_from` those of smaller step that are of other trainings.
    What was said of candidates is kept by their names; `models` tells which model of that name was evaluated ("": unknown).
    `chosen_by` is the judge, the metric and the direction that chose, and `under` the start whose settings applied then.
    `taken_up` is why it is worked on once more, and `before` the stage that it had then. `age` is its place in the run.
    `brief` is there if the fields of `BULK` are packed: each is unpacked when it is asked for. It may be a row of a table,
    which has the other fields too.
    """

    name: str
    stage: Stage
    reason: str = ""
    seen_time: float = 0.0
    done_time: float = 0.0
    admitted: e.Admitted | None = None
    age: Age = NEVER
    starts_window: bool = False
    repeats: str = ""
    apart_from: dict[str, str] = field(default_factory=dict)
    measured: e.Measured | None = None
    searched: e.Searched | None = None
    screened: dict[str, e.Screened] = field(default_factory=dict)
    evaluations: dict[str, e.Metrics] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    losses: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    training: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen: e.Chosen | None = None
    publishing: e.Publishing | None = None
    output: str | None = None
    pinned: bool = False
    attempts: int = 0
    judge: int = 0
    chosen_by: Decision | None = None
    under: e.Started | None = None
    taken_up: e.TakenUp | None = None
    before: Stage | None = None
    for_now: bool = False
    brief: Brief | Row | None = field(default=None, init=False, compare=False, repr=False)

    def __getattr__(self, name: str) -> Any:
        """A field that no slot holds."""
        if name in BULK and self.brief is not None:
            return _unpacked(self.brief.bulk).field(name)
        if name in LIGHT and self.brief is not None and not isinstance(self.brief, Brief):
            return self.brief.light(name)
        raise AttributeError(name)

    @property
    def original(self) -> e.Metrics | None:
        """What was said of the original."""
        return self.brief.original if self.brief else self.evaluations.get("last")

    @property
    def verdict(self) -> Verdict | None:
        """What was chosen, in short."""
        return self.brief.verdict if self.brief else _verdict(self.chosen)

    @property
    def evaluated(self) -> bool:
        """Whether anything was said of its candidates."""
        return self.brief.evaluated if self.brief else bool(self.evaluations)

    @property
    def trained(self) -> bool:
        """Whether models were trained from it."""
        return self.brief.trained if self.brief else bool(self.training)

    @property
    def left_behind(self) -> bool:
        """Whether it is left out for lack of time."""
        return self.stage is Stage.SKIPPED and self.for_now

    @property
    def key(self) -> Key:
        """The judge, the model's place in the files, and the series: only values of one key are compared."""
        if self.brief is not None and not isinstance(self.brief, Brief):
            return self.brief.key
        return self.judge, self.admitted.source if self.admitted else "", self.series

    @property
    def series(self) -> str:
        """The series, once known."""
        if self.brief is not None and not isinstance(self.brief, Brief):
            return self.brief.key[2]
        return self.admitted.series if self.admitted else ""

    @property
    def step(self) -> int | None:
        """The step or epoch, once known."""
        return self.admitted.step if self.admitted else None

    @property
    def usable(self) -> bool:
        """Whether the checkpoint may be an input of a window."""
        return self.admitted is not None and self.stage in USABLE


_EVENTS = {"measured": e.Measured, "searched": e.Searched, "chosen": e.Chosen, "publishing": e.Publishing}
_PLAIN = ("evaluations", "examples", "losses", "failures", "models", "training")
BULK = frozenset({*_EVENTS, *_PLAIN, "screened", "recipes"})
LIGHT = tuple(each.name for each in fields(Checkpoint) if each.name not in BULK and each.init)
_ALL = (*LIGHT, *BULK)
_ASKED_FOR = ("name", "stage", "output")
_set = object.__setattr__


def _verdict(chosen: e.Chosen | None) -> Verdict | None:
    if chosen is None:
        return None
    return Verdict(chosen.candidate, chosen.metrics, chosen.better_than_original, chosen.significant, chosen.tested_on)


def of_brief(brief: Brief, light: dict[str, Any]) -> Checkpoint:
    """A checkpoint whose bulk is packed.

    Args:
        brief: what is said of it, and the bulk.
        light: the other fields, all of them.
    """
    made: Checkpoint = object.__new__(Checkpoint)
    for name in LIGHT:
        _set(made, name, light[name])
    _set(made, "brief", brief)
    return made


def of_row(row: Row) -> Checkpoint:
    """A checkpoint of which all lies elsewhere, but for what is asked for most."""
    made: Checkpoint = object.__new__(Checkpoint)
    for name in _ASKED_FOR:
        _set(made, name, row.light(name))
    _set(made, "brief", row)
    return made


def changed(old: Checkpoint, **changes: Any) -> Checkpoint:
    """A checkpoint with other values of some fields; the bulk stays packed if none of it is among them."""
    packed = old.brief is not None and not BULK & changes.keys()
    made: Checkpoint = object.__new__(Checkpoint)
    for name in LIGHT if packed else _ALL:
        _set(made, name, changes[name] if name in changes else getattr(old, name))
    brief = old.brief if packed else None
    _set(made, "brief", brief if brief is None or isinstance(brief, Brief) else brief.brief())
    return made


def packed(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint with its bulk packed."""
    if checkpoint.brief is not None:
        return checkpoint
    bulk = InMemory(_pack(checkpoint))
    brief = Brief(checkpoint.original, checkpoint.verdict, checkpoint.evaluated, checkpoint.trained, bulk)
    return of_brief(brief, {name: getattr(checkpoint, name) for name in LIGHT})


def _pack(checkpoint: Checkpoint) -> bytes:
    record = {name: to_record(event) if (event := getattr(checkpoint, name)) else None for name in _EVENTS}
    record |= {name: getattr(checkpoint, name) for name in _PLAIN}
    record["screened"] = {name: to_record(event) for name, event in checkpoint.screened.items()}
    record["recipes"] = {
        name: [each.method, each.window, each.regularization, each.parameters, each.statistics]
        for name, each in checkpoint.recipes.items()
    }
    return zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)


class _Unpacked:
    """The fields of `BULK` of one checkpoint, each made when it is asked for; one that holds something else is not known."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._made: dict[str, Any] = {}

    def field(self, name: str) -> Any:
        """One of them."""
        if name not in self._made:
            try:
                self._made[name] = _field(name, self._record[name])
            except (ValueError, TypeError, KeyError, AttributeError):
                self._made[name] = None if name in _EVENTS else {}
        return self._made[name]


@lru_cache(maxsize=_LATELY)
def _unpacked(bulk: Packed) -> _Unpacked:
    """The bulk of a checkpoint; where the bytes cannot be read, nothing is known of it."""
    try:
        text = zlib.decompressobj().decompress(bulk.read(), _MOST_BYTES)
        return _Unpacked(json.loads(text))
    except (OSError, ValueError, RecursionError, zlib.error):
        return _Unpacked({})


def _field(name: str, packed: Any) -> Any:
    if name in _EVENTS:
        return _event(packed)
    if name == "screened":
        return {str(each): _event(record) for each, record in packed.items()}
    if name != "recipes":
        return _checked(packed, _CHECKS[name])
    return {
        each: Recipe(
            method=str(method),
            window=window,
            regularization=regularization,
            parameters=tuple((str(key), value) for key, value in parameters),
            statistics=str(statistics),
        )
        for each, (method, window, regularization, parameters, statistics) in packed.items()
    }


def _event(record: Any) -> e.Event | None:
    return None if record is None else from_record(record)


def _numbers(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, int | float) for each in value.values())


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "evaluations": _numbers,
    "examples": lambda value: isinstance(value, int),
    "losses": lambda value: isinstance(value, str),
    "failures": lambda value: isinstance(value, str),
    "models": lambda value: isinstance(value, str),
    "training": lambda value: isinstance(value, dict),
}


def _checked(values: dict[str, Any], check: Callable[[Any], bool]) -> dict[str, Any]:
    if not all(map(check, values.values())):
        raise TypeError("a packed field holds something else")
    return values
