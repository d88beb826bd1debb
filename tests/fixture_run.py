"""Small runs in many formats through the commands, and what they published: two commits that agree print the same.

    python -m tests.fixture_run [--engine inline|ray]... [--only NAME]... [-o FILE]
    python -m tests.fixture_run --compare FILE FILE

Everything is seeded, and checkpoints get fixed times. Printed is, for each run, the digest of every published file, where the
links point, and every manifest without what differs from one run to the next (fingerprints, versions).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.distributed.checkpoint import FileSystemWriter

from tests.checkpoints import writers
from tests.checkpoints.forms import FORMS
from tests.fixture_evaluator import limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
COUNT = 5
ENGINES = ("inline", "ray")
RUN = "run"  # the run directory of all forms
TRAINED = "a trained network"
EVALUATOR = ("--evaluator", f"{ROOT}/tests/fixture_evaluator.py:evaluate")
OFFERING = ("--evaluator", f"{ROOT}/tests/daemon/offering.py:evaluate")
COMMAND = ("--evaluate-command", f"{sys.executable} {ROOT}/tests/fixture_checksum.py {{checkpoint}}", "--mode", "max")
RICH = (
    *("--window", "4", "--windows", "2,4", "--regularizations", "1e-8,1e-3", "--max-candidates", "12"),
    *("--priors", "uniform,ema,last", "--mixings", "1,0.5", "--first-round", "0.5", "--export", "safetensors"),
    *("--methods", "average,ema,decay,cumulative,rna,simplex,capped,trained,soup,line"),
)

# the ways to write a model that are run, and the dtype of its numbers
RUNS = {
    "torch zip, bare": torch.float32,
    "torch zip, with company": torch.float64,
    "torch zip, parameters": torch.float16,
    "torch zip, DistributedDataParallel": torch.bfloat16,
    "torch zip, module object": torch.float32,
    "torch zip, without checksums": torch.float32,
    "torch legacy, state_dict": torch.float32,
    "torch legacy, module object": torch.float16,
    "Lightning": torch.float32,
    "timm": torch.float32,
    "safetensors": torch.bfloat16,
    "Hugging Face": torch.bfloat16,
    "Hugging Face, shards": torch.float32,
    "Hugging Face, shards of torch": torch.float16,
    "PEFT": torch.float32,
    "Accelerate": torch.float32,
    "DCP, whole": torch.float64,
    "DCP, columns": torch.float32,
    "Accelerate, sharded": torch.bfloat16,
    "DeepSpeed without ZeRO": torch.bfloat16,
    "DeepSpeed ZeRO-1": torch.float32,
    "DeepSpeed ZeRO-3": torch.float32,
}
# the forms that `extrapolate` combines, and its settings
EXTRAPOLATED = {
    "Lightning": ("--optimizer-state", "drop"),
    "torch legacy, state_dict": ("--method", "average", "--window", "3"),
    "Hugging Face, shards": ("--method", "ema", "--export", "safetensors"),
    "DCP, columns": ("--method", "capped", "--priors", "ema"),
    "DeepSpeed ZeRO-3": ("--method", "simplex", "--mixings", "0.5"),
}
ABSENT = "(absent)"
# keys of a manifest that differ from one run to the next, or from one commit to the next without meaning anything
VOLATILE = {"fingerprint", "versions"}


def folder_of(name: str) -> str:
    """A form's folder in the common run, without digits: names that differ in numbers only are one sequence."""
    return re.sub(r"\W+", "_", name).translate(dict(zip(map(ord, string.digits), string.ascii_lowercase, strict=False)))


def checkpoint(name: str, step: int) -> dict[str, torch.Tensor]:
    """A form's model at a step on its way to the limit: three directions that shrink at different rates, and noise."""
    dtype, seed = RUNS[name], zlib.crc32(name.encode()) % 10_000 * 100  # equal models would be one checkpoint
    tensors = writers.model(step, dtype, writers.Larger)
    ways = [writers.model(seed + number, torch.float64, writers.Larger) for number in range(3)]
    for key, noise in tensors.items():
        if noise.is_floating_point():
            way = sum(rate**step * each[key] for rate, each in zip((0.9, 0.7, -0.5), ways, strict=True))
            values = limit(key, noise.shape) + way + 0.02 * noise.double()
            tensors[key] = (values.abs() if key.endswith("running_var") else values).to(dtype)
    return tensors


