"""What is tortured: a small run, the command that processes it, and what must hold of the disk afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch import cli
from rna_watch.daemon import shared, watcher, worker
from rna_watch.journal import log
from rna_watch.publishing.verification import Verdict
from rna_watch.watching import readiness

if TYPE_CHECKING:
    from collections.abc import Callable

_PAST_S = 3600.0
_LIMIT_S = 120.0
_MOST_RUNS = 3
_TICK_S = 0.02
_PLACE_S = 3.0  # how long what cannot be read keeps its place
_RETRY_S = 1.0
_SAVING_S = 0.15  # between two checkpoints of a living run
_PATIENCE_S = 3.0  # from the last of them to the end of the training, if its model does not come before
_SIZES = {"body.weight": (16, 24), "body.bias": (16,), "head.weight": (4, 16)}
# a number that depends on every byte of the model
_JUDGE = "printf '{\"loss\": 0.%s}' $(cksum < {checkpoint} | cut -c1-4)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A run and how it is processed.

    Attributes:
        name: its name.
        folders: whether its checkpoints are folders with safetensors in them.
        options: of `once`, and of `start` for a living run.
        live: whether `start --foreground` is disturbed while a trainer writes the checkpoints; else `once` is.
    """

    name: str
    folders: bool = False
    options: tuple[str, ...] = ()
    live: bool = False

    @property
    def on_this_machine(self) -> Scenario:
        """The same without Ray, which gives the same bits and begins at once."""
        return replace(self, options=tuple("local" if each == "ray" else each for each in self.options))

    @property
    def ray(self) -> bool:
        """Whether its work runs on Ray."""
        return "ray" in self.options


_COMMON = ("--window", "3", "--keep", "2")
SCENARIOS = {
    each.name: each
    for each in (
        Scenario(name="files", options=(*_COMMON, "--engine", "local")),
        Scenario(name="folders", folders=True, options=(*_COMMON, "--engine", "local")),
        Scenario(name="exports", options=(*_COMMON, "--engine", "local", "--export", "safetensors", "--pin", "copy")),
        Scenario(
            name="command",
            options=(*_COMMON, "--engine", "local", "--max-candidates", "2", "--evaluate-command", _JUDGE),
        ),
        Scenario(name="live", options=(*_COMMON, "--engine", "local"), live=True),
        Scenario(name="ray", options=(*_COMMON, "--engine", "ray", "--workers", "1")),
    )
}


def write_run(folder: Path, scenario: Scenario, count: int = 5) -> None:
    """Write a run of small checkpoints that lie still for an hour."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in _SIZES.items()}
    target = {name: torch.randn(shape, generator=generator) for name, shape in _SIZES.items()}
    folder.mkdir(parents=True)
    past = time.time() - _PAST_S
    for step in range(1, count + 1):
        for name, tensor in state.items():
            tensor.add_(0.3 * (target[name] - tensor) + 0.02 * torch.randn(tensor.shape, generator=generator))
        if scenario.folders:
            path = folder / f"checkpoint-{step}"
            path.mkdir()
            save_file(state, path / "model.safetensors", metadata={"format": "pt"})
            (path / "config.json").write_text("{}")
            (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        else:
            path = folder / f"step_{step}.pt"
            torch.save({"model": state, "step": step}, path)
        for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
            os.utime(each, (past + step, past + step))


def snapshot(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Content, mode and modification time of everything below a folder; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = ""
        found[str(path.relative_to(folder))] = (content, stat.st_mode, 0 if path.is_dir() else stat.st_mtime_ns)
    return found


def originals(run: Path) -> dict[str, tuple[str, int, int]]:
    """What the trainer wrote, as it is."""
    return {name: each for name, each in snapshot(run).items() if name.partition("/")[0] not in {"rna", ".rna-watch"}}


def models(run: Path) -> dict[str, str]:
    """The published models, plain copies and links by name: their content."""
    found = {}
    for name, (content, *_) in snapshot(run / "rna").items() if (run / "rna").is_dir() else ():
        if not name.endswith(".json") or "/" in name:
            found[name] = content
    return found


class Trainer:
    """Writes the checkpoints of a run, one after another, as others do by renaming; then it asks the daemon to end.

    Args:
        source: where the checkpoints are.
        run: where they are to be.
    """

    def __init__(self, source: Path, run: Path) -> None:
        self._run = run
        self._left = sorted(source.iterdir())
        self._last = run / "rna" / self._left[-1].name
        self._due = time.monotonic() + _SAVING_S
        self._asked = False

    def __call__(self, daemon: int) -> None:
        """Do what is due; called every few milliseconds with the daemon's process id."""
        now = time.monotonic()
        if self._left and now >= self._due:
            self._write(self._left.pop(0))
            self._due = now + _SAVING_S
        elif not self._left and not self._asked and (self._last.exists() or now >= self._due + _PATIENCE_S):
            os.kill(daemon, signal.SIGTERM)
            self._asked = True

    def finish(self) -> None:
        """Write what is left, without a daemon."""
        while self._left:
            self._write(self._left.pop(0))

    def _write(self, checkpoint: Path) -> None:
        hidden = self._run / f".{checkpoint.name}.writing"
        shutil.copy2(checkpoint, hidden)
        hidden.rename(self._run / checkpoint.name)


