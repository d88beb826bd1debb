"""`init`: an evaluator for the run's trainer that works at the first try but for the data, which nobody invents."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rna_watch.commands import init, trial
from rna_watch.config import RunConfig
from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.window.combine import Combination
from tests.daemon.in_process import Here

TRAINING = """\
import torch
from torch import nn

WIDTH = 7


class Network(nn.Module):
    def __init__(self, width, classes=2):
        super().__init__()
        self.body = nn.Linear(4, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))

"""
AT_ONCE = """\
x_val = torch.zeros(3)
open('trained', 'w')
model = Network(WIDTH, classes=3).to('cpu')
torch.save(model.state_dict(), 'x')
"""
GUARDED = """
def main(args):
    model = Network(args.width)
    torch.save({"model": model.state_dict()}, "x")


if __name__ == "__main__":
    open('trained', 'w')
"""
DATA = "    return [(torch.ones(5, 4), torch.tensor([0, 1, 0, 1, 0]))]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a training script, the current one; evaluators run in this process."""
    folder = tmp_path / "mine"
    (folder / "run").mkdir(parents=True)
    monkeypatch.chdir(folder)
    path = list(sys.path)

    def evaluate(config: RunConfig, layout: object) -> object:
        assert config.evaluator is not None
        return Here(config.evaluator, folder).evaluate(Combination(layouts=(layout,), weights=(1.0,)))  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "evaluate", evaluate)
    yield folder
    sys.path[:] = path
    sys.modules.pop("train", None)


def _network(width: int, classes: int) -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(4, width), "head": nn.Linear(width, classes)})


def _init(said: list[str]) -> None:
    init.init(Path("run"), RunConfig(), ["rna-watch", "init", "run"], said.append)


def _stop(said: list[str]) -> int:
    """Where `init` stops: the number of the line of the evaluator that is to be filled in, and what it is for."""
    with pytest.raises(RnaWatchError, match="fill in the held-out data here") as raised:
        _init(said)
    assert "the model itself loads" in str(raised.value)
    found = re.match(r"rna_watch_evaluator\.py, line (\d+): ", str(raised.value))
    assert found
    return int(found[1]) - 1


@pytest.mark.parametrize("script", [AT_ONCE, GUARDED])
def test_the_held_out_data_are_the_one_thing_to_fill_in(here: Path, script: str) -> None:
    """The network is found and loads; the line is named; filled in, it gives a metric per example; no file is replaced."""
    classes = 3 if script == AT_ONCE else 2
    (here / "train.py").write_text(TRAINING + script)
    for epoch in range(2):
        content = {
            "model": _network(7, classes).state_dict(),
            "args": argparse.Namespace(width=7, lr=0.1),
            "epoch": epoch,
        }
        torch.save(content, here / "run" / f"epoch_{epoch}.pt")
    listing = sorted(os.listdir(here / "run"))
    said: list[str] = []
    line = _stop(said)
    lines = (here / init.EVALUATOR).read_text().splitlines()
    assert lines[line].startswith("    raise NotImplementedError")
    assert ("x_val = torch.zeros(3)" in "\n".join(lines)) == (script == AT_ONCE)
    lines[line] = DATA
    (here / init.EVALUATOR).write_text("\n".join(lines) + "\n")
    (here / init.SETTINGS).write_text(f"evaluator: {init.EVALUATOR}:evaluate\n# mine\n")
    said.clear()
    _init(said)
    assert [each for each in said if each.startswith("test")] == [
        "test     gains are tested on 5 values of error, model against model; more of them tell smaller gains from noise"
    ]
    assert (here / init.EVALUATOR).read_text().splitlines() == lines
    assert "# mine" in (here / init.SETTINGS).read_text()
    assert sorted(os.listdir(here / "run")) == listing
    assert not (here / "trained").exists(), "the training script was run"


def test_what_a_checkpoint_records_is_never_run(here: Path) -> None:
    """Names and values of a hostile checkpoint come into the evaluator as plain values, or not at all."""
    evil = '")\nopen("pwned", "w")\n#'
    for name, content in {
        "a": {
            "state_dict": _network(2, 2).state_dict(),
            "arch": evil,
            "version": 2,
            "args": {"data_dir": evil, evil: 1},
        },
        "b": {
            "state_dict": _network(2, 2).state_dict(),
            "pytorch-lightning_version": "2",
            "hyper_parameters": {"_class_path": "os.system", "command": evil},
            "datamodule_hyper_parameters": {evil: evil},
        },
    }.items():
        torch.save(content, here / "run" / f"step_{name}.pt")
        with pytest.raises(RnaWatchError, match="build the network here"):
            _init([])
        ast.parse((here / init.EVALUATOR).read_text())
        assert not (here / "pwned").exists()
        (here / init.EVALUATOR).unlink()
        (here / "run" / f"step_{name}.pt").unlink()


