"""`anneal` on real trainings: the branches of each checkpoint, their publication, verification and the comparison."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rna_watch.formats.probe import probe
from rna_watch.journal.events import Chosen
from rna_watch.journal.log import read
from rna_watch.publishing import inputs, made, verification
from tests.daemon.in_process import Here, process
from tests.daemon.runs import rna_watch
from tests.evaluation import users_regression

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.replay import RunState
    from rna_watch.publishing.verification import Verification

FUNCTION = f"{users_regression.__file__}:evaluate"
SETTINGS: dict[str, Any] = {"methods": ["average", "anneal"], "window": 3, "metric": "loss", "reserve": 0}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.15, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.01),
}


def _train(folder: Path, name: str, count: int = 4, last_rate: float | None = None, **more: object) -> None:
    """Checkpoints of a noisy training at a constant rate, every 20 steps."""
    folder.mkdir()
    torch.manual_seed(0)
    model = users_regression.network()
    optimizer = OPTIMIZERS[name](model.parameters())
    generator = torch.Generator().manual_seed(1)
    for number in range(1, count + 1):
        if number == count and last_rate is not None:
            optimizer.param_groups[0]["lr"] = last_rate
        for _ in range(20):
            optimizer.zero_grad()
            users_regression.batch_loss(model.train(), dict(model.state_dict(keep_vars=True)), generator).backward()
            optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 20 * number, **more}
        torch.save(state, folder / f"step_{20 * number}.pt")


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunState]:
    """A run that was watched with `anneal`, and what its journal adds up to."""
    folder = tmp_path_factory.mktemp("anneal") / "run"
    _train(folder, request.param)
    here = Path.cwd()
    threads = torch.get_num_threads()
    try:
        return folder, process(folder, folder, [Here(FUNCTION, folder)], **SETTINGS)
    finally:
        torch.set_num_threads(threads)
        os.chdir(here)


def _verified(model: Path) -> Verification:
    read = verification.read_manifest(model.with_name(f"{model.name}.json"))
    return verification.verify(read, model, inputs.Finder(model.parent, read.source, read.ignore))


def test_branches_begin_at_the_last_and_at_the_best_average(run: tuple[Path, RunState]) -> None:
    """Each checkpoint with a window has four of them, of which the chosen one is published as what it is."""
    folder, state = run
    of = {f"anneal-{start}-60{third}" for start in ("last", "average") for third in ("", "-third")}
    assert of <= state.checkpoints["step_60.pt"].evaluations.keys()
    evaluated = state.checkpoints["step_80.pt"].evaluations
    best = min(evaluated, key=lambda each: evaluated[each]["loss"])
    chosen = state.checkpoints["step_80.pt"].chosen
    assert chosen is not None
    assert best in of, evaluated
    assert chosen.candidate == best
    assert (chosen.method, chosen.weights) == ("anneal", [])
    assert "a short cooldown, which is training" in chosen.reason
    assert chosen.metrics["rna"] is None
    assert not list((folder / ".rna-watch" / "scratch").iterdir())


def test_the_manifest_says_that_it_is_training(run: tuple[Path, RunState]) -> None:
    """Its kind, where it began, what it cost and a digest; the file has the digest and loads like the original."""
    folder, _ = run
    model = folder / "rna" / "step_80.pt"
    manifest = json.loads(model.with_name("step_80.pt.json").read_text())
    assert manifest["kind"] == "training"
    assert manifest["weights"] is None
    assert manifest["coefficients"] is None
    assert manifest["schema"] == 2
    assert sum(manifest["start"]) == pytest.approx(1.0)
    assert (manifest["steps"], manifest["batches"], manifest["seed"]) == (60, 120, 80)
    assert len(manifest["losses"]) == 60
    assert manifest["seconds"] > 0
    assert manifest["digest"] == made.digest(probe(str(model)))
    stored, original = (torch.load(path, weights_only=True) for path in (model, folder / "step_80.pt"))
    users_regression.network().load_state_dict(stored["model"])
    assert stored["step"] == original["step"] == 80
    assert stored["model"]["1.num_batches_tracked"] == original["model"]["1.num_batches_tracked"]
    assert not torch.equal(stored["model"]["0.weight"], original["model"]["0.weight"])


def test_verify_checks_the_digest_and_says_so(run: tuple[Path, RunState], tmp_path: Path) -> None:
    """A model that was trained is verified by its digest; a changed one differs."""
    folder, _ = run
    model = folder / "rna" / "step_80.pt"
    found = _verified(model)
    assert found.verdict == "verified", found.problems
    assert "values have the digest of its manifest (anneal-" in found.summary
    assert "it was trained, which cannot be recomputed" in found.notes[0]
    changed = torch.load(model, weights_only=True)
    changed["model"]["0.bias"][0] += 1e-6
    other = folder / "rna" / "other.pt"
    torch.save(changed, other)
    text = model.with_name("step_80.pt.json").read_text()
    other.with_name("other.pt.json").write_text(text)
    try:
        found = _verified(other)
        assert found.verdict == "differs"
        assert "not those of which its manifest has the digest" in found.problems[0]
    finally:
        other.unlink()
        other.with_name("other.pt.json").unlink()


def test_a_lost_journal_is_made_anew_with_it(run: tuple[Path, RunState], tmp_path: Path) -> None:
    """Its manifest has no weights, and the new journal, which can be read, has none of them."""
    own = tmp_path / "run"
    shutil.copytree(run[0], own, symlinks=True)
    shutil.rmtree(own / ".rna-watch")
    process(own, own)
    found = [event for event in read(own / ".rna-watch" / "journal.jsonl") if isinstance(event, Chosen)]
    (chosen, *_) = (event for event in found if event.checkpoint == "step_80.pt")
    assert (chosen.method, chosen.weights) == ("anneal", [])


def test_the_same_run_gives_the_same_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same checkpoints, twice the same bytes."""
    monkeypatch.chdir(tmp_path)
    _train(tmp_path / "one", "AdamW")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        process(tmp_path / name, tmp_path / name, [Here(FUNCTION, tmp_path)], **SETTINGS)
    one, two = (tmp_path / name / "rna" / "step_80.pt" for name in ("one", "two"))
    assert json.loads(Path(f"{one}.json").read_text())["kind"] == "training"
    assert made.digest(probe(str(one))) == made.digest(probe(str(two)))