def forked(
    act: Callable[[], object],
    output: Path,
    limit_s: float = _LIMIT_S,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> int | None:
    """Run something in a forked child with its output in a file; its exit code, negative of a signal; None if it hung.

    Args:
        act: what to run.
        output: the file.
        limit_s: after which it counts as hung, and is killed.
        meanwhile: called every few milliseconds with its process id.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(target, 1)
            os.dup2(target, 2)
            result = act()
            code = result if isinstance(result, int) else 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:  # noqa: BLE001 - it is the child's end, and the parent reads it
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        meanwhile(pid)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def once(run: Path, scenario: Scenario) -> None:
    """Process a run, in this process, as the command does."""
    _command("once", str(run), *scenario.options)


def disturbed(run: Path, scenario: Scenario) -> None:
    """The command that faults are injected into."""
    if scenario.live:
        _command("start", str(run), "--foreground", "--quiet", "0.05", "--scan-interval", "0.1", *scenario.options)
    else:
        once(run, scenario)


def _command(*words: str) -> None:
    """A command in this process; its threads look at each other more often, and wait a shorter while for what fails."""
    for module in (shared, watcher, worker):
        module._TICK_S = _TICK_S
    watcher.KEPT_PLACE_S = readiness.KEPT_PLACE_S = _PLACE_S
    readiness._LAST_RETRY_S = _RETRY_S
    sys.argv = ["rna-watch", *words]
    cli.main()


def verdicts(run: Path) -> dict[str, Verdict]:
    """What `verify` says of every model of a run."""
    from rna_watch.commands.verify import verify_all
    from rna_watch.errors import NothingToDo

    try:
        return {each.output: each.verdict for each in verify_all([run])}
    except NothingToDo:
        return {}


def left_over(run: Path) -> list[str]:
    """What a daemon that ended should not have left: temporary files, scratch, models without a manifest or the reverse."""
    found = [str(path.relative_to(run)) for path in run.rglob(".rna-watch-*")]
    scratch = run / ".rna-watch" / "scratch"
    if scratch.is_dir():
        found += [str(path.relative_to(run)) for path in scratch.iterdir()]
    tree = run / "rna"
    for path in tree.iterdir() if tree.is_dir() else ():
        if path.suffix == ".json" and not path.with_suffix("").exists():
            found.append(f"{path.name} without its model")
        elif path.is_symlink() and not path.exists():
            found.append(f"{path.name} names nothing")
    return found


def journal_problems(run: Path) -> list[str]:
    """What is wrong with the journal: numbers that do not rise, a model recorded as made under two names."""
    events: list[Any] = list(log.read(run / ".rna-watch" / "journal.jsonl"))
    numbers = [event.seq for event in events]
    found = []
    if any(b <= a for a, b in pairwise(numbers)):
        found.append("the journal's numbers do not rise")
    made: dict[str, set[str]] = {}
    for event in events:
        if event.kind == "published":
            made.setdefault(event.checkpoint, set()).add(event.output)
    found += [
        f"{name} was published as {' and '.join(sorted(names))}" for name, names in made.items() if len(names) > 1
    ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A scenario made ready: its template and what an undisturbed run of it gives.

    Attributes:
        scenario: the scenario.
        template: the run before anything was done.
        canary: a folder that must stay as it is.
        expected: models by name, after an undisturbed run.
        folder: where the points lie.
    """

    scenario: Scenario
    template: Path
    canary: Path
    expected: dict[str, str]
    folder: Path

    def fresh(self, name: str) -> Path:
        """A copy of the template; hard links, modes and times are as there."""
        run = self._place(name)
        shutil.copytree(self.template, run, symlinks=True)
        return run

    def begun(self, name: str) -> tuple[Path, Trainer | None]:
        """What a disturbed command finds: a copy of the template, or an empty run and its trainer."""
        if not self.scenario.live:
            return self.fresh(name), None
        run = self._place(name)
        run.mkdir()
        return run, Trainer(self.template, run)

    def _place(self, name: str) -> Path:
        run = self.folder / name / "run"
        shutil.rmtree(run.parent, ignore_errors=True)
        run.parent.mkdir(parents=True)
        return run


def prepare(folder: Path, scenario: Scenario) -> Bench:
    """Write a run, process a copy of it undisturbed, and keep what came out."""
    template, canary = folder / f"{scenario.name}-template", folder / "canary"
    if forked(lambda: write_run(template, scenario), folder / "output") != 0:
        raise AssertionError((folder / "output").read_text())
    canary.mkdir(exist_ok=True)
    (canary / "step_1.pt").write_bytes(b"somebody's")
    bench = Bench(scenario=scenario, template=template, canary=canary, expected={}, folder=folder)
    run = bench.fresh("reference")
    output = run.parent / "output"
    if forked(lambda: once(run, scenario), output) != 0:
        raise AssertionError(output.read_text())
    problems = [
        *left_over(run),
        *journal_problems(run),
        *(f"{k}: {v}" for k, v in verdicts(run).items() if v != "verified"),
    ]
    if problems or not models(run):
        raise AssertionError("; ".join(problems) or output.read_text())
    return Bench(scenario=scenario, template=template, canary=canary, expected=models(run), folder=folder)


def problems_after(run: Path, before: dict[str, tuple[str, int, int]]) -> list[str]:
    """What does not hold right after a fault: foreign bytes, torn models, tracebacks."""
    found = []
    if originals(run) != before:
        changed = {n for n in before.keys() | originals(run).keys() if before.get(n) != originals(run).get(n)}
        found.append(f"the trainer's files changed: {', '.join(sorted(changed))}")
    found += [
        f"{name} {verdict}" for name, verdict in verdicts(run).items() if verdict is Verdict.DIFFERS and exists(name)
    ]
    return found + problems_of_words(run)


def problems_of_words(run: Path) -> list[str]:
    """Tracebacks, in what was printed and in the log."""
    found = []
    for path in (run.parent / "output", run / ".rna-watch" / "log"):
        if path.exists() and "Traceback" in (text := path.read_text(errors="replace")):
            lines = text.rpartition("Traceback")[2].splitlines()[1:]
            found.append(f"a traceback in {path.name}: {next((each for each in lines if each[:1] != ' '), lines[-1])}")
    return found


def exists(model: str) -> bool:
    """Whether a model is there: its manifest comes first, and one alone is harmless."""
    return Path(model).exists()


def problems_in_the_end(bench: Bench, run: Path) -> list[str]:
    """What does not hold after undisturbed commands have gone on: models lost or other ones, rubbish, tracebacks."""
    before = originals(run)
    output = run.parent / "output"
    code: int | None = 0
    for _ in range(_MOST_RUNS):
        code = forked(lambda: once(run, bench.scenario.on_this_machine), output)
        if code != 0:
            break
    found = [] if code == 3 else [f"it ended with {code} instead of 3 when all was done"]
    found += problems_of_words(run)
    if originals(run) != before:
        found.append("the trainer's files changed afterwards")
    now = models(run)
    if now != bench.expected:
        names = sorted(n for n in now.keys() | bench.expected.keys() if now.get(n) != bench.expected.get(n))
        found.append(f"these models are not as they would be: {', '.join(names)}")
    found += [f"{name} {verdict}" for name, verdict in verdicts(run).items() if verdict is not Verdict.VERIFIED]
    return found + left_over(run) + journal_problems(run)
