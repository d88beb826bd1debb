"""What a person looks at: the screen, the run, the row and the order, and how a key changes them; no clock, no files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

RUNS, RUN, DETAILS, HELP = "runs", "run", "details", "help"
ORDERS = ("step", "value", "gain")
KEYS = (
    ("↑ ↓  k j", "one row up or down"),
    ("PgUp PgDn", "ten rows up or down"),
    ("Home End  g G", "the first row, the newest row"),
    ("Enter", "details: every candidate, the weights, and the reason"),
    ("Esc", "back"),
    ("s", "sort by step, value or gain"),
    ("n  Tab", "the next run"),
    ("p  Space", "pause: the screen stays as it is"),
    ("?  h", "this help"),
    ("q", "leave; the daemon goes on"),
)
_ENTER, _BACK = {"\n", "\r", "right"}, {"esc", "\x7f", "left"}
_SAME = {"g": "home", "G": "end", "\t": "n"}
_STEPS = {"up": 1, "k": 1, "down": -1, "j": -1, "pgup": 10, "pgdn": -10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`row` counts from the newest one, which is 0; None: none is picked. `run` is the number of the run."""

    screen: str = RUN
    run: int = 0
    row: int | None = None
    order: str = ORDERS[0]
    paused: bool = False


START = Look()


def press(look: Look, key: str, *, runs: int, rows: int) -> Look:
    """What is looked at after a key; a key without a meaning changes nothing.

    Args:
        look: what is looked at.
        key: a character, or the name of a key, as `terminal.keys` gives it.
        runs: how many runs there are.
        rows: how many rows the present list has.
    """
    if look.screen == HELP:
        return replace(look, screen=RUN)
    at_screen = _among_runs(look, key, runs) if look.screen == RUNS else _in_run(look, key, runs, rows)
    return replace(look, **(_anywhere(look, key) or at_screen))


def _anywhere(look: Look, key: str) -> dict[str, Any]:
    if key in {"?", "h"}:
        return {"screen": HELP}
    return {"paused": not look.paused} if key in {"p", " "} else {}


def _in_run(look: Look, key: str, runs: int, rows: int) -> dict[str, Any]:
    """What changes; `row` is None only on the run's own screen."""
    none = None if look.screen == RUN else 0
    if key in _ENTER and rows:
        return {"screen": DETAILS, "row": look.row or 0}
    if key in _BACK:
        return {"screen": RUN} if look.screen == DETAILS else {"screen": RUNS if runs > 1 else RUN, "row": None}
    if key in _STEPS and rows:
        row = (look.row if look.row is not None else -1) + _STEPS[key]
        return {"row": min(row, rows - 1) if row >= 0 else none}
    changes: dict[str, dict[str, Any]] = {
        "s": {"order": ORDERS[(ORDERS.index(look.order) + 1) % len(ORDERS)]},
        "n": {"run": (look.run + 1) % runs, "screen": RUN, "row": None} if runs > 1 else {},
        "home": {"row": rows - 1} if rows else {},
        "end": {"row": none},
    }
    return changes.get(_SAME.get(key, key), {})


def _among_runs(look: Look, key: str, runs: int) -> dict[str, Any]:
    if key in _ENTER:
        return {"screen": RUN, "row": None}
    same = _SAME.get(key, key)
    if same in {"home", "end"}:
        return {"run": 0 if same == "home" else runs - 1}
    if same in {*_STEPS, "n"}:
        return {"run": min(max(look.run - _STEPS.get(key, -1), 0), runs - 1)}
    return {}