def write(root: Path, name: str, count: int = COUNT) -> None:
    """Write the checkpoints of a form into the common run, with fixed times and nothing that differs from run to run."""
    form = FORMS[name]
    folder = root / RUN / folder_of(name)
    folder.mkdir(parents=True)
    # torch.distributed writes the path that it was given into a checkpoint
    with contextlib.chdir(folder):
        for step in range(1, count + 1):
            path = Path(form.path.format(step))
            with _nothing_random():
                torch.manual_seed(step)
                form.write(path, checkpoint(name, step), step)
            _sort_header(path)
            _fix_times(path, step)


@contextlib.contextmanager
def _nothing_random() -> Iterator[None]:
    """Torch writes numbers for random names and addresses, and its threads' results in one order, while this lasts."""
    numbers: dict[int, int] = {}
    address = torch._C.StorageBase._cdata

    def number(storage: torch.UntypedStorage) -> int:
        return numbers.setdefault(address.__get__(storage), 10**14 + len(numbers))

    finish = FileSystemWriter.finish

    def in_order(writer: FileSystemWriter, metadata: Any, results: list[list[Any]]) -> None:
        finish(writer, metadata, [sorted(each, key=lambda result: str(result.index)) for each in results])

    with (
        warnings.catch_warnings(),
        mock.patch("torch.distributed.checkpoint.filesystem._generate_uuid", return_value="0"),
        mock.patch.object(FileSystemWriter, "finish", in_order),
        mock.patch.object(torch.UntypedStorage, "_cdata", property(number), create=True),
    ):
        warnings.simplefilter("ignore")  # torch says that it saves without other ranks
        yield


def _sort_header(path: Path) -> None:
    """Sort the metadata in a safetensors file, which the library writes in a random order."""
    if path.suffix == ".safetensors":
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
        path.write_bytes(content[:8] + text + content[end:])


def train(folder: Path, count: int = 6) -> None:
    """Train the tests' network, in a child process, with SGD's state in every checkpoint."""
    _run(sys.executable, f"{ROOT}/tests/daemon/trainer.py", str(folder), "--count", str(count))
    for step in range(1, count + 1):
        _fix_times(folder / f"step_{step}.pt", step)


def _fix_times(path: Path, step: int) -> None:
    times_ns = (1_700_000_000 + 60 * step) * 10**9
    for each in [*sorted(path.rglob("*"), reverse=True), path]:  # a folder after what lies in it
        os.utime(each, ns=(times_ns, times_ns))


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300, check=False)


