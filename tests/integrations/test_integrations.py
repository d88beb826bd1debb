"""What a training uses of ours: announcements, gradients beside checkpoints, a side-car; none of it can fail the training."""

from __future__ import annotations

import importlib.util
import json
import os
import time
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from rna_watch.formats import recorded_gradient
from rna_watch.formats.probe import probe
from rna_watch.integrations import Loop, SideCar, announce
from rna_watch.integrations.side_car import SideCarFailed
from tests.commands.test_init import _child
from tests.daemon.in_process import watch
from tests.daemon.runs import rna_watch

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.replay import RunState


def _train(loop: Loop, network: nn.Module, optimizer: torch.optim.Optimizer, run: Path, *, count: int) -> list[dict]:
    """Train; returns the mean gradient of each interval, taken by hand."""
    means = []
    for epoch in range(count):
        taken = []
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.randn(5, 4)).square().mean().backward()
            taken.append({name: each.grad.clone() for name, each in network.named_parameters()})
            optimizer.step()
        loop.save({"model": network.state_dict(), "epoch": epoch}, run / f"epoch_{epoch}.pt")
        means.append({name: sum(each[name] for each in taken) / 3 for name in taken[0]})
    return means


def test_two_lines_record_the_mean_gradient_of_each_interval(tmp_path: Path) -> None:
    """Every checkpoint is whole, with its interval's mean gradient beside it, which the window then uses."""
    torch.manual_seed(0)
    network = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    means = _train(Loop(tmp_path, network, optimizer), network, optimizer, tmp_path, count=4)
    for epoch, mean in enumerate(means):
        layout = probe(str(tmp_path / f"epoch_{epoch}.pt"))
        assert recorded_gradient.assign(layout)[1] == ""
        from safetensors.torch import load_file

        recorded = load_file(str(tmp_path / f"epoch_{epoch}.pt.gradient"))
        assert all(torch.allclose(recorded[name], mean[name], atol=1e-7) for name in mean)
    assert sorted(os.listdir(tmp_path)) == sorted(f"epoch_{n}.pt{end}" for n in range(4) for end in ("", ".gradient"))
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert json.loads((tmp_path / "rna" / "epoch_3.pt.json").read_text())["residuals"] == "recorded"


def test_an_announcement_is_a_look_at_once(tmp_path: Path) -> None:
    """With an hour between scans and no events, a checkpoint is taken as soon as the training says that it is whole."""
    begun, seen_early = time.monotonic(), []
    path = tmp_path / "epoch_1.pt"

    def until(state: RunState) -> bool:
        since = time.monotonic() - begun
        if "epoch_0.pt" in state.checkpoints and not path.exists():
            torch.save(nn.Linear(4, 2).state_dict(), path)
        elif path.exists() and not seen_early and time.time() - path.stat().st_mtime > 1.5:
            seen_early.append("epoch_1.pt" in state.checkpoints)
            announce(tmp_path, path)
        return "epoch_1.pt" in state.checkpoints or since > 60.0

    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "epoch_0.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rna_watch.daemon.watcher.Hints.start", lambda _: "none in this test")
        state = watch(tmp_path, until, scan_interval=3600.0)
    assert seen_early == [False]
    assert "epoch_1.pt" in state.checkpoints
    announce(tmp_path / "elsewhere", "x")  # nothing watches there: nothing happens
    assert not (tmp_path / "elsewhere").exists()


def test_a_side_car_that_cannot_begin_is_a_warning(tmp_path: Path) -> None:
    """A wrong setting is told in the command's own words, and the training goes on."""
    with pytest.raises(SideCarFailed, match="the evaluator's file .*none.py does not exist"):
        SideCar(tmp_path, evaluator=f"{tmp_path}/none.py:evaluate").start()
    with pytest.warns(UserWarning, match="rna-watch does not watch .*: .*--engine|engine"):
        loop = Loop(tmp_path, engine="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.save({}, tmp_path / "a.pt")
        loop.end()


LIGHTNING = """
import sys
import lightning
import torch
from torch import nn
from rna_watch.integrations import lightning_callback
assert not {"ray", "watchdog"} & set(sys.modules)


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 2)

    def training_step(self, batch, _):
        return self.body(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(40, 4)), batch_size=2)
saver = lightning.pytorch.callbacks.ModelCheckpoint(dirpath="run", save_top_k=-1, every_n_train_steps=4)
lightning.Trainer(
    max_steps=20, callbacks=[saver, lightning_callback(engine="local")], accelerator="cpu", logger=False,
    enable_progress_bar=False,
).fit(Module(), data)
"""
HUGGING_FACE = """
import sys
import torch
from rna_watch.integrations import hugging_face_callback
assert not {"torch.nn.modules.rnn", "ray", "watchdog"} & set(sys.modules) - {"torch.nn.modules.rnn"}
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

rows = [{"input_ids": torch.arange(8) % 9, "labels": torch.arange(8) % 9}] * 64
model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1))
arguments = TrainingArguments(
    output_dir="run", max_steps=20, save_steps=4, save_total_limit=2, report_to=[], use_cpu=True, disable_tqdm=True,
    per_device_train_batch_size=2,
)
Trainer(model, arguments, train_dataset=rows, callbacks=[hugging_face_callback(engine="local")]).train()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("library", "script"), [("lightning", LIGHTNING), ("transformers", HUGGING_FACE)])
def test_a_callback_starts_a_side_car_that_does_everything_and_ends(tmp_path: Path, library: str, script: str) -> None:
    """A trainer with the callback: recorded gradients, every checkpoint judged, and nothing watches afterwards."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (tmp_path / "run").mkdir()
    (tmp_path / "train.py").write_text(script)
    trained = _child(tmp_path, "train.py")
    assert trained.returncode == 0, trained.stderr
    import rna_watch as api

    run = api.open_run(tmp_path / "run")
    run.wait(120.0)
    assert [each.state for each in run.checkpoints] == ["finished"] * 2 + ["published"] * 3, run.problems
    assert run.latest is not None
    assert run.latest.manifest["residuals"] == "recorded"
    left = {path.name.removesuffix(".gradient") for path in (tmp_path / "run").glob("*.gradient")}
    assert left <= {path.name for path in (tmp_path / "run").iterdir()}
