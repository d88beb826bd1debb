"""LoRA's products on a real fine-tune: candidates, publication as an adapter, verification, and the command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from rna_watch.cli import app
from rna_watch.journal.events import Noted
from rna_watch.journal.log import read
from rna_watch.publishing import inputs, verification
from tests import lora
from tests.daemon.in_process import Here, process

if TYPE_CHECKING:
    from rna_watch.journal.replay import RunState
    from rna_watch.publishing.verification import Verification

FUNCTION = f"{lora.__file__}:evaluate"
SETTINGS: dict[str, Any] = {
    "methods": ["average", "product"],
    "window": 3,
    "metric": "loss",
    "reserve": 0,
    "one_run": True,  # what turns looks like several trainings
}


def _turned(adapter: lora.State, seed: int) -> lora.State:
    """The same model in other factors."""
    turn = torch.linalg.qr(torch.randn(lora.RANK, lora.RANK, generator=torch.Generator().manual_seed(seed)))[0]
    return {name: turn.T @ each if "lora_A" in name else each @ turn for name, each in adapter.items()}


def _process(folder: Path, **settings: Any) -> RunState:
    here, threads = Path.cwd(), torch.get_num_threads()
    try:
        return process(folder, folder, [Here(FUNCTION, folder)], **SETTINGS | settings)
    finally:
        torch.set_num_threads(threads)
        os.chdir(here)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunState]:
    """A run whose checkpoints turn inside their factors, so that their products alone can be combined."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    bias = {"base_model.model.4.bias": torch.arange(3.0)}  # what is saved beside the factors
    lora.save(folder, [_turned(each, number) for number, each in enumerate(lora.train(0, 4))], **bias)
    return folder, _process(folder)


def _verified(model: Path) -> Verification:
    found = verification.read_manifest(model.with_name(f"{model.name}.json"))
    return verification.verify(found, model, inputs.Finder(model.parent, found.source, found.ignore))


def test_the_evaluator_decides(run: tuple[Path, RunState]) -> None:
    """The product of the best average is judged beside it, and published where it is better."""
    folder, state = run
    newest = state.checkpoints["checkpoint-4"]
    best = min(newest.evaluations.keys() - {"last"}, key=lambda name: newest.evaluations[name]["loss"])
    assert best.startswith("product-average-")
    assert newest.chosen is not None
    assert (newest.chosen.candidate, newest.chosen.method, newest.chosen.weights) == (best, "product", [])
    assert "the combination of the products of its factors" in newest.chosen.reason
    assert not list((folder / ".rna-watch" / "scratch").iterdir())


def test_it_is_published_as_an_adapter(run: tuple[Path, RunState]) -> None:
    """The folder has the original's configuration, shapes and dtypes; the manifest has the cross-term and no weights."""
    folder, _ = run
    model, original = folder / "rna" / "checkpoint-4", folder / "checkpoint-4"
    manifest = json.loads((folder / "rna" / "checkpoint-4.json").read_text())
    assert (manifest["schema"], manifest["kind"], manifest["weights"]) == (2, "product", None)
    told = manifest["product"]
    assert sum(told["weights"]) == pytest.approx(1.0)
    assert (told["pairs"], told["ranks"]) == (2, [lora.RANK] * 2)
    assert told["cross_term"] > 0.1
    assert told["of"] in manifest["candidate"]
    assert f"{told['cross_term']:.3g}" in manifest["notes"][-1]
    assert (model / "adapter_config.json").read_bytes() == (original / "adapter_config.json").read_bytes()
    stored, before = (safetensors.torch.load_file(path / "adapter_model.safetensors") for path in (model, original))
    assert {name: each.shape for name, each in stored.items()} == {name: each.shape for name, each in before.items()}
    assert lora.evaluate(stored, torch.device("cpu"))["loss"] == pytest.approx(manifest["metrics"]["chosen"]["loss"])


def test_the_report_says_what_it_is(run: tuple[Path, RunState], tmp_path: Path) -> None:
    """A model without weights is not called trained."""
    report = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", str(run[0]), "-o", str(report)]).exit_code == 0
    text = report.read_text()
    assert "products of factors, no combination of tensors: product-average-" in text
    assert "every one has products of factors, and is no combination" in text
    assert "was trained" not in text


def test_verify_recomputes_it_to_a_tolerance(run: tuple[Path, RunState], tmp_path: Path) -> None:
    """Another factor, another bias and another digest are found; the command says the tolerance."""
    folder, _ = run
    model = folder / "rna" / "checkpoint-4"
    found = _verified(model)
    assert found.verdict == "verified", found.problems
    assert "the products of 2 pairs of factors to" in found.summary
    copy = tmp_path / "run"
    shutil.copytree(folder, copy, symlinks=True)
    weights = copy / "rna" / "checkpoint-4" / "adapter_model.safetensors"
    stored = safetensors.torch.load_file(weights)
    name = next(name for name in stored if "lora_B" in name)
    for changed, words in (
        ({name: stored[name] * 1.001}, ["the digest", "their product differs from that of its inputs by 0.001"]),
        ({name: stored[name] * (1 + 1e-7)}, ["the digest"]),
        ({"base_model.model.4.bias": torch.zeros(3)}, ["not the combination of its inputs"]),
    ):
        safetensors.torch.save_file(stored | changed, weights, {"format": "pt"})
        problems = "\n".join(_verified(weights.parent).problems)
        assert _verified(weights.parent).verdict == "differs"
        assert all(each in problems for each in words), problems
    manifest = copy / "rna" / "checkpoint-4.json"
    safetensors.torch.save_file(stored, weights, {"format": "pt"})
    content = json.loads(manifest.read_text())
    weights_of = content["product"]["weights"]
    manifest.write_text(json.dumps(content | {"product": content["product"] | {"weights": weights_of[::-1]}}))
    assert "their product differs" in "\n".join(_verified(weights.parent).problems)
    for damaged in ({"digest": None}, {"product": None}, {"product": {"weights": [1.0]}}):
        manifest.write_text(json.dumps(content | damaged))
        with pytest.raises(verification.VerificationEnded, match="damaged"):
            verification.read_manifest(manifest)


