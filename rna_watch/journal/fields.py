"""What the fields of our own records may hold: of the type that they are declared with, and no longer than a person reads."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST_CHARACTERS = 2_000  # of a text, as an exception's
MOST_METRICS = 1_000  # of an evaluation
MOST_NAME_CHARACTERS = 200  # of a metric
_LARGEST = 2**63
_TEXTS = frozenset({"reason", "what", "remedy", "text", "notes"})


def check(kind: type[Any], values: Mapping[str, object]) -> None:
    """See that values fit the fields of a dataclass.

    Raises:
        TypeError: one does not, and which.
    """
    fits = _fitting(kind)
    for name, value in values.items():
        if name in fits and not fits[name](value):
            raise TypeError(f"{name} of {kind.__name__} is no {_hints(kind)[name]}")


def cut(event: Any) -> Any:
    """An event with the texts in it cut to `MOST_CHARACTERS`, and how much was cut."""
    changed: dict[str, Any] = {}
    for name in _TEXTS & _hints(type(event)).keys():
        value = getattr(event, name)
        short = cut_text(value) if isinstance(value, str) else [cut_text(each) for each in value]
        if short != value:
            changed[name] = short
    return dataclasses.replace(event, **changed) if changed else event


def cut_text(text: str) -> str:
    """A text of at most so many characters, and how many more there were."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}... ({len(text) - MOST_CHARACTERS:,} more characters)"


def cut_metrics(metrics: dict[str, float], kept: str) -> dict[str, float]:
    """The first metrics, as many as are kept, with one of them that is always among them."""
    if len(metrics) <= MOST_METRICS and all(len(name) <= MOST_NAME_CHARACTERS for name in metrics):
        return metrics
    short = [name for name in metrics if len(name) <= MOST_NAME_CHARACTERS and name != kept]
    wanted = {kept, *short[: MOST_METRICS - 1]}
    return {name: value for name, value in metrics.items() if name in wanted}


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        hints = typing.get_type_hints(kind)
        _HINTS[kind] = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return _HINTS[kind]


_FITTING: dict[type[Any], dict[str, Callable[[Any], bool]]] = {}


def _fitting(kind: type[Any]) -> dict[str, Callable[[Any], bool]]:
    """What each field's value must fulfil; made once for each kind, since a long journal has millions of values."""
    if kind not in _FITTING:
        _FITTING[kind] = {name: _fit(hint) for name, hint in _hints(kind).items()}
    return _FITTING[kind]


def _fit(hint: Any) -> Callable[[Any], bool]:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        several = tuple(map(_fit, inside))
        return lambda value: any(fits(value) for fits in several)
    if hint in _FITS:
        return _FITS[hint]
    if origin not in {list, tuple, dict}:
        return lambda value: isinstance(value, hint)
    made, fits = (dict if origin is dict else list), _fit(inside[-1 if origin is dict else 0])
    values: Callable[[Any], Iterable[Any]] = dict.values if origin is dict else iter
    return lambda value: isinstance(value, made) and all(map(fits, values(value)))


_FITS: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: type(value) is int and abs(value) < _LARGEST,
    float: lambda value: isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST),
    Any: lambda _: True,
}
