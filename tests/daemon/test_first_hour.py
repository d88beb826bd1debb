"""A user's first hour with a run: what was done before follows the evaluator, the metric and the source that count now."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rna_watch.comparison.comparison import compare
from rna_watch.journal import log
from rna_watch.journal.replay import RunState, replay
from tests.daemon import distance
from tests.daemon.runs import events, rna_watch, train

if TYPE_CHECKING:
    import subprocess

COUNT = 7
BROKEN = "def evaluate(state_dict, device):\n    return state_dict['fc.weight']\n"


class _Run:
    """A run with checkpoints that hold two models, and an evaluator that is written and edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.evaluator = folder / "judge.py"
        train(self.folder, count=COUNT)
        slow: dict[str, torch.Tensor] = {}
        for step in range(1, COUNT + 1):
            file = self.folder / f"step_{step}.pt"
            content = torch.load(file, weights_only=True)
            for name, tensor in content["model"].items():
                kept = slow.get(name, tensor)
                slow[name] = (0.5 * kept + 0.5 * tensor) if tensor.is_floating_point() else tensor
            torch.save(content | {"slow": dict(slow)}, file)

    def write(self, *, scale: float = 1.0, broken: bool = False) -> None:
        """Write or edit the evaluator."""
        distance.write(self.evaluator, self.folder, loss=(2, 3, 4), accuracy=(4, 5, 6), scale=scale)
        if broken:
            self.evaluator.write_text(BROKEN)

    def once(self, *arguments: str, evaluator: bool = True) -> subprocess.CompletedProcess[str]:
        """`rna-watch once`."""
        judged = ("--evaluator", f"{self.evaluator}:evaluate") if evaluator else ()
        return rna_watch("once", self.folder, "--engine", "local", *judged, *arguments)

    @property
    def state(self) -> RunState:
        """What the journal adds up to."""
        return replay(log.read(self.folder / ".rna-watch" / "journal.jsonl"))

    def value(self, file: Path, source: str, metric: str) -> float:
        """What the evaluator says of a file, asked directly."""
        spec = importlib.util.spec_from_file_location("judge_of_the_test", self.evaluator)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return float(module.evaluate(torch.load(file, weights_only=True)[source], torch.device("cpu"))[metric])

    def check(self, metric: str, *, source: str = "model") -> RunState:
        """`compare` shows what the evaluator says of the originals, `best` is what beats them and every model before."""
        state, sign = self.state, -1.0 if metric == "loss" else 1.0
        originals = {
            name: self.value(self.folder / name, source, metric)
            for name in (f"step_{k}.pt" for k in range(1, COUNT + 1))
        }
        compared = compare(state)
        assert compared.metric == metric
        assert {row.checkpoint: row.value("original") for row in compared.rows} == pytest.approx(originals)
        models = {}
        for name, checkpoint in state.checkpoints.items():
            if checkpoint.output is None:
                continue
            file = self.folder / "rna" / checkpoint.output
            manifest: dict[str, Any] = json.loads(Path(f"{file}.json").read_text())
            value = self.value(file, source, metric)
            assert manifest["source"] == source
            assert manifest["metrics"]["chosen"][metric] == pytest.approx(value, rel=1e-4), name
            assert manifest["metrics"]["original"][metric] == pytest.approx(originals[name]), name
            assert manifest["better_than_original"] == (sign * value > sign * originals[name])
            models[name] = value
        record, best = -float("inf"), None
        for name, original in originals.items():
            record = max(record, sign * original)
            if name in models and sign * models[name] > record + 1e-9:
                record, best = sign * models[name], name
        assert (state.best.checkpoint if state.best else None) == best
        link = self.folder / "rna" / "best"
        assert link.is_symlink() == (best is not None)
        if state.best is not None and best is not None:
            assert link.resolve() == (self.folder / "rna" / state.best.output).resolve()
            assert state.best.value == pytest.approx(models[best], rel=1e-4)
        return state


def test_compare_and_best_are_right_after_each_change(tmp_path: Path) -> None:
    """Begun without an evaluator; then one that is broken, mended, of another scale; another metric; another source."""
    run = _Run(tmp_path)
    keep = ("--keep", "100")
    run.write(broken=True)
    assert run.once(*keep, evaluator=False).returncode == 0
    assert rna_watch("compare", run.folder).returncode == 3
    assert run.state.best is None
    unevaluated = {path.name: path.read_bytes() for path in (run.folder / "rna").glob("*.pt")}

    failed = run.once(*keep)
    assert failed.returncode == 1
    assert {path.name: path.read_bytes() for path in (run.folder / "rna").glob("*.pt")} == unevaluated
    assert run.state.best is None

    run.write()
    assert run.once(*keep).returncode == 0
    bests = [run.check("loss").best]
    evaluated = len(events(run.folder, "evaluated"))

    run.write(scale=100.0)
    assert run.once(*keep).returncode == 0
    assert len(events(run.folder, "evaluated")) >= 2 * evaluated
    bests += [run.check("loss").best]
    evaluated = len(events(run.folder, "evaluated"))

    assert run.once(*keep, "--metric", "accuracy").returncode == 0
    bests += [run.check("accuracy").best]
    assert all(bests)
    assert len({best.value for best in bests if best}) == 3
    assert len(events(run.folder, "evaluated")) == evaluated

    assert run.once(*keep, "--metric", "accuracy", "--source", "slow").returncode == 0
    run.check("accuracy", source="slow")
    assert len(events(run.folder, "evaluated")) > evaluated
    verified = rna_watch("verify", run.folder)
    assert verified.returncode == 0, verified.stdout

    finished = len(list(log.read(run.folder / ".rna-watch" / "journal.jsonl")))
    run.once(*keep, "--metric", "accuracy", "--source", "slow")
    kinds = [event.kind for event in log.read(run.folder / ".rna-watch" / "journal.jsonl")][finished:]
    assert kinds == ["started", "stopped"]