def test_nothing_is_written_into_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run directory itself, `init` says where to call it."""
    torch.save(_network(2, 2).state_dict(), here / "run" / "step_1.pt")
    monkeypatch.chdir(here / "run")
    with pytest.raises(UsageError, match="change to the folder of your training script"):
        init.init(here / "run", RunConfig(), ["rna-watch", "init", "run"], [].append)
    assert os.listdir(here / "run") == ["step_1.pt"]


HUGGING_FACE = """
from transformers import GPT2Config, GPT2LMHeadModel

for step in (1, 2):
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        f"run/checkpoint-{step}"
    )
"""
LIGHTNING = """
import lightning
import torch
from torch import nn


def data(count):
    values = torch.utils.data.TensorDataset(torch.ones(count, 4), torch.zeros(count, dtype=torch.long))
    return torch.utils.data.DataLoader(values, batch_size=2)


class Data(lightning.LightningDataModule):
    def __init__(self, examples=8):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return data(2)

    def val_dataloader(self):
        return data(2 * self.hparams.examples)


class Module(lightning.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Linear(4, width)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self.body(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    saver = lightning.pytorch.callbacks.ModelCheckpoint(dirpath="run", save_top_k=-1, every_n_train_steps=1)
    lightning.Trainer(
        max_steps=2, callbacks=[saver], accelerator="cpu", logger=False, enable_progress_bar=False
    ).fit(Module(width=3), datamodule=Data(examples=5))
"""
TIMM = """
import argparse
import timm
import torch
from timm.utils import CheckpointSaver

model = timm.create_model("test_resnet", num_classes=3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
args = argparse.Namespace(model="test_resnet", num_classes=3, data_dir="images", val_split="validation", dataset="")
saver = CheckpointSaver(model=model, optimizer=optimizer, args=args, checkpoint_dir="run", recovery_dir="run")
for epoch in range(2):
    saver.save_checkpoint(epoch, float(epoch))
"""


def _child(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process in which trainers' libraries can be imported beside this torch."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    trainers = Path(__file__).parents[1] / "trainers"
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(trainers)!r})\nimport torchvision_schemas\ntorchvision_schemas.declare()\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{site}"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "script", "fill", "metric"),
    [
        (
            "transformers",
            HUGGING_FACE,
            "    return [{k: torch.arange(8) for k in ('input_ids', 'labels')}] * 6",
            "6 values of loss",
        ),
        ("lightning", LIGHTNING, "", "5 values of val_loss"),
        ("timm", TIMM, "", "4 values of error"),
    ],
)
def test_a_library_s_run_is_evaluated_at_the_first_try(
    tmp_path: Path, library: str, script: str, fill: str, metric: str
) -> None:
    """Tied weights, hyper-parameters and data modules, names of architectures: nothing but unrecorded data is to be filled in."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (tmp_path / "run").mkdir()
    (tmp_path / "train.py").write_text(script)
    trained = _child(tmp_path, "train.py")
    assert trained.returncode == 0, trained.stderr
    command = ("-P", "-m", "rna_watch", "init", "run")
    result = _child(tmp_path, *command)
    if library == "timm":
        from PIL import Image

        assert result.returncode == 1
        assert "the training read it from images, which is not here" in result.stderr, result.stdout + result.stderr
        for name in "abc":
            (tmp_path / "images" / "validation" / name).mkdir(parents=True)
        for number, name in enumerate("aabc"):
            Image.new("RGB", (40, 40), (number, 9, 9)).save(tmp_path / "images" / "validation" / name / f"{number}.png")
        result = _child(tmp_path, *command)
    if fill:
        assert result.returncode == 1
        found = re.search(r"rna_watch_evaluator\.py, line (\d+): fill in .* \(the model itself loads\)", result.stderr)
        assert found, result.stdout + result.stderr
        lines = (tmp_path / init.EVALUATOR).read_text().splitlines()
        lines[int(found[1]) - 1] = fill
        (tmp_path / init.EVALUATOR).write_text("\n".join(lines))
        result = _child(tmp_path, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"gains are tested on {metric}" in result.stdout