def _rna_watch(*arguments: str, cwd: Path) -> None:
    """Run a command to its end, which must be a success."""
    done = _run(sys.executable, "-m", "rna_watch", *arguments, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"rna-watch {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def published(folder: Path) -> dict[str, Any]:
    """What lies in an output tree: digests of files, targets of links, contents of manifests, by their paths in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            manifest = _manifest(path)
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if manifest is None else manifest
    return found


def _manifest(path: Path) -> Any:
    """The lasting part of a manifest; nothing for another file."""
    if path.suffix != ".json":
        return None
    content = json.loads(path.read_text())
    return _lasting(content, path.parent) if isinstance(content, dict) and "inputs" in content else None


def _lasting(value: Any, folder: Path) -> Any:
    """A manifest's value without volatile keys, and without the folder in which the fixture lies."""
    if isinstance(value, dict):
        return {key: _lasting(each, folder) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_lasting(each, folder) for each in value]
    return re.sub(r"(/[^/\s]+)*/fixture-\w+/", "", value) if isinstance(value, str) else value


def _once(root: Path, run: str, title: str, *settings: str) -> tuple[str, dict[str, Any]]:
    """`once` on a copy of a run: pins are links, which another command on the same files would see."""
    copy = root / "copies" / folder_of(title)
    shutil.copytree(root / run, copy)
    _rna_watch("once", str(copy), "--keep", "100", *settings, cwd=root)
    return title, published(copy / "rna")


def _extrapolate(root: Path, form: str, *settings: str) -> tuple[str, dict[str, Any]]:
    """`extrapolate` on the checkpoints of a form."""
    inputs = sorted(path for path in (root / RUN / folder_of(form)).iterdir() if not path.name.startswith("."))
    title = " ".join(["extrapolate", form, *settings])
    output = root / "outputs" / folder_of(title)
    output.mkdir(parents=True)
    _rna_watch("extrapolate", *map(str, inputs), "-o", str(output / inputs[-1].name), *settings, cwd=root)
    return title, published(output)


def _patterns(forms: Sequence[str]) -> str:
    """What matches the checkpoints of these forms in the common run, and no others."""
    return ",".join(f"{folder_of(name)}/" + re.sub(r"{[^}]*}", "*", FORMS[name].path) for name in forms)


def _calls(names: Sequence[str], engine: str) -> Iterator[tuple[Any, ...]]:
    """Functions and arguments of the runs of an engine: all forms in one run directory, then the trained network."""
    forms = [name for name in names if name != TRAINED]
    here = ("--engine", engine)
    # Ray takes seconds for what takes a tenth in this machine's own processes: there each form is run once
    halves = (forms, forms) if engine == "inline" or len(forms) == 1 else (forms[::2], forms[1::2])
    for title, settings, some in zip(("not evaluated", "evaluated"), ((), EVALUATOR), halves, strict=True):
        if some:
            yield _once, RUN, f"{engine}: {title}", *here, "--patterns", _patterns(some), *settings
    if TRAINED in names:
        yield _once, "trained", f"{engine}: a trained network, rich", *here, *RICH, *OFFERING
    if TRAINED in names and engine == "inline":
        yield _once, "trained", f"{engine}: a trained network, both ways", *here, "--normalization", "both", *OFFERING
        yield _once, "trained", f"{engine}: a trained network, by command", *here, *COMMAND
    for form, settings in EXTRAPOLATED.items():
        if form in forms and engine == "inline":
            yield _extrapolate, form, *settings


def fixture(engines: Sequence[str] = ENGINES, names: Sequence[str] = ()) -> dict[str, Any]:
    """Run the commands on the forms of these names (all if none); what each command published."""
    names = names or [*RUNS, TRAINED]
    with tempfile.TemporaryDirectory(prefix="fixture-") as folder:
        root = Path(folder)
        for name in names:
            if name == TRAINED:
                train(root / "trained")
            else:
                write(root, name)
        found = {}
        for engine in engines:
            with ThreadPoolExecutor(2 if engine == "inline" else 1) as pool:
                calls = [pool.submit(call, root, *arguments) for call, *arguments in _calls(names, engine)]
                found |= dict(call.result() for call in calls)
        return found


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """A line for each value that differs, or that only one of them has."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key, ABSENT), other.get(key, ABSENT), f"{place}/{key}" if place else key)
    elif one != other:
        yield f"{place}: {_short(one)} | {_short(other)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the fixture run publishes, or how two of its outputs differ; the exit code is 1 if they do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="engines to run with; both if not given")
    parser.add_argument("--only", action="append", choices=[*RUNS, TRAINED], help="forms to run; all if not given")
    parser.add_argument("-o", "--out", type=Path, help="the file to write instead of standard output")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="print how two outputs differ")
    given = parser.parse_args(arguments)
    if given.compare:
        lines = list(differences(*(json.loads(path.read_text()) for path in given.compare)))
        print("\n".join(lines) if lines else "they agree")
        return 1 if lines else 0
    text = json.dumps(fixture(given.engine or ENGINES, given.only or ()), indent=1, sort_keys=True)
    if given.out:
        given.out.write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
