"""`rna-watch verify`: real outputs of real commands, whole, changed, cut, without their inputs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.commands.verify import conclude
from rna_watch.daemon import pinned_file
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.formats.probe import probe
from rna_watch.layout import artifacts
from rna_watch.publishing.inputs import Finder
from rna_watch.publishing.verification import Input, Verdict, VerificationEnded, read_manifest, verify
from rna_watch.publishing.write import publish
from rna_watch.window import tasks
from rna_watch.window.combine import Combination
from tests.daemon.runs import fingerprints, rna_watch, train
from tests.publishing.test_differences import _offset, flip

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints, nested with an optimizer, tied weights and batch norm, after `once`, and moved since."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, count=5)
    result = rna_watch("once", folder, "--engine", "local")
    assert result.returncode == 0, result.stderr
    return folder.rename(folder.with_name("moved"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy, symlinks=True)
    return copy


def _newest(run: Path) -> Path:
    return run / "rna" / "step_5.pt"


def _manifest(run: Path) -> tuple[Path, dict]:
    path = run / "rna" / "step_5.pt.json"
    return path, json.loads(path.read_text())


def _verify(model: Path):
    """In this process: the verdict and all sentences as one."""
    manifest = artifacts.manifest_path(model)
    done = verify(read_manifest(manifest), model, Finder(manifest.parent, None))
    return done.verdict, " / ".join((*done.problems, *done.notes))


def _without_pins(run: Path) -> None:
    shutil.rmtree(run / ".rna-watch" / "pins")


def test_every_model_of_a_run_is_what_it_claims(finished: Path, tmp_path: Path) -> None:
    """A run directory, its output tree, a link and a manifest stand for models; each is verified once, nothing is written."""
    before = fingerprints(finished), fingerprints(finished / "rna")
    link = finished / "rna" / "latest"
    result = rna_watch("verify", finished, finished / "rna", link, finished / "rna" / "step_4.pt.json")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(finished / "rna" / f"step_{k}.pt") for k in (3, 4, 5)]
    assert all("verified: 344 values are bit for bit the combination of" in line for line in lines)
    one = rna_watch("verify", "latest", cwd=finished / "rna")
    assert one.stdout.startswith("latest -> step_5.pt: verified: 344 values")
    assert (fingerprints(finished), fingerprints(finished / "rna")) == before


def test_best_and_an_output_elsewhere_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal says where the inputs lie with --output, and the run directory names its models."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    train(tmp_path / "run", count=3, form="zip")
    rna_watch("once", tmp_path / "run", "--engine", "local", "--output", tmp_path / "out", "--pin", "none")
    best = tmp_path / "out" / "rna" / "best"
    best.symlink_to("step_3.pt")
    for given in (best, tmp_path / "run"):
        result = rna_watch("verify", given, cwd="/")
        assert result.returncode == 0, result.stdout + result.stderr
        assert "verified" in result.stdout


def test_extrapolated_models_verify_in_every_form(tmp_path: Path) -> None:
    """Paths as they were typed, safetensors that keep no checksums, and bfloat16."""
    train(tmp_path, count=4, form="safetensors")
    names = [f"step_{k}.safetensors" for k in range(1, 5)]
    rna_watch("extrapolate", *names, "-o", "out.safetensors", cwd=tmp_path)
    result = rna_watch("verify", "out.safetensors", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.splitlines()[1:] == ["  the file keeps no checksums"]
    for k in range(1, 5):
        generator = torch.Generator().manual_seed(k)
        torch.save({"w": torch.randn(300, generator=generator).bfloat16()}, tmp_path / f"half_{k}.pt")
    halves = [f"half_{k}.pt" for k in range(1, 5)]
    rna_watch("extrapolate", *halves, "-o", "half.pt", "--regularization", "0.01", cwd=tmp_path)
    assert rna_watch("verify", "half.pt", cwd=tmp_path).returncode == 0
    elsewhere = rna_watch("verify", tmp_path / "half.pt", cwd="/")
    assert elsewhere.returncode == 0, elsewhere.stdout


def test_the_key_of_the_model_is_known_from_the_manifest(tmp_path: Path) -> None:
    """Files with two models: the manifest says which of them was combined, so nothing need be said again."""
    for k in range(3):
        torch.save({"a": {"w": torch.ones(4) * k**2}, "b": {"w": torch.ones(2) * k}}, tmp_path / f"step_{k}.pt")
    names = [f"step_{k}.pt" for k in range(3)]
    options = ("--source", "a", "--method", "average")
    made = rna_watch("extrapolate", *names, "-o", "out.pt", *options, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    result = rna_watch("verify", "out.pt", cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("repair", [False, True], ids=["checksum as it was", "checksum repaired"])
def test_a_flipped_bit_is_named_by_its_tensor(run: Path, repair: bool) -> None:
    """The model differs, exit code 1; without its checksum it is damaged too."""
    flip(_newest(run), _offset(_newest(run), "conv.weight", 3), repair=repair)
    result = rna_watch("verify", run / "rna")
    assert result.returncode == 1
    assert result.stderr == "rna-watch: 1 of 3 models is not what the manifest claims\n"
    lines = result.stdout.splitlines()
    assert lines[2] == f"{_newest(run)}: DIFFERS from what its manifest claims"
    assert lines[3].startswith("  the file is damaged: the checksum of conv.weight (record") == (not repair)
    assert lines[-1].startswith("  conv.weight: 1 of 36 elements is not the combination of its inputs; largest diff")


def test_json_is_alone_on_standard_output(run: Path) -> None:
    """One array: output, verdict, inputs with the paths where they were found, problems."""
    flip(_newest(run), _offset(_newest(run), "positions"), repair=True)
    (run / "step_1.pt").unlink()
    _without_pins(run)
    result = rna_watch("verify", _newest(run), "--json")
    assert result.returncode == 1
    (report,) = json.loads(result.stdout)
    assert (report["output"], report["verdict"]) == (str(_newest(run)), "differs")
    assert [each["path"] for each in report["inputs"]] == [None, *(str(run / f"step_{k}.pt") for k in range(2, 6))]
    assert [each["ok"] for each in report["inputs"]] == [False, True, True, True, True]
    (problem,) = report["problems"]
    assert problem.startswith("positions: 1 of 5 elements is not copied from its newest input; largest difference")


def test_a_missing_input_makes_a_model_unverifiable(run: Path) -> None:
    """Exit code 3, and which: gone with its weight and where it was looked for."""
    _without_pins(run)
    (run / "step_2.pt").unlink()
    result = rna_watch("verify", _newest(run))
    assert result.returncode == 3
    assert result.stderr == "rna-watch: the model is not verifiable any more\n"
    first, second = result.stdout.splitlines()
    assert first.endswith("step_5.pt: cannot be verified")
    assert second.startswith("  input step_2.pt (weight +")
    assert f"is gone (looked in {run}" in second


def test_an_output_of_the_same_name_is_not_taken_for_a_missing_input(run: Path) -> None:
    """Seen from the output tree, `step_5.pt` is the model itself, whole or not: the original is gone, not changed."""
    _without_pins(run)
    (run / "step_5.pt").unlink()
    for _ in range(2):
        verdict, said = _verify(_newest(run))
        assert verdict is Verdict.UNVERIFIABLE
        assert re.search(r"input step_5.pt \(weight \S+\) is gone \(looked in ", said)
        assert "changed" not in said
        shutil.copy(run / "rna" / "step_4.pt", run / "rna" / "step_5.pt")


def test_damage_is_found_without_the_inputs(run: Path) -> None:
    """A file that does not match its own checksums differs, whatever is left of its inputs."""
    _without_pins(run)
    (run / "step_2.pt").unlink()
    flip(_newest(run), _offset(_newest(run), "conv.weight", 3), repair=False)
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.DIFFERS
    assert "the checksum of conv.weight" in words
    assert "step_2.pt" in words


def test_the_oldest_input_does_not_matter_but_the_newest_does(run: Path) -> None:
    """An input of weight 0 may be gone; the newest lends integers and everything else, so it may not."""
    _without_pins(run)
    (run / "step_1.pt").unlink()
    assert _verify(_newest(run))[0] is Verdict.VERIFIED
    (run / "step_5.pt").unlink()
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.UNVERIFIABLE
    assert words.startswith("input step_5.pt (weight")


def test_pinned_copies_stand_in_for_what_the_trainer_deleted(run: Path) -> None:
    """The trainer removed or overwrote its files: the pins are recognised by their contents."""
    for k in (1, 2, 3):
        (run / f"step_{k}.pt").unlink()
    (run / "step_4.pt").write_bytes((run / "step_5.pt").read_bytes())
    manifest = read_manifest(_manifest(run)[0])
    finder = Finder(run / "rna", None)
    found = [finder(each) for each in manifest.inputs]
    assert all(not isinstance(each, str) and each.path.endswith(".pinned") for each in found[:2])
    assert _verify(_newest(run)) == (Verdict.VERIFIED, "")


@pytest.mark.parametrize("link", [True, False])
def test_an_input_with_other_contents_is_not_taken(run: Path, link: bool) -> None:
    """A file of the recorded name that holds something else makes the model unverifiable, even pinned under a wrong name."""
    _without_pins(run)
    (run / "step_3.pt").write_bytes((run / "step_2.pt").read_bytes())
    recorded = read_manifest(_manifest(run)[0]).inputs[2]
    (run / ".rna-watch" / "pins").mkdir()
    wrong = run / ".rna-watch" / "pins" / f"x.{recorded.fingerprint[:8]}.pinned"
    pinned_file.pin(probe(str(run / "step_2.pt")).files[0], str(wrong), link=link, proceed=lambda: None)
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.UNVERIFIABLE
    assert f"changed: {run / 'step_3.pt'} no longer holds what was combined" in words


def test_a_rotten_input_is_blamed_not_the_model(run: Path) -> None:
    """A bit of an input that flipped without its checksum leaves the fingerprint as it was: the input is damaged."""
    _without_pins(run)
    flip(run / "step_3.pt", _offset(run / "step_3.pt", "conv.weight", 5), bit=6, repair=False)
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.UNVERIFIABLE
    assert words.startswith(f"input {run / 'step_3.pt'} is damaged: the checksum of conv.weight")


def test_edited_weights_differ_everywhere(run: Path) -> None:
    """Weights that still sum to one: five tensors are named and the others counted; tied ones once."""
    path, content = _manifest(run)
    content["weights"][2] += 0.25
    content["weights"][3] -= 0.25
    path.write_text(json.dumps(content))
    result = rna_watch("verify", _newest(run))
    assert result.returncode == 1
    lines = result.stdout.splitlines()[1:]
    assert lines[0].startswith("  conv.weight: 36 of 36 elements are not the combination of its inputs")
    assert len(lines) == 6
    assert lines[5] == "  and 3 more tensors"  # conv.bias, before a batch norm, never moves


def test_a_truncated_output_is_not_complete(run: Path) -> None:
    """It says how far the file goes."""
    os.truncate(_newest(run), 4000)
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.DIFFERS
    assert words.startswith("the file is not complete: its zip directory, written last, is not there (4000 bytes")


@pytest.mark.parametrize(
    ("edit", "verdict", "words"),
    [
        (lambda _: "{", Verdict.DIFFERS, "its manifest is damaged: it is not JSON"),
        (lambda _: "[]", Verdict.DIFFERS, "it has no schema number"),
        (lambda c: c | {"schema": 99}, Verdict.UNVERIFIABLE, "schema 99: this rna-watch does not know it, update it"),
        (lambda c: c | {"schema": True}, Verdict.DIFFERS, "it has no schema number"),
        (lambda c: c | {"inputs": [1]}, Verdict.DIFFERS, "does not name its inputs"),
        (lambda c: c | {"weights": None}, Verdict.DIFFERS, "it has no weights"),
        (lambda c: c | {"weights": c["weights"][1:]}, Verdict.DIFFERS, "it has 4 weights for 5 inputs"),
        (lambda c: c | {"weights": [0, 0, 0, 0, float("nan")]}, Verdict.DIFFERS, "a weight is not finite"),
        (lambda c: c | {"weights": [0, 0, 0, 0, 10**400]}, Verdict.DIFFERS, "a weight is not finite"),
        (lambda c: c | {"weights": [0, 0, 0, 0.5, 0.50001]}, Verdict.DIFFERS, "its weights sum to 1.00001, not to 1"),
        (lambda c: c | {"layer_weights": [1]}, Verdict.DIFFERS, "its layer_weights are no rows of weights by name"),
        (lambda c: c | {"layer_weights": {"w": [0, 1]}}, Verdict.DIFFERS, "for w, it has 2 weights for 5 inputs"),
        (lambda c: c | {"layer_weights": {"w": [0, 0, 0, 0, 2]}}, Verdict.DIFFERS, "for w, its weights sum to 2, not"),
        (lambda c: c | {"statistics": []}, Verdict.UNVERIFIABLE, r"statistics: \[\]; this rna-watch does not"),
        (lambda c: c | {"statistics": "dreamt"}, Verdict.UNVERIFIABLE, "statistics: 'dreamt'; this rna-watch does not"),
    ],
)
def test_a_broken_manifest_says_what_is_broken(run: Path, edit, verdict: Verdict, words: str) -> None:
    """Every field that the check rests on is looked at before."""
    path, content = _manifest(run)
    edited = edit(content)
    path.write_text(edited if isinstance(edited, str) else json.dumps(edited))
    with pytest.raises(VerificationEnded, match=words) as caught:
        read_manifest(path)
    assert caught.value.verdict is verdict
    result = rna_watch("verify", _newest(run)) if edited == "{" else None
    assert result is None or (result.returncode, "its manifest is damaged" in result.stdout) == (1, True)


@pytest.mark.parametrize("clamp", [True, False])
def test_the_manifest_says_how_running_variances_were_treated(tmp_path: Path, clamp: bool) -> None:
    """A combination below zero that was kept so, or not, verifies under its own word only."""
    folder = tmp_path / "rna"
    folder.mkdir()
    for k in range(3):
        content = {"weight": torch.tensor([float(k), 1.0]), "running_var": torch.tensor([1.0 + 5 * k**2, 2.0])}
        torch.save(content, tmp_path / f"step_{k}.pt")
    layouts = tuple(probe(str(tmp_path / f"step_{k}.pt")) for k in range(3))
    model = folder / "step_2.pt"
    publish(Combination(layouts=layouts, weights=(0.0, 2.0, -1.0), clamp=clamp), str(model), tasks.run_all)
    assert (torch.load(model, weights_only=True)["running_var"][0] >= 0) == clamp
    content = {
        "schema": 1,
        "inputs": [{"path": f"step_{k}.pt", "fingerprint": each.fingerprint} for k, each in enumerate(layouts)],
        "weights": [0.0, 2.0, -1.0],
    }
    manifest = artifacts.manifest_path(model)
    for statistics, fits in (("clamped", clamp), ("combined", not clamp), (None, clamp), ("re-estimated", True)):
        manifest.write_text(json.dumps(content | ({"statistics": statistics} if statistics else {})))
        verdict, words = _verify(model)
        assert (verdict is Verdict.VERIFIED) == fits, (statistics, words)
        assert ("1 normalization statistics (such as running_var) were re-estimated" in words) == (
            statistics == "re-estimated"
        )


def test_a_model_of_another_architecture_differs(run: Path) -> None:
    """The tensors that are not the newest input's are named."""
    torch.save({"model": {"conv.weight": torch.zeros(3)}}, _newest(run))
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.DIFFERS
    assert words.startswith("its tensors are not those of its newest input: the model changed: ")


