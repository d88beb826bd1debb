"""A daemon beside a real trainer, and checks of the folders that it gives back."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from tests.daemon.runs import events, start_foreground, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
# a torchvision built for another torch breaks the import of transformers, and nothing here needs it
_START = "import runpy, sys; sys.modules['torchvision'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
STATE = (
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "random_states*",
    "scaler*",
    "trainer_state.json",
    "training_args.bin",
)
QUICK = ("--engine", "inline", "--workers", 1, "--quiet", 0.2, "--scan-interval", 0.2, "--keep", 20)


def command(script: str, folder: Path, *flags: str, **options: object) -> list[str]:
    """The command line of a trainer in this folder."""
    given = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    return [sys.executable, "-c", _START, str(HERE / script), str(folder), *given, *(f"--{flag}" for flag in flags)]


def run(script: str, folder: Path, *flags: str, **options: object) -> list[str]:
    """Run a trainer to its end; returns the checkpoints that it announced."""
    return announced(start(script, folder, *flags, **options))


def start(script: str, folder: Path, *flags: str, **options: object) -> subprocess.Popen[str]:
    """Start a trainer."""
    return subprocess.Popen(
        command(script, folder, *flags, **options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def announced(trainer: subprocess.Popen[str]) -> list[str]:
    """The checkpoints that a trainer announced until its end, which must be a good one."""
    output, errors = trainer.communicate(timeout=120)
    assert trainer.returncode == 0, errors
    return [line.removeprefix("saved ") for line in output.splitlines() if line.startswith("saved ")]


@contextmanager
def watching(folder: Path, *arguments: object, output: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A daemon that watches a run directory from now on."""
    where = ("--output", output) if output else ()
    daemon = start_foreground(folder, *QUICK, *where, *arguments)
    try:
        wait_until(lambda: daemon.poll() is not None or bool(events(folder, "started", output)))
        assert daemon.poll() is None
        yield daemon
    finally:
        daemon.terminate()
        said, _ = daemon.communicate(timeout=20)
    assert daemon.returncode == 0, said


def done(folder: Path, output: Path | None = None) -> list[str]:
    """Checkpoints that are through, in the order in which they came through, as often as that was recorded."""
    found = [event for kind in ("finished", "published") for event in events(folder, kind, output)]
    return [event.checkpoint for event in sorted(found, key=lambda event: event.seq)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """A model's tensors, out of all weight files of its folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    for file in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(file, weights_only=True)
    return found


def check_folder(model: Path, originals: Path) -> None:
    """A folder that was given back is its manifest's combination of the originals, file by file, without training state.

    Args:
        model: the published folder.
        originals: where the inputs lie, under the paths that the manifest gives.
    """
    manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
    inputs = [originals / each["path"] for each in manifest["inputs"]]
    check_combination(model, inputs, manifest["weights"])
    newest = inputs[-1]
    names = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    state = {str(file.relative_to(newest)) for pattern in STATE for file in newest.glob(pattern)}
    assert names == {str(file.relative_to(newest)) for file in newest.rglob("*") if file.is_file()} - state
    weights = {name for name in names if name.endswith((".safetensors", ".bin"))}
    assert weights
    for name in names - weights:
        assert (model / name).read_bytes() == (newest / name).read_bytes(), name


def check_combination(model: Path, inputs: Sequence[Path], weights: Sequence[float]) -> None:
    """A folder's tensors are the weighted sum of others', computed in float64."""
    assert abs(sum(weights) - 1) < 1e-12
    stored = [tensors(folder) for folder in inputs]
    result = tensors(model)
    assert result.keys() == stored[-1].keys()
    for name, tensor in result.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, stored[-1][name]), name
            continue
        twin = sum(w * each[name].double() for w, each in zip(weights, stored, strict=True))
        tolerance = torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12
        assert ((tensor.double() - twin).abs() <= tolerance).all(), name


def listing(folder: Path) -> list[str]:
    """All that a trainer left in its folder."""
    ours = {folder / "rna", folder / ".rna-watch"}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not ours & {path, *path.parents})


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two files of tensors hold the same bits."""
    a, b = (torch.load(file, weights_only=True) for file in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
