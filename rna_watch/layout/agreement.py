"""Whether two checkpoints are of one model, and in words what changed between them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rna_watch.layout.layout import Role

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout, TensorView

_IF_NO_PARAMETER = "; if it is no parameter, leave it out with --ignore {}"


def difference(old: Layout, new: Layout, *, whole: bool = False) -> str:
    """In words, why two checkpoints cannot stand in one window ("" if they can).

    Args:
        old: the older one.
        new: the newer one.
        whole: tensors that are copied must agree too, as those of a model and of its newest input do.
    """
    if (old.structure == new.structure) if whole else (old.architecture == new.architecture):
        return ""
    if old.averaged != new.averaged:
        kinds = ["an average of the weights" if each.averaged else "the weights" for each in (old, new)]
        return f"the model changed: it was {kinds[0]} ({old.source!r}), is {kinds[1]} ({new.source!r})"
    a, b = (_by_name(layout, whole=whole) for layout in (old, new))
    gone, added = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    if len(gone) == len(a):
        return (
            f"the model changed: it is another, none of its {len(b)} tensors (such as {added[0]}) has the name of one of the "
            f"{len(a)} before (such as {gone[0]})"
        )
    if gone or added:
        both = a.keys() & b.keys()
        parts = [
            f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {word} (such as {names[0]})"
            for names, word in ((gone, "removed"), (added, "added"))
            if names
        ]
        copied = all(
            _is_copied(layout, own[name]) for layout, own in ((old, a), (new, b)) for name in own.keys() ^ both
        )
        hint = _IF_NO_PARAMETER.format(shlex.quote([*gone, *added][0])) if copied and not whole else ""
        return f"the model changed: {', '.join(parts)}; {len(both)} have the names of before{hint}"
    for what in ("stored_dtype", "stored_shape", "stride"):
        changed = [
            name
            for name in a
            if getattr(a[name], what) != getattr(b[name], what)
            and (whole or what == "stored_dtype" or not _is_copied(old, a[name]))
        ]
        if changed:
            before, after = (getattr(each[changed[0]], what) for each in (a, b))
            others = f" ({len(changed)} of {len(a)} tensors changed so)" if len(changed) > 1 else ""
            hint = "" if whole or what != "stored_shape" else _IF_NO_PARAMETER.format(shlex.quote(changed[0]))
            said = f"{what.removeprefix('stored_')} of {changed[0]} was {before}, is {after}{others}{hint}"
            return f"the model changed: {said}"
    combined = [name for name in a if whole or not _is_copied(old, a[name])]
    found = (_recut(a[name], b[name]) for name in combined if a[name].cut != b[name].cut)
    return next(found, "the model changed: other tensors share storage than before")


def _recut(before: TensorView, after: TensorView) -> str:
    """In words, that a tensor was saved in other blocks before."""
    was, now = (f"{len(each.blocks)} blocks" if each.cut else "rows" for each in (before, after))
    other = "other " if was == now else ""
    return (
        f"the model is saved otherwise: {after.name} was cut into {was}, is cut into {other}{now}; a tensor in very many pieces "
        "must be cut alike within a window"
    )


def _by_name(layout: Layout, *, whole: bool) -> dict[str, TensorView]:
    """The tensors by the names under which a window knows them, ignored ones only if `whole`."""
    names, left_out = layout.window_names, () if whole else frozenset(layout.ignored)
    return {names[view.name]: view for view in layout.tensors if names[view.name] not in left_out}


def _is_copied(layout: Layout, view: TensorView) -> bool:
    return layout.extents[view.extent].role is Role.COPIED
