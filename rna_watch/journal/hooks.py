"""The calls of the user's hooks that are due, as far as the journal tells: each until its end is recorded."""

from __future__ import annotations

from typing import NamedTuple

from rna_watch.journal import events as e

ON_MODEL, ON_BEST = "on_model", "on_best"
HOOKS = (ON_MODEL, ON_BEST)


class Due(NamedTuple):
    """A call that is due: the hook, and the event that it is for."""

    hook: str
    of: e.Published | e.BestMoved


def after(due: tuple[Due, ...], event: e.Event, started: e.Started | None) -> tuple[Due, ...]:
    """The calls that are due after an event, in their order; one for an output takes the place of an older one for it.

    Args:
        due: those before it.
        event: the event.
        started: the start that it belongs to: only hooks that its settings name are called.
    """
    match event:
        case e.Hooked():
            return tuple(each for each in due if (each.hook, each.of.seq) != (event.hook, event.of))
        case e.BestWithdrawn():
            return tuple(each for each in due if (each.hook, each.of.output) != (ON_BEST, event.output))
        case e.Published() if not event.found and event.written_bytes:  # else it is no new model
            hook = ON_MODEL
        case e.BestMoved():
            hook = ON_BEST
        case _:
            return due
    if started is None or not started.settings.get(hook):
        return due
    return (*(each for each in due if (each.hook, each.of.output) != (hook, event.output)), Due(hook, event))
