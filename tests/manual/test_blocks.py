"""Every block of code of README and docs/ is executed, parsed by the program, or a part of a file that tests run."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import chdir
from typing import TYPE_CHECKING, Any
from unittest import mock

import click
import pytest
import torch
from torch import nn

from rna_watch.cli import app
from rna_watch.training import GradientRecorder
from tests.benchmarks.__main__ import parsed
from tests.daemon.runs import rna_watch, train
from tests.daemon.trainer import Network
from tests.manual.generated import ROOT
from tests.manual.pages import PAGES, Block, blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.file]
ONCE = ["rna-watch", "once", "RUN_DIR", "--evaluator", "eval.py:evaluate"]  # the fixture runs it
PROGRAM = f'rna-watch() {{ "{sys.executable}" -P -m rna_watch "$@" || [ $? = 3 ] || exit 1; }}\n'
# what makes a command end, quick, and callable again
MORE = {
    "dashboard": ["--once"],
    "report": ["--force"],
    "doctor": ["--engine", "local"],
    "extrapolate": ["--force"],
}
ALONE = {"start", "demo", "reproduce", "init"}  # commands that go on in the background, train, or need data
README = next(block for block in PYTHON if block.page == "README.md")


def _lines(text: str) -> Iterator[list[str]]:
    """The words of each command in a block of shell."""
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if word in {"&", ";", "&&"}:
                if words:
                    yield words
                words = []
            else:
                words.append(word)


GENERATED = "docs/commands.md"
SHELL = [block for block in BLOCKS if block.language in {"sh", ""} and not block.file]
COMMANDS = [(block, words) for block in SHELL for words in _lines(block.text)]
PARTS_OF_FILES = [block for block in BLOCKS if block.file]


def _name(value: object) -> str:
    return value.page if isinstance(value, Block) else " ".join(value) if isinstance(value, list) else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RUN_DIR, in which a training left checkpoints, and with the README's evaluator, after `once`."""
    folder = tmp_path_factory.mktemp("manual")
    train(folder / "RUN_DIR", count=6)
    data = (
        f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.daemon.trainer import Network\n\n"
        "torch.manual_seed(0)\nnetwork, inputs, labels = Network(), torch.randn(64, 1, 4, 4), torch.randint(0, 16, (64,))"
    )
    text, count = re.subn(
        r"^network, inputs, labels = \.\.\.  # yours, built once$", data, README.text, flags=re.MULTILINE
    )
    assert count == 1
    (folder / "eval.py").write_text(text)
    done = rna_watch(*ONCE[1:], "--engine", "local", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_block_of_code_is_held_by_a_test() -> None:
    """Shell is read line by line, Python is run or part of a file, text is generated."""
    assert ONCE in [words for _, words in COMMANDS]
    assert {block.language for block in BLOCKS} <= {"sh", "python", "text", "yaml", ""}
    for block in BLOCKS:
        assert block.language != "text" or block.file or block.page == GENERATED, f"{block.page}: {block.text}"
    for block in PYTHON:
        assert block.run in RUNS, f"{block.page}: say <!-- run: NAME --> or <!-- from: FILE --> before it"


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=_name)
def test_every_command_can_be_called(block: Block, words: list[str]) -> None:
    """Its command parses it, or it is a target, an extra, a benchmark or a script that is there."""
    match words:
        case ["rna-watch", name, *arguments]:
            given = [word.replace("$!", "1") for word in arguments]
            program = click.Context(app, info_name="rna-watch", **app.context_settings)
            context = app.commands[name].make_context(name, given, parent=program)
            assert context.command.name == name
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\[(\w+)\]", what)) <= extras.keys()
        case ["python" | "python3" | ".venv/bin/python", "-m", "tests.benchmarks", *arguments]:
            parsed(arguments)
        case ["python" | "python3", "-m", module, *_]:
            assert (ROOT / module.replace(".", "/") / "__main__.py").exists()
        case ["python", "train.py", *_] | ["export", _]:
            pass
        case _:
            raise AssertionError(f"{block.page}: {words}")


RUNNABLE = {
    " ".join(words): words
    for _, words in COMMANDS
    if words[0] == "rna-watch" and words[1] not in ALONE and words != ONCE
    if not re.search("://|^sweeps", words[-1])  # neither is here
}


@pytest.mark.parametrize("words", RUNNABLE.values(), ids=RUNNABLE)
def test_every_command_that_ends_by_itself_is_run(words: list[str], folder: Path) -> None:
    """On a run that is done: it ends with 0, or has nothing to do (3)."""
    with chdir(folder):
        given = [path for word in words[1:] for path in (sorted(glob.glob(word)) or [word])]
    done = rna_watch(*given, *MORE.get(given[0], ()), cwd=folder)
    assert done.returncode in {0, 3}, done.stderr
    assert done.stdout or done.stderr


