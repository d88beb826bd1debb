"""Moving averages of the weights inside the weights' own state dict: `model_ema.*` or `ema.module.*` next to `model.*`.

Such tensors are no part of the residuals, and stay as they are in the newest checkpoint, unless they are chosen as the model.
An average is recognised by its names, which are a prefix that says so and the names of other tensors of the group, all of the
same shapes, and only if it is a large part of them. Latent diffusion's `LitEma` leaves the dots out of its names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from rna_watch.formats import model_source
from rna_watch.layout.layout import Layout, Role, Source, TensorView
from rna_watch.layout.names import spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Views = Mapping[str, TensorView]

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}
_LEAST = 0.25  # of the values: a layer of a network may have a name like an average's
_MOST_BASES = 64  # the longest name of a model follows very few prefixes
_without: list[tuple[TensorView, ...]] = [
    ()
]  # the last tensors in which no average was found: the next file has the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """A moving average within a group: its key path, its tensors by stored name, and the weights' names for them.

    `names` leaves out its own counters.
    """

    path: str
    members: frozenset[str]
    names: dict[str, str]


def find(layout: Layout) -> tuple[Average, ...]:
    """The moving averages among a model's tensors, of each network by itself."""
    if not layout.parts:
        return tuple(_find(layout.source, "", {view.name: view for view in layout.tensors}))
    found: list[Average] = []
    for part in layout.parts:
        front = f"{part}."
        own = {view.name.removeprefix(front): view for view in layout.tensors if view.name.startswith(front)}
        found += _find(part, front, own)
    return tuple(found)


def _find(source: str, front: str, views: Views) -> Iterator[Average]:
    """The moving averages of a network, given its source, what stands in front of its names, and its tensors by the rest."""
    by_path: dict[str, dict[str, TensorView]] = {}
    for name, view in views.items():
        by_path.setdefault(_path(name), {})[name] = view
    weights = by_path.pop("", {})
    total = sum(prod(view.shape) for view in views.values())
    for path, members in by_path.items():
        if sum(prod(view.shape) for view in members.values()) >= _LEAST * total:
            others = weights | {
                name: view for other in by_path if other != path for name, view in by_path[other].items()
            }
            names = next(_matches(path, members, others), None)
            if names:
                stored = {front + name: front + other for name, other in names.items()}
                yield Average(
                    path=_joined(source, path), members=frozenset(front + name for name in members), names=stored
                )


def set_apart(layout: Layout) -> Layout:
    """The same model, with the moving averages in it copied, not combined, and listed as sources of their own."""
    if layout.tensors is _without[0]:
        return layout
    found = find(layout)
    if not found:
        _without[0] = layout.tensors
        return layout
    apart = {name for average in found for name in average.members}
    combined = {view.extent for view in layout.tensors if view.name not in apart}
    others = tuple(source for source in layout.sources if source.path != layout.source)
    own = Source(path=layout.source, tensors=len(layout.tensors) - len(apart), averaged=layout.averaged)
    averages = tuple(Source(path=each.path, tensors=len(each.members), averaged=True) for each in found)
    return replace(
        layout,
        extents=tuple(
            extent if number in combined else replace(extent, role=Role.COPIED)
            for number, extent in enumerate(layout.extents)
        ),
        sources=(*(() if layout.parts else (own,)), *averages, *others),
    )


def choose(layout: Layout, source: str) -> Layout | None:
    """One of the moving averages in a model as the model, under the names of the weights; None if there is none of that path."""
    average = next((each for each in find(layout) if each.path == source), None)
    if average is None:
        return None
    views = [view for view in layout.tensors if view.name in average.names]
    numbers = {extent: number for number, extent in enumerate(dict.fromkeys(view.extent for view in views))}
    tensors = tuple(replace(view, name=average.names[view.name], extent=numbers[view.extent]) for view in views)
    roles: dict[int, list[Role]] = {}
    for view in tensors:
        roles.setdefault(view.extent, []).append(model_source.role(view.name, view.dtype))
    return replace(
        layout,
        source=source,
        tensors=tensors,
        extents=tuple(
            replace(layout.extents[old], role=min(roles[new], key=list(Role).index)) for old, new in numbers.items()
        ),
        sources=set_apart(layout).sources,
    )


def _joined(source: str, path: str) -> str:
    return f"{source}.{path}" if source else path


def _path(name: str) -> str:
    """The prefix of a name that is an average's, wrappers in front of it included ("" if there is none)."""
    *parts, _ = name.split(".")
    last = 0
    for number, part in enumerate(parts, 1):
        if model_source.is_average(part):
            last = number
        elif part not in _WRAPPERS:
            break
    return ".".join(parts[:last])


def _matches(path: str, members: Views, others: Views) -> Iterator[dict[str, str]]:
    """For each way in which these members match other tensors, the names of those without their prefix, by member."""
    rests = {name[len(path) + 1 :]: name for name in members}
    for spelled in spellings(rests):
        wanted = {spelled[rest]: members[name] for rest, name in rests.items() if prod(members[name].shape) > 1}
        if not wanted:
            return
        longest = max(wanted, key=len)
        for dots in (True, False):
            for base in _bases(longest, others, dots=dots):
                known = _below(base, others, dots=dots)
                pairs = {spelled[rest]: known.get(spelled[rest], ("", None)) for rest in rests}
                if all(_alike(view, pairs[rest][1]) for rest, view in wanted.items()):
                    yield {
                        name: pairs[spelled[rest]][0]
                        for rest, name in rests.items()
                        if pairs[spelled[rest]][1] is not None
                    }


def _bases(rest: str, others: Views, *, dots: bool) -> Sequence[str]:
    """The prefixes in others' names that a name follows, with its dots or without."""
    found = []
    for name in others:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ("." if dots else "").join(parts[cut:]) == rest:
                found.append("".join(f"{part}." for part in parts[:cut]))
                break
    return found[:_MOST_BASES]


def _below(base: str, others: Views, *, dots: bool) -> dict[str, tuple[str, TensorView | None]]:
    """Others by their names without a prefix, with their dots or without; two that would become one are no match."""
    found: dict[str, tuple[str, TensorView | None]] = {}
    for name, view in others.items():
        if name.startswith(base):
            rest = name[len(base) :]
            key = rest if dots else rest.replace(".", "")
            found[key] = (rest, None if key in found else view)
    return found


def _alike(view: TensorView, other: TensorView | None) -> bool:
    return (
        other is not None
        and view.stored_shape == other.stored_shape
        and model_source.linear(view.stored_dtype) == model_source.linear(other.stored_dtype)
    )
