"""Nothing that rna-watch did not write is ever replaced, wherever its models are told to lie; and one run has one place."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.status import status_of
from tests.daemon.runs import fingerprints, published, rna_watch, train, wait_until

if TYPE_CHECKING:
    from pathlib import Path

ONCE = ("--engine", "local", "--quiet", 0.1, "--window", 3)


def _digests(folder: Path) -> dict[str, tuple[str, int]]:
    return {name: value for name, value in fingerprints(folder).items() if name.endswith(".pt")}


@pytest.mark.parametrize("way", ["the run is called rna", "rna is a link to the run", "a link to its parent"])
def test_a_place_among_the_run_s_own_checkpoints_is_refused(tmp_path: Path, way: str) -> None:
    """Models would replace originals of their names: one line, an exit code, and nothing is made."""
    run, options = tmp_path / "run", ()
    if way == "the run is called rna":
        run, options = tmp_path / "rna", ("--output", tmp_path)
    train(run, count=4)
    if way == "rna is a link to the run":
        (run / "rna").symlink_to(".")
    if way == "a link to its parent":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "rna").symlink_to(tmp_path)
        options = ("--output", tmp_path / "elsewhere")
    before = _digests(run)
    for command in ("once", "start"):
        result = rna_watch(command, run, *ONCE, *options)
        assert result.returncode == 2, result.stdout
        assert "where models would be written" in result.stderr
        assert "--output" in result.stderr
    assert _digests(run) == before
    assert not list(run.glob("*.json"))


def test_another_training_in_a_folder_called_rna_keeps_its_checkpoints(tmp_path: Path) -> None:
    """A sibling run with the same names: its files are not replaced, and every refusal names one."""
    for name in ("rna", "dna"):
        train(tmp_path / name, count=4)
    before = _digests(tmp_path / "rna")
    result = rna_watch("once", tmp_path / "dna", *ONCE, "--output", tmp_path)
    assert _digests(tmp_path / "rna") == before
    assert "rna-watch did not write" in result.stdout
    assert not list((tmp_path / "rna").glob("*.json"))
    assert published(tmp_path / "dna", tmp_path) == []


def test_what_a_person_put_into_the_output_tree_stays(tmp_path: Path) -> None:
    """A model, a manifest, a plain copy and a link of our names that we did not write; the other models are written."""
    train(tmp_path, count=5)
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    own = tmp_path / "rna"
    own.mkdir()
    files = [own / names[-1], own / f"{names[-2]}.json", own / f"{names[-3].removesuffix('.pt')}.export.safetensors"]
    for file in [*files, own / "latest", own / "best"]:
        file.write_text("mine")
    rna_watch("once", tmp_path, *ONCE, "--export", "safetensors", "--keep", 1)
    assert [file.read_text() for file in files] == ["mine"] * 3
    assert (own / "latest").read_text() == (own / "best").read_text() == "mine"
    shutil.rmtree(own)
    again = rna_watch("once", tmp_path, *ONCE)
    assert again.returncode == 0, again.stderr


def test_extrapolate_replaces_no_file_beside_its_result(tmp_path: Path) -> None:
    """OUT.json that is no manifest is refused like OUT itself; `--force` replaces both."""
    train(tmp_path, count=3)
    given, out = sorted(tmp_path.glob("*.pt")), tmp_path / "out" / "model.pt"
    out.parent.mkdir()
    manifest = out.with_name("model.pt.json")
    manifest.write_text('{"mine": 1}')
    refused = rna_watch("extrapolate", *given, "-o", out)
    assert refused.returncode != 0
    assert "did not write" in refused.stderr
    assert json.loads(manifest.read_text()) == {"mine": 1}
    assert not out.exists()
    assert rna_watch("extrapolate", *given, "-o", out, "--force").returncode == 0
    assert json.loads(manifest.read_text())["schema"] == 1


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    """The second is refused as long as the first is there; a run that was moved goes on with its own."""
    for name in ("one", "two"):
        train(tmp_path / name, count=4)
    options = (*ONCE, "--output", tmp_path / "out")
    assert rna_watch("once", tmp_path / "one", *options).returncode == 0
    before = _digests(tmp_path / "out" / "rna")
    refused = rna_watch("once", tmp_path / "two", *options)
    assert refused.returncode == 2
    assert f"holds the models of another run, {tmp_path / 'one'}" in refused.stderr
    assert _digests(tmp_path / "out" / "rna") == before
    (tmp_path / "one").rename(tmp_path / "moved")
    assert rna_watch("once", tmp_path / "moved", *options).returncode == 3


@pytest.mark.parametrize("removed", ["the whole run", "our own folder"])
def test_a_daemon_whose_folder_is_replaced_ends(tmp_path: Path, removed: str) -> None:
    """It would work on beside a second one, and `stop` would not find it."""
    run = tmp_path / "run"
    train(run, count=3)
    assert rna_watch("start", run, *ONCE).returncode == 0
    owner = status_of(RunPaths(run=run, output=run)).owner
    assert owner is not None
    if removed == "the whole run":
        shutil.rmtree(run)
        run.mkdir()
    else:
        shutil.rmtree(run / ".rna-watch", ignore_errors=True)
    wait_until(lambda: owner.lives() is False)
    train(run, count=3)
    assert rna_watch("start", run, *ONCE).returncode == 0
    again = status_of(RunPaths(run=run, output=run)).owner
    assert again is not None
    assert again.pid != owner.pid
    assert rna_watch("stop", run).returncode == 0
    assert again.lives() is False
