"""`rna-watch compare`, on a run that really was watched and on ones that were not."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from rna_watch.commands.compare import parse_levels
from rna_watch.comparison.comparison import compare
from rna_watch.comparison.record import record
from rna_watch.errors import UsageError
from tests.comparison.run_of import Run, usual_run
from tests.daemon.runs import EVALUATOR, events, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path


def test_a_real_run_is_compared_from_its_journal_alone(tmp_path: Path) -> None:
    """Every evaluation of the journal is in the JSON after `once`; tables and picture need no daemon."""
    run = tmp_path / "run"
    train(run, count=6)
    assert rna_watch("compare", run).returncode == 3
    done = rna_watch("once", run, "--engine", "local", "--evaluator", EVALUATOR)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "picture.svg"
    result = rna_watch("compare", run, "--json", "--plot", picture)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    drawn = picture.read_bytes()
    again = rna_watch("compare", run, "--plot", picture)
    assert again.returncode == 2
    assert "replace it with --force" in again.stderr
    assert rna_watch("compare", run, "--plot", picture, "--force").returncode == 0
    assert picture.read_bytes() == drawn
    assert rna_watch("dashboard", run, "--svg", picture).returncode == 2
    assert picture.read_bytes() == drawn
    assert rna_watch("dashboard", run, "--svg", picture, "--force").returncode == 0
    assert picture.read_bytes() != drawn
    assert (found["metric"], found["mode"], found["chosen_by"]["metric"]) == ("loss", "min", "loss")
    told = {
        (row["checkpoint"], name, candidate["value"])
        for row in found["checkpoints"]
        for name, candidate in row["candidates"].items()
    }
    assert {(event.checkpoint, event.candidate, event.metrics["loss"]) for event in events(run, "evaluated")} <= told
    chosen = {event.checkpoint: event for event in events(run, "chosen")}
    for row in found["checkpoints"]:
        event = chosen.get(row["checkpoint"])
        taken = event.candidate if event and event.better_than_original else "original"
        assert row["points"]["chosen"]["candidate"] == taken
    shown = rna_watch("compare", run, "--levels", "2.5,0.0001", "--members")
    assert shown.returncode == 0, shown.stderr
    for words in ("loss at each step", "first step with loss ≤", "never", "Best at a checkpoint", "flattered"):
        assert words in " ".join(shown.stdout.split())
    assert "\x1b" not in shown.stdout


def test_wrong_usage_says_what_is_wrong(tmp_path: Path) -> None:
    """Exit code 2 for a picture that nobody can draw, before the run is looked at."""
    result = rna_watch("compare", tmp_path, "--plot", "c.gif")
    assert (result.returncode, result.stdout) == (2, "")
    assert "must end in .svg" in result.stderr


def test_levels_are_numbers_with_commas() -> None:
    """Spaces and empty parts do no harm; a word, an infinity or NaN is refused."""
    assert parse_levels(" 20, 10,5, ") == [20.0, 10.0, 5.0]
    assert parse_levels(None) is None
    assert parse_levels(",") is None
    for wrong in ("a", "1,inf", "nan"):
        with pytest.raises(UsageError, match="--levels takes numbers"):
            parse_levels(wrong)


def test_the_record_is_json_with_every_checkpoint_and_nothing_invented() -> None:
    """Values that are no numbers are null, so that any reader can parse it; long runs are not thinned."""
    run = usual_run(64)
    run.checkpoint(65, {"last": math.nan, "average-5": math.inf, "rna-5-1e-08": 1.0}, residuals=5)
    found = json.loads(json.dumps(record(compare(run.state)), allow_nan=False))
    assert [row["step"] for row in found["checkpoints"]] == list(range(1, 66))
    assert found["checkpoints"][-1]["candidates"]["last"] == {"method": "last", "value": None}
    assert found["checkpoints"][0]["points"].keys() == {"original", "chosen"}
    assert found["levels"][0]["speedup"]["rna"].keys() == {"factor", "at_least"}
    assert found["tallies"]["all"]["rows"] == 62
    assert found["sentences"][0].startswith("Models were chosen by error")


def test_a_short_run_has_no_quarters_in_its_record() -> None:
    """They are null instead of counts over one checkpoint."""
    run = Run().checkpoint(3, {"last": 3.0, "average-2": 2.0})
    assert record(compare(run.state))["tallies"]["first_quarter"] is None