def test_what_lies_beside_the_model_is_the_newest_inputs(run: Path) -> None:
    """A value of the optimizer that was changed is a difference, though every tensor of the model is right."""
    content = bytearray(_newest(run).read_bytes())
    owned = {chunk.offset_bytes for extent in probe(str(_newest(run))).extents for chunk in extent.chunks}
    momentum = torch.load(run / "step_5.pt", weights_only=True)["optimizer"]["state"][0]["momentum_buffer"]
    place = content.index(momentum.contiguous().numpy().tobytes())
    assert place not in owned
    flip(_newest(run), place, repair=True)
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.DIFFERS
    assert "beside the model, this differs from its newest input: record step_5/data/" in words


def test_a_model_that_was_saved_again_says_what_was_not_compared(run: Path) -> None:
    """Its tensors still verify; where the rest lies is another question."""
    content = torch.load(_newest(run), weights_only=True)
    torch.save({"comment": "x" * 300, **content}, _newest(run))
    verdict, words = _verify(_newest(run))
    assert verdict is Verdict.VERIFIED
    assert words == "the file was saved again since: what it holds beside the model was not compared"


def test_an_input_that_changes_meanwhile_gives_no_verdict(run: Path) -> None:
    """A trainer that rewrites a checkpoint under the comparison makes the model unverifiable, in words."""
    manifest = read_manifest(_manifest(run)[0])
    finder = Finder(run / "rna", None)

    def find(wanted: Input):
        found = finder(wanted)
        if wanted is manifest.inputs[-1]:
            with (run / "step_3.pt").open("ab") as file:
                file.write(b"x")
        return found

    done = verify(manifest, _newest(run), find)
    assert done.verdict is Verdict.UNVERIFIABLE
    assert "step_3.pt changed while it was being read; the result was thrown away; try again" in done.problems[0]


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("{run}/rna/none.pt", 2, "none.pt does not exist"),
        ("{run}/step_1.pt", 2, "step_1.pt has no manifest (step_1.pt.json) next to it: only what rna-watch wrote"),
        ("{run}/empty", 3, "there is no model with a manifest below"),
        ("{run}/rna/step_9.pt.json", 1, "the model is not what the manifest claims"),
    ],
)
def test_what_cannot_be_looked_at_is_said(run: Path, given: str, code: int, words: str) -> None:
    """A wrong path is wrong usage, an empty folder nothing to do, a manifest without its model a model that is gone."""
    (run / "empty").mkdir()
    shutil.copy(run / "rna" / "step_5.pt.json", run / "rna" / "step_9.pt.json")
    result = rna_watch("verify", given.format(run=run))
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_worst_verdict_decides_the_exit_code(run: Path) -> None:
    """One that differs outweighs one that cannot be verified."""
    manifest = read_manifest(_manifest(run)[0])

    def gone(_: Input) -> str:
        return "is gone"

    unverifiable = verify(manifest, _newest(run), gone)
    verified = verify(manifest, _newest(run), Finder(run / "rna", None))
    os.truncate(_newest(run), 100)
    differs = verify(manifest, _newest(run), gone)
    conclude([verified])
    with pytest.raises(NothingToDo, match="1 of 2 models is not verifiable any more"):
        conclude([verified, unverifiable])
    with pytest.raises(RnaWatchError, match="2 of 4 models are not what the manifest claims") as caught:
        conclude([differs, unverifiable, differs, verified])
    assert caught.value.exit_code == 1


def test_lines_come_as_each_model_is_done(run: Path) -> None:
    """A person sees a line before the next model is read."""
    command = [sys.executable, "-u", "-m", "rna_watch", "verify", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "step_3.pt: verified" in process.stdout.readline()
        process.stdout.read()
    assert process.returncode == 0
