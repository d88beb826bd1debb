"""`rna-watch demo`: a real training, watched; and the tables it ends with."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.journal import log
from rna_watch.journal.replay import replay
from tests.daemon.runs import check_journal_tells, rna_watch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow  # `.ci/run` runs a short one
def test_the_demo_shows_what_was_gained_on_images_that_chose_nothing(tmp_path: Path) -> None:
    """The demo without a terminal prints plain lines, then test errors of all methods, speed-ups, and the training's time."""
    folder = tmp_path / "demo"
    result = rna_watch("demo", "--dir", folder, "--epochs", 6, "--engine", "local")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    for words in ("original", "average", "RNA", "chosen", "speed-up over the original", "bitwise the same both times"):
        assert words in " ".join(result.stdout.split())
    assert re.search(r"training process: [\d.]+ s alone, [\d.]+ s watched", " ".join(result.stdout.split()))
    state = replay(log.read(folder / "run" / ".rna-watch" / "journal.jsonl"))
    assert [row.step for row in compare(state, metric="test_error").rows] == [1, 2, 3, 4, 5, 6]
    check_journal_tells(state)
    manifest = json.loads((folder / "run" / "rna" / "epoch_006.pt.json").read_text())
    assert manifest["metrics"]["original"].keys() == {"error", "test_error", "loss"}
    assert manifest["tested_on"] == "loss"
    assert manifest["residuals"] == "gradient", "the training saves the state of SGD with momentum"
    assert all(step["standard_error"] is not None for step in manifest["comparisons"]), "models are compared by image"


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """The demo never writes among somebody's files."""
    (tmp_path / "thesis.tex").touch()
    result = rna_watch("demo", "--dir", tmp_path)
    assert result.returncode == 2
    assert "not empty" in result.stderr
