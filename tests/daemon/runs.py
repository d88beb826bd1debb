"""Real runs for tests: commands in child processes, trainers, and looking at what they left."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.journal import log
from tests.daemon.trainer import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.events import Event
    from rna_watch.journal.replay import RunState

HERE = Path(__file__).parent
EVALUATOR = f"{HERE / 'evaluator.py'}:evaluate"
LIMIT_S = 60.0
_REPORTING_AFTER = """
from rna_watch.cli import main
from rna_watch.watching import readiness
readiness.LEAST_REPORT_S = {}
main()
"""


def rna_watch(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "rna_watch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT_S, cwd=cwd, check=False)


def start_foreground(*arguments: object, report_after_s: float | None = None) -> subprocess.Popen[str]:
    """A daemon in the foreground, as in a container.

    Args:
        arguments: of `start`.
        report_after_s: when it reports an incomplete file, before it has seen how long one takes to be written.
    """
    begin = ["-m", "rna_watch"] if report_after_s is None else ["-c", _REPORTING_AFTER.format(report_after_s)]
    command = [sys.executable, *begin, "start", *map(str, arguments), "--foreground"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the trainer to its end."""
    return subprocess.run(trainer_command(folder, **options), capture_output=True, text=True, check=True)


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
