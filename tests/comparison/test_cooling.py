"""Cooldown branches in the comparison: their gain for free, and with the batches charged that they drew."""

from __future__ import annotations

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.cooling import cooling
from rna_watch.comparison.findings import findings
from rna_watch.journal import events as e
from tests.comparison.run_of import Run


def _run() -> Run:
    """Errors 10, 8, 6, 5, and a branch of 150 batches at each of the first two, which reaches 6 and 5.5."""
    run = Run()
    for number, (original, branch) in enumerate([(10.0, 6.0), (8.0, 5.5), (6.0, None), (5.0, None)], 1):
        run.checkpoint(number, {"last": original} | ({} if branch is None else {"anneal-last-60": branch}))
        name = f"epoch_{number:03}.pt"
        admitted = run.state.checkpoints[name].admitted
        assert admitted is not None
        if branch is not None:
            run.add(
                e.Evaluated(
                    checkpoint=name,
                    candidate="anneal-last-60",
                    metrics={"error": branch},
                    seconds=0.1,
                    recipe={"method": "anneal", "parameters": {}, "statistics": "clamped"},
                    training={"steps": 60, "batches": 150, "seconds": 1.5},
                )
            )
    return run


def test_the_batches_are_charged_in_epochs() -> None:
    """Where the files say how many steps an epoch has, the original's own curve is asked at that point."""
    run = _run()
    for checkpoint in run.state.checkpoints.values():
        assert checkpoint.admitted is not None
        object.__setattr__(checkpoint.admitted, "counters", {"epoch": checkpoint.step, "step": 100 * checkpoint.step})
    comparison = compare(run.state)
    found = cooling(comparison)
    assert found is not None
    assert (found.count, found.free) == (2, pytest.approx((4.0 + 2.5) / 2))
    # 1.5 epochs later the original has 7 and 5.5
    assert (found.charged_count, found.charged) == (2, pytest.approx((1.0 + 0.0) / 2))
    assert any("with them charged, +0.5 over what the original itself became" in line for line in findings(comparison))


def test_batches_that_cannot_be_charged_are_said() -> None:
    """Without steps in the files, nobody knows how many batches an epoch has."""
    comparison = compare(_run().state)
    found = cooling(comparison)
    assert found is not None
    assert (found.charged_count, found.charged) == (0, None)
    assert any("how many batches one epoch has is not known" in line for line in findings(comparison))


def test_without_branches_nothing_is_said() -> None:
    """A run without `anneal` has no such sentence."""
    run = Run()
    run.checkpoint(1, {"last": 2.0, "average-2": 1.0})
    comparison = compare(run.state)
    assert cooling(comparison) is None
    assert not any("Cooled" in line for line in findings(comparison))
