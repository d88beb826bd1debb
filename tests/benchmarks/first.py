"""From `start` on a run of small checkpoints to its first model, without an evaluator and with one."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rna_watch.demo import train_digits
from tests.benchmarks.goals import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.options import Options

_CHECKPOINTS = 7
_LIMIT_S = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")
_EVALUATOR = """
def evaluate(state_dict, device):
    return {"loss": float(sum(each.double().square().sum() for each in state_dict.values() if each.is_floating_point()))}
"""
GOALS_S = {"no evaluator": 3.0, "an evaluator": 5.0}
# what a line's times count from: the command's begin
_EVENTS = {"started": "watches", "admitted": "first seen", "published": "first model"}


def environment(folder: Path) -> dict[str, str]:
    """That of a command whose modules are compiled, as those of an installed wheel are.

    Args:
        folder: where they lie.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def _trained(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    model = train_digits.network()
    for number in range(1, _CHECKPOINTS + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        torch.save({"model": model.state_dict(), "epoch": number}, run / f"epoch_{number:03d}.pt")


def measure(folder: Path, around: Mapping[str, str], *options: str) -> dict[str, float]:
    """Seconds from the begin of `start` to some events, to its return, and CPU seconds of all processes until then.

    Args:
        folder: where the run lies.
        around: the environment.
        options: of `start`.
    """
    run = folder / "first"
    _trained(run)
    command = [sys.executable, "-P", "-m", "rna_watch"]
    journal, begun = run / ".rna-watch" / "journal.jsonl", time.time()
    before = os.times()
    try:
        subprocess.run(
            [*command, "start", str(run), "--engine", "local", *options], check=True, capture_output=True, env=around
        )
        returned = time.time()
        while b'"published"' not in (journal.read_bytes() if journal.exists() else b""):
            if time.time() - begun > _LIMIT_S:
                raise RuntimeError(f"no model was published within {_LIMIT_S:.0f} seconds")
            time.sleep(0.01)
        after = os.times()
        pid = json.loads((run / ".rna-watch" / "heartbeat.json").read_bytes())["pid"]
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        cpu_s += sum(_cpu_s(each) for each in (pid, *_children(pid)))
    finally:
        subprocess.run([*command, "stop", str(run)], check=False, capture_output=True, env=around)
    times: dict[str, float] = {}
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        if event["kind"] in _EVENTS:
            times.setdefault(_EVENTS[event["kind"]], event["time"] - begun)
    return times | {"returned": returned - begun, "CPU s": cpu_s}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / _TICKS


def _children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def show(options: Options) -> None:
    """Print the medians of the rounds, and judge when the first model is there."""
    torch.manual_seed(0)
    options.folder.mkdir(parents=True, exist_ok=True)
    evaluator = options.folder / "first_evaluator.py"
    evaluator.write_text(_EVALUATOR)
    cases: dict[str, tuple[str, ...]] = {"no evaluator": ()}
    if not options.small:  # it imports torch, which takes longer than all else
        cases["an evaluator"] = ("--evaluator", f"{evaluator}:evaluate")
    around = os.environ if options.small else environment(options.folder)
    if not options.small:
        measure(options.folder, around, *list(cases.values())[-1])  # modules are compiled, and read into memory
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, more in cases.items():
            rounds[name].append(measure(options.folder, around, *more))
    print(
        f"\n`start` on a run of {_CHECKPOINTS} small checkpoints, local engine: seconds from its begin; CPU of all processes"
    )
    names = (*_EVENTS.values(), "returned", "CPU s")
    print(f"{'':>14}" + "".join(f"{name:>13}" for name in names))
    for case, found in rounds.items():
        medians = {name: statistics.median(each[name] for each in found) for name in names}
        print(f"{case:>14}" + "".join(f"{medians[name]:13.2f}" for name in names))
        judge(f"the first model, {case}", medians["first model"], GOALS_S[case], "s")
