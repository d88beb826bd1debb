"""Where a window begins, over made checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rna_watch.acceleration.residuals import ParameterGroup
from rna_watch.daemon.window_break import change, joined, restart, same_step
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.watching.reading import Reading
from tests.acceleration.test_residuals import BARE, at_rates, states
from tests.daemon.test_order import checkpoint_of, made


@pytest.mark.parametrize(
    ("architectures", "count"),
    [("aaa", 3), ("aba", 1), ("baa", 2), ("a-a", 1), ("-aa", 2), ("aa-", 0), ("", 0)],
    ids=["all", "another between", "another before", "one is gone", "the oldest is gone", "the newest is gone", "none"],
)
def test_a_window_reaches_back_to_the_first_gap(architectures: str, count: int) -> None:
    """What is gone, or has tensors of other names, shapes or dtypes, ends it; what lies before that is not used."""
    layouts: list[Any] = [None if each == "-" else SimpleNamespace(architecture=each) for each in architectures]
    assert joined(layouts) == layouts[len(layouts) - count :]


@pytest.mark.parametrize(
    ("name", "step", "kind", "told"),
    [("step5_b.pt", 5, "step", True), ("step5_a.pt", 5, "step", False), ("step5_b.pt", 5, "epoch", False)],
    ids=["another file", "the file itself", "counted otherwise"],
)
def test_two_files_of_one_step_are_told(name: str, step: int, kind: str, told: bool) -> None:
    """Only another file that tells the same number in the same unit: one that is written again takes its own place."""
    reason = same_step(made("step5_a.pt", 5), made(name, step, step_kind=kind))
    assert reason == (f"step5_a.pt and {name} have the same step 5" if told else "")


@pytest.mark.parametrize(
    ("step", "saved", "reason"),
    [
        (6, 20, ""),
        (5, 20, "the run went back from step 5 to 5: a restart"),
        (3, 20, "the run went back from step 5 to 3: a restart"),
        (3, 10, ""),
        (3, 1, ""),
    ],
    ids=["on", "again", "back", "back at once", "an older file found late"],
)
def test_a_run_goes_back_where_a_smaller_step_is_saved_later(step: int, saved: int, reason: str) -> None:
    """A smaller step begins a window only if its file is the newer one."""
    previous, current = made("step_5.pt", 5, mtime_ns=10), made(f"step_{step}.pt", step, mtime_ns=saved)
    assert restart(previous, current, Checkpoints()) == reason


@pytest.mark.parametrize(
    ("aside", "step", "saved", "seen"),
    [
        ("epoch=1-v1.ckpt", 1, 15, True),
        ("epoch=1-v1.ckpt", 3, 15, False),
        ("epoch=1-v1.ckpt", 1, 5, False),
        ("epoch=1-v1.ckpt", 1, 25, False),
        ("epoch=1.ckpt", 1, 15, False),
        ("other=1-v1.ckpt", 1, 15, False),
    ],
    ids=["begun again", "a later step", "before", "after", "of the same version", "of another name"],
)
def test_a_file_of_another_version_in_between_is_a_restart(aside: str, step: int, saved: int, seen: bool) -> None:
    """A training that is begun again writes `-v1` where a name is taken; what follows is of the new training."""
    reading = Reading(["epoch=2.ckpt", "epoch=3.ckpt", aside])
    previous, other, current = (
        made(name, number, mtime_ns=time, series=reading.of(name).series)
        for name, number, time in (("epoch=2.ckpt", 2, 10), (aside, step, saved), ("epoch=3.ckpt", 3, 20))
    )
    others = Checkpoints(checkpoint_of(each) for each in (previous, other, current))
    reason = restart(previous, current, others)
    assert reason == (f"{aside} was saved after epoch=2.ckpt, though its step is not later: a restart" if seen else "")


@pytest.mark.parametrize(
    ("rates", "jump", "words"),
    [
        ((0.1, 0.1), 2.0, ""),
        ((0.1, 0.05), 2.0, ""),
        ((0.1, 0.2), 2.0, ""),
        ((0.1, 0.049), 2.0, "the learning rate jumped from 0.1 to 0.049"),
        ((0.1, 0.21), 2.0, "the learning rate jumped from 0.1 to 0.21"),
        ((0.1, 0.0), 2.0, "the learning rate jumped from 0.1 to 0"),
        ((0.1, 0.001), math.inf, ""),
        ((0.1, 0.0), math.inf, ""),
        ((0.1, 0.021), 5.0, ""),
        ((math.nan, 0.1), 2.0, ""),
        ((0.1, math.nan), 2.0, ""),
    ],
)
def test_a_jump_of_the_learning_rate_begins_a_window(rates: tuple[float, ...], jump: float, words: str) -> None:
    """Beyond the ratio, up or down, history ends; gradual change, an unknown rate or an infinite ratio do not end it."""
    assert change(*at_rates(*rates), jump) == words


def test_other_breaks_of_a_window() -> None:
    """Another optimizer, another numbering: history ends, in words; an optimizer that is missing ends nothing."""
    older, newer = states((1, 2))
    assert change(older, newer, 2.0) == ""
    assert change(older, replace(newer, optimizer="Adam"), 2.0) == "the optimizer changed from SGD to Adam"
    assert change(older, replace(newer, **BARE), 2.0) == ""
    words = change(older, replace(newer, step_kind="epoch"), 2.0)
    assert words == "steps were counted by step, now by epoch, so they cannot be compared"


def test_a_jump_of_any_group_begins_a_window() -> None:
    """One of two groups that jumps is enough; a group that comes or goes does not count as a jump."""
    older, newer = (replace(state, groups=state.groups * 2) for state in states((1, 2)))
    newer = replace(newer, groups=(newer.groups[0], ParameterGroup(learning_rate=0.01)))
    assert "jumped" in change(older, newer, 2.0)
    assert change(older, replace(newer, groups=newer.groups[:1]), 2.0) == ""
