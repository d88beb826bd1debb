"""A run watched from before its first checkpoint, private copies of all that was saved, and checks against them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.formats.probe import probe
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import FileIdentity, identify_any
from rna_watch.layout.open_file import OpenFile
from tests.daemon.runs import events, published, start_foreground, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
LIMIT_S = 120.0
QUICK = ("--engine", "local", "--workers", 1, "--quiet", 0.2, "--scan-interval", 0.2, "--keep", 99)
DONE = ("published", "finished")
# a torchvision built for another torch breaks the import of transformers, and nothing here needs it
_TRANSFORMERS = ("hf_trainer", "accelerate_trainer")
_WITHOUT_TORCHVISION = (
    "import runpy, sys; sys.modules['torchvision'] = None; del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run directory that the trainer makes, and the private copies next to it."""

    folder: Path
    copies: Path

    @classmethod
    def below(cls, path: Path) -> Run:
        """Both folders, new."""
        run = cls(folder=path / "run", copies=path / "copies")
        run.folder.mkdir()
        run.copies.mkdir()
        return run

    def saved(self) -> dict[str, Path]:
        """A private copy of everything that was saved, by fingerprint, in order."""
        return {probe(str(copy)).fingerprint: copy for copy in sorted(self.copies.iterdir())}

    def models(self) -> dict[str, set[str]]:
        """The fingerprints of the private copies by step and model within: files may differ in everything else."""
        found: dict[str, set[str]] = {}
        for copy in sorted(self.copies.iterdir()):
            digest, fingerprint = _digests(identify_any(str(copy)))
            found.setdefault(digest, set()).add(fingerprint)
        return found

    def worked_off(self) -> set[str]:
        """Checkpoints that are through."""
        return {event.checkpoint for kind in DONE for event in events(self.folder, kind)}

    def settled(self) -> bool:
        """Whether every save was taken, under one of its names, and all that was taken is worked off."""
        admitted = events(self.folder, "admitted")
        taken = {event.fingerprint for event in admitted}
        done = self.worked_off() | {event.checkpoint for event in events(self.folder, "skipped")}
        return all(taken & group for group in self.models().values()) and {e.checkpoint for e in admitted} <= done


@functools.cache  # it is asked for again and again while a run is waited for
def _digests(copy: FileIdentity) -> tuple[str, str]:
    """A digest of a copy's step and model, and its fingerprint."""
    layout = probe(copy.path)
    digest = hashlib.sha256(repr(sorted(layout.counters.items())).encode())
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(OpenFile(file.path)) for file in layout.files]
        for extent in layout.extents:
            for chunk in extent.chunks:
                size = chunk.count * DTYPES[extent.dtype].itemsize
                digest.update(files[chunk.file].read(chunk.offset_bytes, size))
    return digest.hexdigest(), layout.fingerprint


@contextlib.contextmanager
def watched(
    run: Path, *arguments: object, output: Path | None = None, report_after_s: float | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A daemon that watches a folder from now on; it must end well."""
    where = ("--output", output) if output else ()
    before = len(events(run, "started", output))
    daemon = start_foreground(run, *QUICK, *where, *arguments, report_after_s=report_after_s)
    try:
        wait_until(lambda: daemon.poll() is not None or len(events(run, "started", output)) > before)
        assert daemon.poll() is None, daemon.communicate()[0]
        yield daemon
        assert daemon.poll() is None, daemon.communicate()[0]
        daemon.terminate()
        output, _ = daemon.communicate(timeout=20)
        assert daemon.returncode == 0, output
    finally:
        daemon.kill()
        daemon.communicate()


def script(name: str, *arguments: object, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """Run a trainer to its end; returns what it announced, a JSON object a line."""
    start = ["-c", _WITHOUT_TORCHVISION] if name in _TRANSFORMERS else []
    command = [sys.executable, *start, str(HERE / f"{name}.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"')]


def tensors_of(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The tensors under one key of a file that this test wrote."""
    content = torch.load(path, weights_only=False)
    for part in key.split(".") if key else ():
        content = content[part]
    return content.state_dict() if isinstance(content, torch.nn.Module) else content


def manifest_of(run: Run, name: str) -> dict[str, Any]:
    """What an output says of itself."""
    return json.loads((run.folder / "rna" / f"{name}.json").read_text())


def check_outputs(run: Run, key: str) -> list[str]:
    """Every published model is exactly its manifest's combination of private copies, each once and in order; their names."""
    names = published(run.folder)
    for name in names:
        manifest = manifest_of(run, name)
        assert manifest["source"] == key
        steps = [each["step"] for each in manifest["inputs"]]
        assert steps == sorted(set(steps))
        check_is_combination(run.folder / "rna" / name, run, name, key)
    return names


def check_is_combination(model: Path, run: Run, name: str, key: str, *, source: str | None = None) -> None:
    """A model's tensors are what an output's manifest says: weighted sums of the private copies, integers the newest's."""
    manifest = manifest_of(run, name)
    assert abs(sum(manifest["weights"]) - 1) < 1e-9
    copies = run.saved()
    inputs = [tensors_of(copies[each["fingerprint"]], key if source is None else source) for each in manifest["inputs"]]
    result = tensors_of(model, key)
    assert result.keys() == inputs[-1].keys()
    for tensor_name, tensor in result.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, inputs[-1][tensor_name]), tensor_name
            continue
        terms = [w * each[tensor_name].double() for w, each in zip(manifest["weights"], inputs, strict=True)]
        twin = torch.stack(terms).sum(0)
        if tensor_name.endswith("running_var"):
            twin = twin.clamp(min=0)
        tolerance = torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12
        assert ((tensor.double() - twin).abs() <= tolerance).all(), tensor_name


def check_each_once(run: Run) -> None:
    """Nothing was taken twice, whatever its names, and every admitted checkpoint was worked off once."""
    admitted = events(run.folder, "admitted")
    assert max(Counter(event.checkpoint for event in admitted).values()) == 1
    done = Counter(event.checkpoint for kind in DONE for event in events(run.folder, kind))
    assert max(done.values()) == 1
    taken = [event.fingerprint for event in admitted]
    assert set(taken) <= run.saved().keys()
    assert all(sum(each in group for each in taken) <= 1 for group in run.models().values())


def listing(folder: Path) -> list[str]:
    """All names below a folder but ours."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(name for name in names if name.split("/")[0] not in {"rna", ".rna-watch"})
