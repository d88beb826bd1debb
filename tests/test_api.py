"""The Python API: one window by hand, a run that is looked at, a run that is watched while a block runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import rna_watch
from rna_watch.errors import NothingToDo, RnaWatchError, UsageError
from tests.daemon.in_process import Noise, process
from tests.daemon.runs import model_of, train

if TYPE_CHECKING:
    from pathlib import Path


def test_one_window_is_extrapolated_into_memory_or_a_file(tmp_path: Path) -> None:
    """The weights sum to one and make the model; without a name for it nothing stays behind."""
    train(tmp_path / "run", count=4)
    paths = sorted((tmp_path / "run").iterdir())
    model = rna_watch.extrapolate(paths, window=2)
    assert sum(model.weights) == pytest.approx(1.0)
    tensors = model.state_dict()
    inputs = [model_of(path) for path in paths[-3:]]
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and "running_var" not in name:
            wanted = sum(w * each[name].double() for w, each in zip(model.weights, inputs, strict=True))
            assert torch.allclose(tensor.double(), wanted, atol=1e-6), name
    there = model.path
    assert there.exists()
    del model
    assert not there.exists()
    written = rna_watch.extrapolate(paths, tmp_path / "out.pt", method="average", engine="local")
    assert written.path == tmp_path / "out.pt"
    with pytest.raises(UsageError, match="exists"):
        rna_watch.extrapolate(paths, tmp_path / "out.pt")
    with pytest.raises(UsageError, match="unknown setting 'widow'; did you mean 'window'"):
        rna_watch.extrapolate(paths, widow=3)


def test_a_run_is_looked_at_without_a_process(tmp_path: Path) -> None:
    """Checkpoints in the order of steps with metrics and models, the best and the newest, and a table that escapes names."""
    run = tmp_path / "run<b>"
    train(run, count=5)
    process(run, run, [Noise(1, examples=50)])
    found = rna_watch.open_run(run)
    assert [each.step for each in found.checkpoints] == [1, 2, 3, 4, 5]
    last = found.checkpoints[-1]
    assert last.model is not None
    assert found.metrics[-1]["original/loss"] == last.metrics["original"]["loss"]
    assert found.latest == last.model
    assert set(last.state_dict()) == set(last.model.state_dict()) == set(found.latest.state_dict())
    assert not found.watched
    assert "run&lt;b&gt;" in found._repr_html_()
    assert "<b>" not in found._repr_html_() + last.model._repr_html_()
    if found.best is None:
        with pytest.raises(NothingToDo, match="no best model"):
            found.state_dict()
    else:
        assert set(found.state_dict()) == set(last.state_dict())
    with pytest.raises(NothingToDo, match="was never watched"):
        rna_watch.open_run(tmp_path)


def test_a_block_is_watched_and_everything_is_done_at_its_end(tmp_path: Path) -> None:
    """The folder is made in the block; after it all is there, and nothing watches any more; a wrong setting is told at once."""
    with pytest.raises(UsageError, match="unknown setting"), rna_watch.watch(tmp_path / "run", windw=3):
        pass
    with rna_watch.watch(tmp_path / "run", engine="local", wait=120.0) as run:
        with pytest.raises(UsageError, match="does not exist"):
            _ = run.checkpoints
        train(tmp_path / "run", count=4)
    assert [each.state for each in run.checkpoints] == ["finished", "finished", "published", "published"]
    assert not run.watched
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".rna-watch").symlink_to(tmp_path)
    with (
        pytest.raises(RnaWatchError, match="is a symbolic link"),
        rna_watch.watch(tmp_path / "other", engine="local"),
    ):
        pass


@pytest.mark.parametrize(
    "code",
    [
        "import rna_watch; rna_watch.open_run; rna_watch.watch; rna_watch.extrapolate",
        "from rna_watch.integrations import Loop, SideCar, lightning_callback, hugging_face_callback, announce",
    ],
)
def test_importing_the_api_brings_no_framework(code: str) -> None:
    """Neither torch nor Ray nor watchdog nor a trainer's library comes before it is needed."""
    heavy = ["torch", "ray", "watchdog", "lightning", "transformers"]
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*set({heavy}) & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == ""


def test_a_loop_helper_needs_torch_only_when_it_saves(tmp_path: Path) -> None:
    """A loop without gradients only saves whole files."""
    from rna_watch.integrations import Loop

    Loop(tmp_path).save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    assert set(torch.load(tmp_path / "a.pt", weights_only=True)) == {"weight", "bias"}
