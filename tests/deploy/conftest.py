"""A real little training, the commands' environment, and waiting with a deadline."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent
DEADLINE_S = 120.0  # the cores are shared with other work

TRAINER = '''\
"""Usage: train.py FOLDER EPOCHS STATUS [GO]; with GO, the last epoch waits for that file."""
import pathlib, sys, time, torch
folder, epochs, go = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]
torch.set_num_threads(1); torch.manual_seed(0)
model = torch.nn.Linear(64, 8); optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs, targets, until = torch.randn(256, 64), torch.randn(256, 8), time.monotonic() + 60
for epoch in range(1, epochs + 1):
    while epoch == epochs and go and not pathlib.Path(go[0]).exists() and time.monotonic() < until: time.sleep(0.05)
    optimizer.zero_grad(); torch.nn.functional.mse_loss(model(inputs), targets).backward(); optimizer.step()
    torch.save({"epoch": epoch, "model": model.state_dict()}, folder / "unfinished")
    (folder / "unfinished").rename(folder / f"epoch_{epoch}.pt")
sys.exit(int(sys.argv[3]))
'''


def wait_for(condition, what, process=None):
    """Poll until a condition holds, or fail at the deadline, or when a process that it depends on has ended."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended with status {process.returncode} before {what}: {process.stdout.read()}")
        if time.monotonic() > until:
            pytest.fail(f"no {what} within {DEADLINE_S:g} s")
        time.sleep(0.05)


def models(run):
    """The names of the models that were written for a run."""
    return {file.name for file in (run / "rna").glob("*.pt") if not file.is_symlink()}


@pytest.fixture(scope="session")
def trainer(tmp_path_factory):
    """The training script."""
    script = tmp_path_factory.mktemp("trainer") / "train.py"
    script.write_text(TRAINER)
    return script


@pytest.fixture(scope="session")
def trained(trainer, tmp_path_factory):
    """A run of four epochs that has ended; to be copied, not watched."""
    run = tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, trainer, run, "4", "0"], check=True)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A fresh run directory with four real checkpoints."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def environment(tmp_path):
    """The environment of the commands: this installation first on PATH, a home folder of its own."""
    return os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def begin(environment, tmp_path):
    """Starts commands as child processes; whatever still runs at the end is killed with its group."""
    begun = []

    def start(command, *, cwd=tmp_path, **more):
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        with contextlib.suppress(ProcessLookupError):  # what it left behind holds its output open
            os.killpg(process.pid, 9)
        process.communicate()


@pytest.fixture
def finish(environment):
    """Runs a command to its end; returns its exit status and all it said."""

    def call(command, **more):
        result = subprocess.run(
            [str(part) for part in command],
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return result.returncode, result.stdout

    return call


@pytest.fixture
def fake(environment, tmp_path):
    """Puts a command `rna-watch` first on PATH that ends with a status, and notes each start in the file returned."""

    def make(status):
        folder, starts = tmp_path / "fake", tmp_path / "starts"
        folder.mkdir()
        (folder / "rna-watch").write_text(f'#!/bin/sh\necho "$1" >>{shlex.quote(str(starts))}\nexit {status}\n')
        (folder / "rna-watch").chmod(0o755)
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        return starts

    return make


@pytest.fixture
def stages(finish):
    """What `rna-watch status --json` says of every checkpoint."""

    def ask(run):
        status, said = finish(["rna-watch", "status", run, "--json"])
        assert status == 0, said
        return {each["name"]: each["state"] for each in json.loads(said)["checkpoints"]}

    return ask