def test_a_run_that_has_cooled_down_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rate is under a hundredth of the largest, nothing is trained, and that is noted."""
    monkeypatch.chdir(tmp_path)
    _train(tmp_path / "run", "SGD", last_rate=0.001)
    settings = SETTINGS | {"learning_rate_jump": float("inf")}
    state = process(tmp_path / "run", tmp_path / "run", [Here(FUNCTION, tmp_path)], **settings)
    assert any(name.startswith("anneal") for name in state.checkpoints["step_60.pt"].evaluations)
    assert not any(name.startswith("anneal") for name in state.checkpoints["step_80.pt"].evaluations)
    noted = [event.text for event in state.recent if event.kind == "noted"]
    assert any("is under 1% of the run's largest, 0.15" in text for text in noted)


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"optimizer": None}, {}, "holds no optimizer settings"),
        ({}, {"anneal_seconds": 1e-3}, "of anneal_seconds"),
        ({}, {"fit_memory": 1e-9}, "allow more memory"),
    ],
)
def test_why_there_is_none_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], settings: dict[str, object], words: str
) -> None:
    """No optimizer, no time, no memory: one problem in words, and a model all the same."""
    monkeypatch.chdir(tmp_path)
    _train(tmp_path / "run", "SGD", **change)
    state = process(tmp_path / "run", tmp_path / "run", [Here(FUNCTION, tmp_path)], **SETTINGS | settings)
    assert words in state.problems["anneal"].what
    chosen = state.checkpoints["step_80.pt"].chosen
    assert chosen is not None
    assert chosen.method == "average"


def test_the_commands_show_it(run: tuple[Path, RunState]) -> None:
    """`verify`, `compare` and `status` of the same run speak of it as what it is."""
    folder, state = run
    verified = rna_watch("verify", folder)
    assert verified.returncode == 0, verified.stdout
    assert "have the digest of its manifest" in verified.stdout
    shown = rna_watch("status", folder)
    assert "cooled down now, this run would be worth loss" in " ".join(shown.stdout.split())
    told = json.loads(rna_watch("status", folder, "--json").stdout)["cooled_down"]
    branches = {n: m["loss"] for n, m in state.checkpoints["step_80.pt"].evaluations.items() if n.startswith("anneal")}
    assert told["candidate"] == min(branches, key=lambda each: branches[each])
    assert told["value"] == min(branches.values())
    assert (told["checkpoint"], told["steps"], told["now"]) == ("step_80.pt", 60, True)


def test_compare_shows_the_gain_for_free(run: tuple[Path, RunState]) -> None:
    """The gain over the original is said to be without the batches, where the run is too short to charge them."""
    folder, _ = run
    text = " ".join(rna_watch("compare", folder).stdout.split())
    assert "if those batches are free" in text
    assert "its curve does not reach so far" in text
    record = json.loads(rna_watch("compare", folder, "--json").stdout)
    assert record["cooling"]["count"] == 2
    assert record["cooling"]["free"] > 0
    assert "anneal" in record["kinds"]
    assert record["tallies"]["all"]["duels"] == 0
