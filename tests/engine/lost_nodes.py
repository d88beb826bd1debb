"""A daemon on a cluster of real raylets whose nodes are killed in the midst of windows, and whose head is started again.

    python -m tests.engine.lost_nodes [--kills 20] [--heads 5] [--nodes 2]

Each loss comes while a checkpoint is in work. Every checkpoint must be published, with the bytes that this machine makes alone,
and no wait over 10 s be without a line. Ends with 1 if something did not hold. A start of Ray takes about 8 s of CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rna_watch.journal import heartbeat
from tests.daemon.runs import published, wait_until
from tests.engine.raylets import Raylets, missing

_SMALL_TASKS = """
from rna_watch.window import tasks_plan
tasks_plan.TASK_ELEMENTS = 2000
from rna_watch.cli import main
main()
"""
_LIMIT_S = 300.0
_SILENCE_S = 10.0


def command(*arguments: object) -> list[str]:
    """`rna-watch` with tasks so small that a window takes a while."""
    return [sys.executable, "-c", _SMALL_TASKS, *map(str, arguments)]


def write(run: Path, step: int, rows: int = 150) -> None:
    """A checkpoint, under its name when it is whole."""
    generator = torch.Generator().manual_seed(step)
    model = {
        f"w{row}": torch.full((2000,), 1.0 / step) + 0.01 * torch.randn(2000, generator=generator)
        for row in range(rows)
    }
    torch.save({"model": model, "step": step}, run / "writing.tmp")
    os.rename(run / "writing.tmp", run / f"step_{step}.pt")


def evaluator(folder: Path) -> str:
    """A user's evaluator: how far the weights are from zero."""
    file = folder / "evaluate.py"
    file.write_text(
        "def evaluate(state_dict, device):\n    return {'loss': float(sum(w.square().mean() for w in state_dict.values()))}\n"
    )
    return f"{file}:evaluate"


def digests(run: Path) -> dict[str, str]:
    """What was published."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((run / "rna").glob("step_*.pt"))
        if not p.is_symlink()
    }


def longest_silence(run: Path, since: float, until: float) -> float:
    """Seconds between two neighbouring lines of the journal in that time."""
    lines = (run / ".rna-watch" / "journal.jsonl").read_text().splitlines()
    times = [since, *(t for t in (json.loads(line)["time"] for line in lines) if since < t < until), until]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def difference(run: Path, alone: Path, name: str) -> str:
    """In words, what of a model is not as in that of one machine."""
    models = [each / "rna" / name for each in (run, alone)]
    if not models[0].exists():
        return "it is not there"
    manifests = [json.loads(Path(f"{each.with_suffix('')}.json").read_text()) for each in models]
    keys = [key for key in manifests[1] if manifests[0].get(key) != manifests[1][key]]
    data = [each.read_bytes() for each in models]
    where = [at for at, (one, other) in enumerate(zip(*data, strict=False)) if one != other]
    fields = "; ".join(f"{key}: {manifests[0].get(key)!r:.600} not {manifests[1][key]!r:.600}" for key in keys)
    return f"{len(where)} of {len(data[1])} bytes from {where[0] if where else 0} on; in the manifests {fields or 'nothing'}"


def in_work(run: Path) -> bool:
    """Whether a pass over a checkpoint is at hand."""
    beat = heartbeat.read(run / ".rna-watch" / "heartbeat.json")
    return beat is not None and beat.work is not None


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many nodes are killed")
    parser.add_argument("--heads", type=int, default=5, help="how often the head is killed and started again")
    parser.add_argument("--nodes", type=int, default=2, help="nodes besides the head")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if why := missing():
        print(f"skipped: {why}")
        return 0
    with tempfile.TemporaryDirectory(prefix="rwc", dir="/tmp") as folder:
        return _lost(Path(folder), options)


def _lost(folder: Path, options: argparse.Namespace) -> int:
    run, luck = folder / "run", random.Random(options.seed)
    run.mkdir()
    losses = ["node"] * options.kills + ["head"] * options.heads
    luck.shuffle(losses)
    settings = ["--evaluator", evaluator(folder), "--keep", 1000, "--window", 4, "--quiet", 0.2, "--workers", 2]
    bad: list[str] = []
    with Raylets(folder) as cluster:
        names = [f"node{number}" for number in range(options.nodes)]
        cluster.start_head()
        cluster.wait(1)
        for name in names:
            cluster.add(name)
        cluster.wait(1 + len(names))
        with (folder / "log").open("w") as said:
            where = ["--engine", "ray", "--ray-address", cluster.address]
            daemon = subprocess.Popen(
                command("start", run, "--foreground", *settings, *where),
                env=os.environ | cluster.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            for step in (1, 2, 3):
                write(run, step)
            wait_until(lambda: published(run) == ["step_3.pt"], _LIMIT_S)
            for step, loss in enumerate(losses, 4):
                bad += _one_loss(cluster, run, step, loss, luck)
                if daemon.poll() is not None:
                    bad.append(f"step {step}: the daemon ended with {daemon.returncode}")
                    break
        finally:
            daemon.terminate()
            daemon.wait(60)
            if bad:
                print((folder / "log").read_text()[-20_000:])
    alone = folder / "alone"
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("rna", ".rna-watch"))
    subprocess.run(command("once", alone, *settings, "--engine", "local"), check=True, capture_output=True)
    found, expected = digests(run), digests(alone)
    if found != expected:
        different = [name for name in expected if found.get(name) != expected[name]]
        bad += [f"other bytes than alone: {name}: {difference(run, alone, name)}" for name in different]
    print(f"{len(losses)} losses, {len(found)} of {len(expected)} checkpoints published; problems: {len(bad)}")
    print("\n".join(bad))
    return 1 if bad else 0


def _one_loss(cluster: Raylets, run: Path, step: int, loss: str, luck: random.Random) -> list[str]:
    """Lose a node or the head while a checkpoint is in work; returns what did not hold."""
    write(run, step)
    until = time.monotonic() + 20
    while not in_work(run) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(luck.uniform(0, 0.5))
    busy, begun = in_work(run), time.time()
    name = luck.choice(sorted(cluster.nodes))
    if loss == "head":
        cluster.kill_head()
        for each in cluster.nodes:
            cluster.kill(each)
        cluster.start_head()
    else:
        cluster.kill(name)
    try:
        wait_until(lambda: f"step_{step}.pt" in published(run), _LIMIT_S)
    except AssertionError:
        return [f"step {step}: not published within {_LIMIT_S:g} s after the loss of a {loss}"]
    ended = time.time()
    silence = longest_silence(run, begun, ended)
    when = "in work" if busy else "between two"
    took = f"published after {ended - begun:.1f} s, longest silence {silence:.1f} s"
    print(f"step {step}: {loss} lost {when}, {took}", flush=True)
    for each in sorted(cluster.nodes) if loss == "head" else [name]:
        cluster.start(each)
    cluster.wait(1 + len(cluster.nodes))
    if loss == "head":
        wait_until(lambda: _on_ray(run), _LIMIT_S)
    return [f"step {step}: {silence:.1f} s without a line"] if silence > _SILENCE_S else []


def _on_ray(run: Path) -> bool:
    """Whether work is on the cluster (again)."""
    beat = heartbeat.read(run / ".rna-watch" / "heartbeat.json")
    return beat is not None and any(worker.name.startswith("ray system") for worker in beat.workers)


if __name__ == "__main__":
    sys.exit(main())
