"""Outputs that somebody removed: never named again, and made again as far as originals and pins allow."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal.log import read
from rna_watch.journal.replay import replay
from tests.daemon.runs import events, rna_watch, status, train

if TYPE_CHECKING:
    from rna_watch.journal.events import BestMoved
    from rna_watch.journal.replay import RunState

_NOISE = """
import zlib

def evaluate(state_dict, device):
    digest = 0
    for tensor in state_dict.values():
        digest = zlib.crc32(tensor.contiguous().numpy().tobytes(), digest)
    return {"loss": digest / 2**32}
"""


@pytest.fixture
def with_noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options with an evaluator that gives each model a number of its own, so that some models beat all originals."""
    file = tmp_path_factory.mktemp("judge") / "judge.py"
    file.write_text(_NOISE)
    return ("--evaluator", f"{file}:evaluate", "--engine", "local", "--keep", "3")


def _models(run: Path) -> dict[str, str]:
    """The models and manifests by name, without what differs from writing to writing."""
    found = {}
    for path in sorted((run / "rna").iterdir()):
        if path.is_symlink():
            found[path.name] = os.readlink(path)
        elif path.suffix == ".json":
            found[path.name] = json.dumps(json.loads(path.read_text()), sort_keys=True)
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _state(run: Path) -> RunState:
    return replay(read(run / ".rna-watch" / "journal.jsonl"))


def test_a_removed_tree_is_made_again_bit_for_bit(tmp_path: Path, with_noise: tuple[str, ...]) -> None:
    """`rm -r rna` and `once`: the outputs that were kept, their manifests and both links are as before, unjudged."""
    train(tmp_path, count=6)
    assert rna_watch("once", tmp_path, *with_noise).returncode == 0
    before, evaluated, best = _models(tmp_path), len(events(tmp_path, "evaluated")), _state(tmp_path).best
    assert best is not None
    assert len([name for name in before if name.endswith(".pt")]) in {3, 4}
    shutil.rmtree(tmp_path / "rna")
    assert status(tmp_path)["best"] is None
    assert [each["output"] for each in status(tmp_path)["checkpoints"]] == [None] * 6
    text = rna_watch("status", tmp_path).stdout.splitlines()[-1]
    assert "best:" not in text
    result = rna_watch("once", tmp_path, *with_noise)
    assert result.returncode == 0
    assert _models(tmp_path) == before
    assert len(events(tmp_path, "evaluated")) == evaluated
    again = _state(tmp_path)
    assert again.best is not None
    assert (again.best.output, again.best.value) == (best.output, best.value)
    assert f"best: rna/{best.output}, loss" in result.stdout
    assert "the best original, step_" in result.stdout
    assert rna_watch("once", tmp_path, *with_noise).returncode == 3
    assert _models(tmp_path) == before


def test_the_model_that_best_names_is_made_again(tmp_path: Path, with_noise: tuple[str, ...]) -> None:
    """Where one model is gone, the others stay, `latest` names the newest, and `best` the best again."""
    train(tmp_path, count=6)
    assert rna_watch("once", tmp_path, *with_noise).returncode == 0
    before, best = _models(tmp_path), _state(tmp_path).best
    assert best is not None
    (tmp_path / "rna" / best.output).unlink()
    assert status(tmp_path)["best"] is None
    assert rna_watch("once", tmp_path, *with_noise).returncode == 0
    assert _models(tmp_path) == before
    assert status(tmp_path)["best"]["output"] == str(tmp_path / "rna" / best.output)


def _best_of_six(run: Path, options: tuple[str, ...]) -> BestMoved:
    """Train six checkpoints and process them without pins; returns what `best` names."""
    train(run, count=6)
    assert rna_watch("once", run, *options, "--pin", "none").returncode == 0
    best = _state(run).best
    assert best is not None
    return best


def _oldest_input(run: Path, best: BestMoved) -> Path:
    chosen = _state(run).checkpoints[best.checkpoint].chosen
    assert chosen is not None
    return run / chosen.inputs[0]


def test_what_cannot_be_made_again_is_said(tmp_path: Path, with_noise: tuple[str, ...]) -> None:
    """A model whose inputs are gone stays gone, and `best`, which named it, names nothing, with the reason."""
    best = _best_of_six(tmp_path, with_noise)
    _oldest_input(tmp_path, best).unlink()
    kept = [output for output in _state(tmp_path).outputs if output != best.output]
    (tmp_path / "rna" / best.output).unlink()
    assert rna_watch("once", tmp_path, *with_noise, "--pin", "none").returncode == 3
    after = _state(tmp_path)
    (said,) = events(tmp_path, "best_withdrawn")
    assert (said.checkpoint, said.output) == (best.checkpoint, best.output)
    assert "inputs" in said.reason
    assert best.output not in after.outputs
    assert not (tmp_path / "rna" / best.output).exists()
    assert not (tmp_path / "rna" / "best").is_symlink()
    assert status(tmp_path)["best"] is None
    assert list(after.outputs) == kept


def test_an_input_that_was_written_again_is_left_out_of_what_is_made_again(
    tmp_path: Path, with_noise: tuple[str, ...]
) -> None:
    """A window is what is there: a file of other content begins a new one, and the model is made of those that are left."""
    best = _best_of_six(tmp_path, with_noise)
    oldest = _oldest_input(tmp_path, best)
    oldest.write_bytes((tmp_path / "step_6.pt").read_bytes())
    (tmp_path / "rna" / best.output).unlink()
    assert rna_watch("once", tmp_path, *with_noise, "--pin", "none").returncode == 0
    again = _state(tmp_path).checkpoints[best.checkpoint]
    assert again.chosen is not None
    assert oldest.name not in again.chosen.inputs
    named = _state(tmp_path).best
    assert named is None or (tmp_path / "rna" / named.output).exists()
    assert (tmp_path / "rna" / "best").is_symlink() == (named is not None)


def test_another_evaluator_judges_again_what_is_made_again(tmp_path: Path, with_noise: tuple[str, ...]) -> None:
    """What an earlier evaluator said of a model chooses nothing when its model is made again."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, *with_noise).returncode == 0
    first = len(events(tmp_path, "evaluated"))
    file = Path(with_noise[1].removesuffix(":evaluate"))
    file.write_text(file.read_text() + "\n")
    shutil.rmtree(tmp_path / "rna")
    assert rna_watch("once", tmp_path, *with_noise).returncode == 0
    assert {event.checkpoint for event in events(tmp_path, "evaluated")[first:]} == {
        f"step_{step}.pt" for step in (1, 2, 3, 4)
    }
    assert sorted(_state(tmp_path).outputs) == ["step_3.pt", "step_4.pt"]
