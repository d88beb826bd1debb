"""`rna-watch demo`: a real training, watched; and the tables it ends with."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from rna_watch.demo.report import Row, epochs_to, rows
from rna_watch.journal import log
from rna_watch.journal.replay import replay
from tests.daemon.runs import check_journal_tells, rna_watch

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demo_shows_what_was_gained_on_images_that_chose_nothing(tmp_path: Path) -> None:
    """Without a terminal the demo prints plain lines, then test errors of all four, epochs saved, and the training's own time."""
    folder = tmp_path / "demo"
    result = rna_watch("demo", "--dir", folder, "--epochs", 6, "--engine", "inline")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    for words in ("original", "average", "RNA", "chosen", "epochs saved", "bitwise the same both times"):
        assert words in " ".join(result.stdout.split())
    assert re.search(r"training process: [\d.]+ s alone, [\d.]+ s watched", " ".join(result.stdout.split()))
    state = replay(log.read(folder / "run" / ".rna-watch" / "journal.jsonl"))
    found = rows(state)
    assert [row.epoch for row in found] == [1, 2, 3, 4, 5, 6]
    check_journal_tells(state)
    manifest = json.loads((folder / "run" / "rna" / "epoch_006.pt.json").read_text())
    assert manifest["metrics"]["original"].keys() == {"error", "test_error"}


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """The demo never writes among somebody's files."""
    (tmp_path / "thesis.tex").touch()
    result = rna_watch("demo", "--dir", tmp_path)
    assert result.returncode == 2
    assert "not empty" in result.stderr


def _row(epoch: int, original: float, chosen: float) -> Row:
    return Row(
        epoch=epoch,
        original=original,
        average=None,
        rna=chosen,
        chosen=chosen,
        chosen_name="rna",
        better=chosen < original,
    )


def test_epochs_to_a_level_are_the_first_at_or_below_it() -> None:
    """The first epoch at the level counts, missing values never do, an unreached level is None."""
    found = [_row(1, 30.0, 20.0), _row(2, 20.0, 10.0), _row(3, 25.0, 12.0)]
    assert epochs_to(found, 20.0, "original") == 2
    assert epochs_to(found, 20.0, "chosen") == 1
    assert epochs_to(found, 5.0, "chosen") is None
    assert epochs_to(found, 50.0, "average") is None
