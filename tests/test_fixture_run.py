"""The fixture run, on which two commits are compared: what it prints depends on the commit alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests import fixture_run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_two_runs_print_the_same_and_a_difference_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of one form agree in every digest and manifest; a changed weight and a lost file are named, with exit code 1."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path in (one, other):
        arguments = ["--engine", "inline", "--only", "torch legacy, state_dict", "-o", str(path)]
        assert fixture_run.main(arguments) == 0
    content = json.loads(one.read_text())
    evaluated = content["inline: evaluated"]
    assert {name for name in evaluated if name.endswith((".pt", ".pt.json"))} == {
        f"torch_legacy_state_dict/epoch_{step}.pt{ending}" for step in (3, 4, 5) for ending in ("", ".json")
    }
    assert evaluated["torch_legacy_state_dict/epoch_5.pt.json"]["metrics"]["original"]["distance"] > 0
    assert fixture_run.main(["--compare", str(one), str(other)]) == 0
    evaluated["torch_legacy_state_dict/epoch_5.pt.json"]["weights"][-1] = 7.0
    del evaluated["torch_legacy_state_dict/epoch_4.pt"]
    other.write_text(json.dumps(content))
    capsys.readouterr()
    assert fixture_run.main(["--compare", str(one), str(other)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert "inline: evaluated/torch_legacy_state_dict/epoch_4.pt: " in told[0]
    assert told[0].endswith(f" | {fixture_run.ABSENT}")
    assert told[1].startswith("inline: evaluated/torch_legacy_state_dict/epoch_5.pt.json/weights: ")
    assert len(told) == 2
