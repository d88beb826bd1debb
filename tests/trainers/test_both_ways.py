"""Trainers with and without us: what they announce, keep, delete and resume to is the same, and each save is taken once."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from tests.daemon.runs import events, published
from tests.trainers.both_ways import TRAINERS, both_ways
from tests.trainers.live_run import check_each_once
from tests.trainers.watched import done

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each trains twice, and twice beside us


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_and_its_resume_are_as_without_us(tmp_path: Path, name: str) -> None:
    """Beside us a trainer announces, keeps and deletes the same, to the last byte, and goes on to bitwise the same weights."""
    trainer = TRAINERS[name]
    if importlib.util.find_spec(trainer.needs) is None:
        pytest.skip(f"{trainer.needs} is not installed")
    alone, beside, run = both_ways(trainer, tmp_path)
    assert beside == alone
    check_each_once(run)
    assert published(run.folder)
    assert not [event for kind in ("refused", "failed", "skipped", "problem") for event in events(run.folder, kind)]
    if trainer.numbered:
        assert done(run.folder) == [each["saved"] for each in beside.announced if "saved" in each]
