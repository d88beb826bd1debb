"""What `best` and `latest` name: over reruns in one folder, and over a crash between a model's record and its links."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from rna_watch.evaluation.evaluator import Evaluation
from tests.daemon.in_process import Noise, process
from tests.daemon.runs import check_output, events, published, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path


class _Constant(Noise):
    """An evaluator to which every original is worth one number, and every combination another."""

    def __init__(self, original: float, combined: float) -> None:
        super().__init__(0)
        self._values = (combined, original)

    def evaluate(self, combination: Any, **_: object) -> Evaluation:
        """See `Evaluator.evaluate`."""
        return Evaluation(metrics={"loss": self._values[combination.weights[-1] == 1.0]}, seconds=0.0)


def _manifest(model: Path) -> dict[str, Any]:
    return json.loads(model.with_name(f"{model.name}.json").read_text())


@pytest.mark.parametrize("export", ["none", "safetensors"])
def test_a_rerun_takes_nothing_from_the_model_that_best_names(tmp_path: Path, export: str) -> None:
    """Checkpoints of the same names, written again and worse, are published next to the best model, which stays as it is."""
    train(tmp_path, count=4)
    process(tmp_path, tmp_path, [_Constant(1.0, 0.5)], export=export)
    best = (tmp_path / "rna" / "best").resolve()
    before, told = best.read_bytes(), _manifest(best)
    train(tmp_path, count=4, optimizer="adam")
    state = process(tmp_path, tmp_path, [_Constant(3.0, 2.0)], export=export)
    assert (tmp_path / "rna" / "best").resolve() == best
    assert (best.read_bytes(), _manifest(best)) == (before, told)
    assert state.best is not None
    assert told["metrics"]["chosen"]["loss"] == state.best.value == 0.5
    for step in (3, 4):
        checkpoint = state.checkpoints[f"step_{step}.pt"]
        assert checkpoint.output is not None
        model = tmp_path / "rna" / checkpoint.output
        assert _manifest(model)["metrics"]["chosen"]["loss"] == 2.0
        assert model.with_name(f"{model.name}.export.safetensors").exists() == (export != "none")
        check_output(model, tmp_path)
    assert (tmp_path / "rna" / "latest").resolve() == model


def test_best_is_what_its_manifest_says_over_many_reruns(tmp_path: Path) -> None:
    """Whatever is written again, `best` names a model of the value that the journal claims, better than all before it."""
    train(tmp_path / "first", count=4)
    train(tmp_path / "second", count=4, optimizer="adam")
    moved = 0
    for seed in range(8):
        run = tmp_path / str(seed)
        run.mkdir()
        for turn in range(4):
            for file in sorted((tmp_path / ("first", "second")[turn % 2]).iterdir()):
                (run / file.name).unlink(missing_ok=True)
                (run / file.name).write_bytes(file.read_bytes())
            state = process(run, run, [Noise(10 * seed + turn, undefined=0.1)], keep=2)
            best = (run / "rna" / "best").resolve()
            if state.best is None:
                assert not best.exists()
                continue
            assert best == run / "rna" / state.best.output
            assert _manifest(best)["metrics"]["chosen"]["loss"] == state.best.value
            models = [path for path in (run / "rna").iterdir() if path.suffix == ".pt" and not path.is_symlink()]
            assert len(models) <= 3
        found = [event.value for event in events(run, "best_moved")]
        assert found == sorted(found, reverse=True)
        moved += len(found)
    assert moved > 8


class _Falling(_Constant):
    """An evaluator to which every combination is worth more than the one before."""

    def evaluate(self, combination: Any, **_: object) -> Evaluation:
        """See `Evaluator.evaluate`."""
        self._values = (self._values[0] - 0.01, self._values[1])
        return super().evaluate(combination)


@pytest.mark.parametrize("lost", ["links", "record"])
def test_a_crash_before_the_links_were_moved_leaves_them_right(tmp_path: Path, lost: str) -> None:
    """A start after a crash between `published` and `best_moved` moves `best` and `latest` as was meant, and only that."""
    train(tmp_path, count=5)
    process(tmp_path, tmp_path, [_Falling(1.0, 0.5)])
    expected = events(tmp_path, "best_moved")[-1]
    assert expected.output == "step_5.pt"
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in lines[-2:]] == ["published", "best_moved"]
    journal.write_bytes(b"".join(lines[:-1]))
    links = [tmp_path / "rna" / name for name in ("best", "latest")]
    if lost == "links":
        for link in links:
            link.unlink()
            link.symlink_to("step_4.pt")
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 3
    assert published(tmp_path) == ["step_3.pt", "step_4.pt", "step_5.pt"]
    again = events(tmp_path, "best_moved")[-1]
    assert (again.checkpoint, again.output, again.value) == (expected.checkpoint, expected.output, expected.value)
    assert [link.resolve() for link in links] == [tmp_path / "rna" / "step_5.pt"] * 2
    first = len(journal.read_bytes().splitlines())
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 3
    kinds = [json.loads(line)["kind"] for line in journal.read_bytes().splitlines()[first:]]
    assert kinds == ["started", "stopped"]
