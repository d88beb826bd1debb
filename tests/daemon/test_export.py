"""`--export` and `--optimizer-state`: what else is published, in real runs of the commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, load_model

from rna_watch.layout.disk import TEMPORARY_PREFIX
from tests.checkpoints import deepspeed_forms
from tests.checkpoints.twins import combine, is_rounded, publish_here, same_bits
from tests.daemon.runs import check_output, events, fingerprints, model_of, published, rna_watch, train
from tests.daemon.trainer import Network

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = ("--engine", "local", "--workers", 1)


def _manifest(model: Path) -> dict[str, object]:
    return json.loads(model.with_name(f"{model.name}.json").read_text())


def _check_export(model: Path) -> None:
    """The manifest names an export that holds the model's bits, and that the network loads."""
    name = _manifest(model)["export"]
    assert name == f"{model.name}.export.safetensors"
    found, wanted = load_file(model.with_name(name)), model_of(model)
    assert wanted.keys() - found.keys() <= {"second.weight"}
    assert all(same_bits(tensor, wanted[key]) for key, tensor in found.items())
    network = Network()
    load_model(network, str(model.with_name(name)), strict=True)
    assert all(same_bits(tensor, wanted[key]) for key, tensor in network.state_dict().items() if key in wanted)


@pytest.mark.parametrize("form", ["nested", "safetensors"])
def test_each_model_has_an_export_and_they_go_together(tmp_path: Path, form: str) -> None:
    """`once --export safetensors`: a loadable copy next to every model that is kept, none of what was pruned, none watched."""
    train(tmp_path, count=6, form=form)
    before = fingerprints(tmp_path)
    result = rna_watch("once", tmp_path, *LOCAL, "--export", "safetensors", "--keep", 2)
    assert result.returncode == 0, result.stderr
    ending = ".pt" if form == "nested" else ".safetensors"
    models = [tmp_path / "rna" / f"step_{step}{ending}" for step in (5, 6)]
    for model in models:
        _check_export(model)
    exports = sorted(path.name for path in (tmp_path / "rna").glob("*.export.safetensors"))
    assert exports == [f"{model.name}.export.safetensors" for model in models]
    assert fingerprints(tmp_path) == before
    again = rna_watch("once", tmp_path, *LOCAL, "--export", "safetensors", "--keep", 2)
    assert again.returncode == 3
    assert len(published(tmp_path)) == 4
    verified = rna_watch("verify", tmp_path)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize("torn", ["missing", "half-made"])
def test_a_crash_before_the_export_has_its_name_publishes_again(tmp_path: Path, torn: str) -> None:
    """A model whose export was not finished is no finished output: both are made again, and nothing half-made stays."""
    train(tmp_path, count=4)
    arguments = ("once", tmp_path, *LOCAL, "--export", "safetensors")
    assert rna_watch(*arguments).returncode == 0
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    intent = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "publishing")
    journal.write_bytes(b"".join(lines[: intent + 1]))
    copy = tmp_path / "rna" / "step_4.pt.export.safetensors"
    if torn == "half-made":
        copy.rename(copy.with_name(f"{TEMPORARY_PREFIX}{copy.name}.publish.tmp"))
    else:
        copy.unlink()
    assert rna_watch(*arguments).returncode == 0
    _check_export(tmp_path / "rna" / "step_4.pt")
    assert events(tmp_path, "published")[-1].seconds > 0.0
    assert not list((tmp_path / "rna").glob(f"{TEMPORARY_PREFIX}*"))


def test_extrapolate_exports_and_an_export_in_a_run_is_no_checkpoint(tmp_path: Path) -> None:
    """`extrapolate --export safetensors` writes OUT.export.safetensors; where it lies in a run, nobody takes it for an input."""
    train(tmp_path, count=4)
    given = [tmp_path / f"step_{step}.pt" for step in range(1, 5)]
    out = tmp_path / "soup.pt"
    arguments = ("extrapolate", *given, "-o", out, "--export", "safetensors")
    assert rna_watch(*arguments).returncode == 0
    check_output(out, tmp_path)
    _check_export(out)
    refused = rna_watch("extrapolate", *given, "-o", tmp_path / "other.pt", "--export", "pickle")
    assert refused.returncode == 2
    assert "export" in refused.stderr
    out.unlink()
    assert "soup.pt.export.safetensors exists" in rna_watch(*arguments).stderr
    assert rna_watch(*arguments[:-2], "--force").returncode == 0
    assert not out.with_name("soup.pt.export.safetensors").exists()
    assert _manifest(out)["export"] is None
    assert rna_watch(*arguments, "--force").returncode == 0
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    assert set(published(tmp_path)) == {"step_3.pt", "step_4.pt"}


