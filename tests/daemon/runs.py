"""Real runs for tests: commands, trainers, and looking at what they left."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from unittest import mock

import torch

from rna_watch import cli
from rna_watch.journal import log
from tests.daemon.trainer import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.journal.events import Event
    from rna_watch.journal.replay import RunState

HERE = Path(__file__).parent
EVALUATOR = f"{HERE / 'evaluator.py'}:evaluate"
LIMIT_S = 120.0  # the cores are shared with other work
_REPORTING_AFTER = """
from rna_watch.cli import main
from rna_watch.watching import readiness
readiness.LEAST_REPORT_S = {}
main()
"""


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own."""
    given = [sys.executable, "-m", "rna_watch", *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, timeout=2 * LIMIT_S, cwd=cwd, check=False)


def rna_watch(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: in this process, where it leaves nothing behind in it, else as `command` does.

    The program is the same; what it takes to start an interpreter and to load the libraries is saved.
    """
    given = [str(each) for each in arguments]
    if given[0] in _LEAVES_PROCESSES or (given[0] == "once" and not {"local", "inline"} & set(given)):
        return command(*arguments, cwd=cwd)
    said, told, code = io.StringIO(), io.StringIO(), 0
    with _as_a_process(given, said, told, cwd):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(given, code, said.getvalue(), told.getvalue())


_LEAVES_PROCESSES = {"start", "demo"}  # `start` a daemon whose parent must end, as ours does not


@contextlib.contextmanager
def _as_a_process(given: list[str], said: io.StringIO, told: io.StringIO, cwd: Path | None) -> Iterator[None]:
    """What a process would have of its own: arguments, streams, folder, priority, the log's handlers."""
    logger = logging.getLogger("rna_watch")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions
    try:
        with (
            mock.patch.object(sys, "argv", ["rna-watch", *given]),
            mock.patch("rna_watch.daemon.background.be_nice"),
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(told),
        ):
            yield
    finally:
        for handler in logger.handlers:
            if handler not in before[0]:
                handler.close()
        logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before


def start_foreground(
    *arguments: object, report_after_s: float | None = None, to: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """A daemon in the foreground, as in a container.

    Args:
        arguments: of `start`.
        report_after_s: when it reports an incomplete file, before it has seen how long one takes to be written.
        to: where its words go.
    """
    begin = ["-m", "rna_watch"] if report_after_s is None else ["-c", _REPORTING_AFTER.format(report_after_s)]
    command = [sys.executable, *begin, "start", *map(str, arguments), "--foreground"]
    return subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT, text=True)


def train(folder: Path, *, count: int = 8, first: int = 1, **options: object) -> None:
    """Train to the end; what is written without a pause is trained once a session, for each choice of options, and copied."""
    if options.keys() & {"pause", "keep", "in_place"} or first + count > _LONGEST + 1:
        given = trainer_command(folder, count=count, first=first, **options)
        subprocess.run(given, capture_output=True, check=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    trained = {int(re.sub(r"\D", "", path.stem)): path for path in _trained(tuple(sorted(options.items()))).iterdir()}
    for step in range(first, first + count):
        shutil.copyfile(trained[step], folder / trained[step].name)


_LONGEST = 12


@functools.cache
def _trained(options: tuple[tuple[str, object], ...]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rna-watch-trained-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(trainer_command(folder, count=_LONGEST, **dict(options)), capture_output=True, check=True)
    return folder


def trainer_command(folder: Path, **options: object) -> list[str]:
    """The trainer's command line; `True` stands for a flag."""
    command = [sys.executable, str(HERE / "trainer.py"), str(folder)]
    for key, value in options.items():
        command += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return command


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Poll until a condition holds; fails after the limit."""
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.05)


def events(run: Path, kind: str, output: Path | None = None) -> list[Any]:
    """The journal's events of one kind."""
    found: list[Event] = list(log.read((output or run) / ".rna-watch" / "journal.jsonl"))
    return [event for event in found if event.kind == kind]


def published(run: Path, output: Path | None = None) -> list[str]:
    """Names in the order in which they were published."""
    return [event.checkpoint for event in events(run, "published", output)]


def status(run: Path) -> dict[str, Any]:
    """`status --json`."""
    result = rna_watch("status", run, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def fingerprints(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and modification time of the trainer's files."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if file.is_file()
    }


def model_of(path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors, loaded as torch or safetensors does."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


def check_output(model: Path, originals: Path) -> None:
    """An output is exactly its manifest's combination, loads as the original does, ties and integers kept."""
    manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
    assert abs(sum(manifest["weights"]) - 1) < 1e-12
    inputs = [model_of(originals / each["path"]) for each in manifest["inputs"]]
    result = model_of(model)
    assert result.keys() == inputs[-1].keys()
    for name, tensor in result.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, inputs[-1][name]), name
            continue
        twin = sum(w * each[name].double() for w, each in zip(manifest["weights"], inputs, strict=True))
        if name.endswith("running_var"):
            assert (tensor >= 0).all()
            twin = twin.clamp(min=0)
        tolerance = torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12
        assert ((tensor.double() - twin).abs() <= tolerance).all(), name
    network = Network()
    if model.suffix == ".safetensors":
        from safetensors.torch import load_model

        load_model(network, str(model), strict=True)
        return
    network.load_state_dict(result, strict=True)
    first, second = result["first.weight"], result["second.weight"]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def check_journal_tells(state: RunState) -> None:
    """What is claimed to be better than the original is, on the choosing metric, strictly; and nothing else is."""
    assert state.metric is not None
    sign = 1.0 if state.metric.mode == "min" else -1.0
    for checkpoint in state.checkpoints.values():
        if checkpoint.chosen is None or checkpoint.chosen.better_than_original is None:
            continue
        original, chosen = (checkpoint.chosen.metrics[key] for key in ("original", "chosen"))
        assert original is not None
        assert chosen is not None
        gain = sign * (original[state.metric.metric] - chosen[state.metric.metric])
        assert checkpoint.chosen.better_than_original == (gain > 0)


def alive(pid: int) -> bool:
    """Whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