@pytest.mark.slow
def test_the_readmes_commands_work_one_after_the_other(tmp_path: Path, folder: Path) -> None:
    """The whole block in a shell: a daemon in the background, a look at it, its end, and the rest of the run."""
    train(tmp_path / "RUN_DIR", count=6)
    shutil.copy(folder / "eval.py", tmp_path)
    [block] = [each for each in BLOCKS if each.page == "README.md" and "rna-watch stop" in each.text]
    lines = re.sub("rna-watch (start|once)", r"rna-watch \1 --engine local", block.text)
    lines = lines.replace("dashboard RUN_DIR", "dashboard RUN_DIR --once")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    given = ["bash", "-c", PROGRAM + lines]
    done = subprocess.run(
        given, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"state": ' in done.stdout
    assert "stopped watching" in done.stdout
    assert (tmp_path / "RUN_DIR/rna/latest").exists()
    assert (tmp_path / "RUN_DIR-report.html").exists()


def _evaluator(block: Block) -> None:
    """An evaluator returns metrics of a state dict."""
    model = nn.Linear(4, 3)
    data = {"network": model, "model": model, "inputs": torch.randn(8, 4), "labels": torch.randint(0, 3, (8,))}
    text = re.sub(r"^network, inputs, labels = .*$", "", block.text, flags=re.MULTILINE)
    space: dict[str, Any] = {"torch": torch, **data}
    exec(text, space)
    metrics = space["evaluate"](nn.Linear(4, 3).state_dict(), torch.device("cpu"))
    assert metrics
    for value in metrics.values():
        assert value is ... or torch.as_tensor(value).shape in {(), (8,)}


def _listing(block: Block) -> None:
    """The form in the loop, for one epoch of a small training; the whole program is the same."""
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    space: dict[str, Any] = {
        "torch": torch,
        "x": x,
        "y": y,
        "network": nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        "augmented": lambda images: images,
        "cross_entropy": nn.functional.cross_entropy,
        "error": lambda network: (network.eval()(x).argmax(1) != y).double().mean().item(),
    }
    exec(block.text.replace("range(1, 11)", "range(1, 3)"), space)
    assert space["epoch"] == 2
    whole = (ROOT / "tests/training/listing2.py").read_text()
    assert block.text.partition("\n\n")[2] in whole


def _recorder(block: Block, tmp_path: Path) -> None:
    """Both files are there, the gradient's first."""
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    path = tmp_path / "a.pt"
    space = {
        "torch": torch,
        "GradientRecorder": GradientRecorder,
        "network": network,
        "optimizer": optimizer,
        "path": path,
        "state": {"model": network.state_dict()},
    }
    first, _, others = block.text.partition("\n")
    exec(first, space)
    for _ in range(2):
        network(torch.randn(4, 1, 4, 4)).sum().backward()
        optimizer.step()
    exec(others, space)
    assert path.exists()
    assert path.with_name("a.pt.gradient").exists()


def _python(block: Block, tmp_path: Path) -> None:
    """The Python API and the helper for loops, in a folder with a run and a network."""
    done = block.run == "open_run"
    if block.run != "loop":
        train(tmp_path / ("RUN_DIR" if block.run != "watch" else "RUN"), count=5)
    if done:
        assert rna_watch("once", "RUN_DIR", "--engine", "local", cwd=tmp_path).returncode == 0
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def train_one_epoch() -> None:
        network(torch.randn(4, 1, 4, 4)).sum().backward()
        optimizer.step()
        (tmp_path / "RUN_DIR").mkdir(exist_ok=True)

    space = {
        "network": network,
        "optimizer": optimizer,
        "paths": sorted((tmp_path / "RUN_DIR").glob("*")),
        "train": lambda: (tmp_path / "RUN").rename(tmp_path / "RUN_DIR"),
        "train_one_epoch": train_one_epoch,
    }
    with chdir(tmp_path), mock.patch("builtins.print"):
        exec(block.text, space)
    if block.run == "loop":
        assert len(list((tmp_path / "RUN_DIR").glob("*.gradient"))) == 3


API = {"extrapolate", "open_run", "watch", "loop"}
RUNS: dict[str, Callable[..., None]] = {
    "evaluator": _evaluator,
    "listing": _listing,
    "recorder": _recorder,
    **dict.fromkeys(API, _python),
}


@pytest.mark.parametrize("block", PARTS_OF_FILES, ids=lambda block: f"{block.page}-{block.file}")
def test_a_part_of_a_file_is_found_there(block: Block) -> None:
    """Every line to the letter; tests run the file."""
    text = (ROOT / block.file).read_text()
    for line in block.text.splitlines():
        assert line in text


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}-{block.run}")
def test_every_block_of_python_is_run(block: Block, tmp_path: Path) -> None:
    """As its mark says."""
    if block.run in API | {"recorder"}:
        RUNS[block.run](block, tmp_path)
    else:
        with mock.patch("builtins.print"):
            RUNS[block.run](block)