def test_the_command_makes_it_without_a_daemon(run: tuple[Path, RunState], tmp_path: Path) -> None:
    """`extrapolate --method product` multiplies the average, or takes the weights of a manifest and gives the same bytes."""
    folder, _ = run
    originals = [str(folder / f"checkpoint-{number}") for number in (1, 2, 3, 4)]
    first, second = tmp_path / "average", tmp_path / "same"
    done = CliRunner().invoke(app, ["extrapolate", *originals, "-o", str(first), "--method", "product"])
    assert done.exit_code == 0, done.output
    assert f"{first}: product-average-3 of 4 checkpoints" in done.output
    assert "cross-term" in done.output
    assert _verified(first).verdict == "verified"
    assert {each.name for each in tmp_path.iterdir()} == {"average", "average.json"}
    published = folder / "rna" / "checkpoint-4"
    taken = ["--method", "product", "--manifest", f"{published}.json"]
    done = CliRunner().invoke(app, ["extrapolate", *originals, "-o", str(second), *taken])
    assert done.exit_code == 0, done.output
    ours, theirs = ((each / "adapter_model.safetensors").read_bytes() for each in (second, published))
    assert ours == theirs
    plain = [str(tmp_path / f"{number}.pt") for number in range(3)]
    for number, path in enumerate(plain):
        torch.save({"w": torch.full((2, 2), float(number**2))}, path)
    done = CliRunner().invoke(app, ["extrapolate", *plain, "-o", str(tmp_path / "no"), "--method", "product"])
    assert "has no pairs of factors" in str(done.exception)


def test_the_best_average_and_the_best_solution_have_one(tmp_path: Path) -> None:
    """Both are offered and told wherever candidates are; in bfloat16, too, what is made is verified."""
    folder = tmp_path / "run"
    lora.save(folder, lora.train(2, 4), torch.bfloat16)
    state = _process(folder, methods=["average", "rna", "product"], regularizations=[0.1])
    newest = state.checkpoints["checkpoint-4"]
    recipes = {name: newest.recipes[name] for name in newest.evaluations if name.startswith("product-")}
    assert {each.method for each in recipes.values()} == {"product"}
    of = {str(each.parameter("of", "")) for each in recipes.values()}
    assert {name.split("-")[0] for name in of} == {"average", "rna"}
    assert of < newest.evaluations.keys()
    originals = [str(folder / f"checkpoint-{number}") for number in (1, 2, 3, 4)]
    done = CliRunner().invoke(app, ["extrapolate", *originals, "-o", str(tmp_path / "x"), "--method", "product"])
    assert done.exit_code == 0, done.output
    assert _verified(tmp_path / "x").verdict == "verified"
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 0
    assert "product" in CliRunner().invoke(app, ["compare", str(folder)]).output
    report = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", str(folder), "-o", str(report)]).exit_code == 0
    assert "product" in report.read_text()
    shown = CliRunner().invoke(app, ["status", str(folder), "--json"])
    assert json.loads(shown.stdout)["checkpoints"][-1]["output"]
    assert CliRunner().invoke(app, ["dashboard", str(folder), "--once"]).exit_code == 0


def test_without_pairs_the_plain_combination_remains(tmp_path: Path) -> None:
    """A factor without its partner is said, and no product is offered."""
    folder = tmp_path / "run"
    adapters = lora.train(1, 3)
    lora.save(folder, [{name: each for name, each in adapter.items() if "lora_A" not in name} for adapter in adapters])
    state = _process(folder, methods=["average", "product"])
    evaluated = state.checkpoints["checkpoint-3"].evaluations
    assert "average-2" in evaluated
    assert not any(name.startswith("product") for name in evaluated)
    journal = read(folder / ".rna-watch" / "journal.jsonl")
    assert [each.text for each in journal if isinstance(each, Noted) and each.checkpoint == "checkpoint-3"][-1] == (
        "some factors are combined as they are, not as their product: base_model.model.0.lora_B.weight has no partner "
        "base_model.model.0.lora_A.weight (and 1 more)"
    )


def test_the_comparison_of_the_manual_runs_small(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each rate and epoch; the two averages are not the same model."""
    lora.main(seeds=2, epochs=(4,), rates=(0.02,))
    row = capsys.readouterr().out.splitlines()[2].split(" | ")
    assert row[:2] == ["| 0.02", "4"]
    assert float(row[5].split()[0]) != 0.0