def test_verify_opens_exports(tmp_path: Path) -> None:
    """A plain copy that is not its model's is found, tensor by tensor; one that was taken away is said."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, *LOCAL, "--export", "safetensors").returncode == 0
    model = tmp_path / "rna" / "step_4.pt"
    copy = model.with_name(f"{model.name}.export.safetensors")
    whole = copy.read_bytes()
    assert rna_watch("verify", model).returncode == 0
    for changed, words in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "is not as in the model"),
        (whole[:-8], "another size"),
        (whole[:9] + b"x" + whole[10:], "its header"),
    ):
        copy.write_bytes(changed)
        result = rna_watch("verify", model)
        assert result.returncode == 1
        assert f"its plain copy {copy.name}" in result.stdout
        assert words in result.stdout
    copy.unlink()
    result = rna_watch("verify", model)
    assert result.returncode == 0
    assert "was not compared: No such file" in result.stdout


def test_what_cannot_be_exported_is_published_and_said(tmp_path: Path) -> None:
    """A model with a dtype that safetensors lacks is published without an export, and its manifest says why."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 5):
        tensors = {"weight": torch.randn(3, 2, dtype=torch.complex128, generator=generator)}
        torch.save(tensors, tmp_path / f"step_{step}.pt")
    out = tmp_path / "out.pt"
    given = [tmp_path / f"step_{step}.pt" for step in range(1, 5)]
    result = rna_watch("extrapolate", *given, "-o", out, "--export", "safetensors", "--method", "average")
    assert result.returncode == 0, result.stderr
    assert _manifest(out)["export"] is None
    assert any("not exported: weight is complex128" in note for note in _manifest(out)["notes"])


@pytest.mark.parametrize("command", ["once", "extrapolate"])
def test_optimizer_state_is_dropped_and_the_rest_is_as_before(tmp_path: Path, command: str) -> None:
    """A file holds the model and its counters with `--optimizer-state drop`, has the clone's bits, and verifies."""
    train(tmp_path, count=4)
    given = [tmp_path / f"step_{step}.pt" for step in range(1, 5)]
    out, twin = tmp_path / "rna" / "step_4.pt", tmp_path / "clone.pt"
    if command == "once":
        result = rna_watch("once", tmp_path, *LOCAL, "--optimizer-state", "drop", "--export", "safetensors")
        weights = _manifest(out)["weights"]
        publish_here(given, weights, twin)
    else:
        (tmp_path / "rna").mkdir()
        arguments = ("extrapolate", *given, "--workers", 1, "-o")
        result = rna_watch(*arguments, out, "--optimizer-state", "drop", "--export", "safetensors")
        assert rna_watch(*arguments, twin).returncode == 0
    assert result.returncode == 0, result.stderr
    found, whole = torch.load(out, weights_only=True), torch.load(twin, weights_only=True)
    assert found.keys() == {"step", "model"}
    assert found["step"] == whole["step"] == 4
    assert all(same_bits(found["model"][key], whole["model"][key]) for key in whole["model"])
    assert _manifest(out)["optimizer_state"] == "dropped"
    assert "left out" in _manifest(out)["warning"]
    check_output(out, tmp_path)
    _check_export(out)
    verified = rna_watch("verify", out)
    assert verified.returncode == 0, verified.stdout
    assert "the model alone was written" in verified.stdout
    with out.open("r+b") as file:
        place = out.read_bytes().index(found["model"]["conv.weight"].numpy().tobytes())
        file.seek(place)
        file.write(b"\x01\x02")
    assert rna_watch("verify", out).returncode == 1


def test_a_deepspeed_run_is_watched_published_and_verified(tmp_path: Path) -> None:
    """Real commands on DeepSpeed's folders: consolidated models with manifests, an export, and a verification of all."""
    run = tmp_path / "run"
    for seed in range(1, 5):
        folder = run / f"global_step{10 * seed}"
        deepspeed_forms.write(folder, seed, stage=1 + seed % 3, ranks=2)
    result = rna_watch("once", run, *LOCAL, "--export", "safetensors")
    assert result.returncode == 0, result.stderr
    assert published(run) == ["global_step30", "global_step40"]
    model = run / "rna" / "global_step40"
    manifest = _manifest(model)
    assert manifest["optimizer_state"] == "dropped"
    assert [each["step"] for each in manifest["inputs"]] == [10, 20, 30, 40]
    found, copy = load_file(model / "model.safetensors"), load_file(model.with_name(str(manifest["export"])))
    exact = combine(
        [deepspeed_forms.consolidate(run / each["path"]) for each in manifest["inputs"]], manifest["weights"]
    )
    assert found.keys() == copy.keys() == exact.keys() - deepspeed_forms.SHARED.keys()
    assert all(same_bits(found[key], copy[key]) for key in found)
    assert all(is_rounded(found[key], exact[key].double()) for key in found if found[key].is_floating_point())
    verified = rna_watch("verify", run)
    assert verified.returncode == 0, verified.stdout
    shown = rna_watch("inspect", run / "global_step40")
    assert "deepspeed" in shown.stdout
