"""The journal and the disk compared: a journal that is gone, models and links that are gone or others than recorded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from rna_watch.errors import StoreAway
from rna_watch.journal.log import read
from rna_watch.journal.replay import replay
from rna_watch.layout import disk
from rna_watch.publishing import output_tree
from tests.daemon.runs import EVALUATOR, LIMIT_S, events, rna_watch, start_foreground, train, wait_until

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = ("--engine", "local", "--keep", "2")


def _models(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "rna").iterdir() if not path.is_symlink()}


@pytest.mark.parametrize("gone", [(), (1, 2, 3, 4), (5,)], ids=["originals there", "old ones gone", "one gone"])
def test_a_journal_is_made_anew_from_the_models(tmp_path: Path, gone: tuple[int, ...]) -> None:
    """The state folder is removed: the models stay as they are, are made once, bounded on, and a later one joins them."""
    run = tmp_path / "run"
    train(run, count=5)
    assert rna_watch("once", run, *LOCAL).returncode == 0
    before = _models(run)
    shutil.rmtree(run / ".rna-watch")
    for step in gone:
        (run / f"step_{step}.pt").unlink()
    result = rna_watch("once", run, *LOCAL)
    assert "there is no journal: 2 models with manifests" in result.stdout
    assert "found rna/step_4.pt, which no journal told of" in result.stdout
    assert "published rna/step_4.pt" not in result.stdout
    assert {name: content for name, content in _models(run).items() if name in before} == before
    assert os.readlink(run / "rna" / "latest") == "step_5.pt"
    state = replay(read(run / ".rna-watch" / "journal.jsonl"))
    assert list(state.outputs) == ["step_4.pt", "step_5.pt"]
    assert {name for name in _models(run) if name.endswith(".pt")} == {"step_4.pt", "step_5.pt"}, (
        "what was made meanwhile"
    )
    assert state.checkpoints["step_5.pt"].step == 5
    train(run, count=3, first=6)
    assert rna_watch("once", run, *LOCAL).returncode == 0
    after_a_gap = "step_5.pt" if 5 in gone else "step_7.pt"  # windows that would reach over it begin anew
    assert {name for name in _models(run) if name.endswith(".pt")} == {after_a_gap, "step_8.pt"}
    assert rna_watch("verify", run).returncode == (3 if 5 in gone else 0)  # an input of step_5.pt
    assert rna_watch("once", run, *LOCAL).returncode == 3


def test_links_are_moved_though_the_disk_was_away_when_a_model_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next model is published `best` is judged and moved, as it would have been."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    train(run, count=5)
    train(calm, count=5)

    def once(folder: Path) -> int:
        count = folder.with_suffix(".count")  # each model is better than the one that was evaluated before
        command = f"echo >> {count}; : {{checkpoint}}; printf '{{\"loss\": %s}}' $((100 - $(wc -l < {count})))"
        return rna_watch("once", folder, *LOCAL, "--evaluate-command", command).returncode

    assert once(calm) == 0
    real, refused = output_tree.point, []

    def point(link: Path, target: Path) -> bool:
        if target.name == "step_4.pt" and not refused:
            refused.append(link.name)
            raise StoreAway("it does not answer")
        return real(link, target)

    monkeypatch.setattr(output_tree, "point", point)
    assert once(run) == 0
    assert refused
    for link in ("latest", "best"):
        assert os.readlink(run / "rna" / link) == os.readlink(calm / "rna" / link)
    moved, expected = (
        [(each.checkpoint, each.value) for each in events(folder, "best_moved")] for folder in (run, calm)
    )
    assert moved == expected
    assert "step_4.pt" in dict(moved)


def test_a_new_journal_judges_what_it_found(tmp_path: Path) -> None:
    """With an evaluator, models of a lost journal are judged anew, and `best` names one that was found to be the best."""
    train(tmp_path, count=5)
    assert rna_watch("once", tmp_path, *LOCAL, "--evaluator", EVALUATOR).returncode == 0
    best = os.readlink(tmp_path / "rna" / "best") if (tmp_path / "rna" / "best").is_symlink() else None
    shutil.rmtree(tmp_path / ".rna-watch")
    assert rna_watch("once", tmp_path, *LOCAL, "--evaluator", EVALUATOR).returncode == 0
    assert (os.readlink(tmp_path / "rna" / "best") if (tmp_path / "rna" / "best").is_symlink() else None) == best
    state = replay(read(tmp_path / ".rna-watch" / "journal.jsonl"))
    assert (state.best.output if state.best else None) == best
    assert rna_watch("verify", tmp_path).returncode == 0


@pytest.mark.parametrize("field", ["checkpoint", "path", "series", "step", "weights"])
def test_a_hostile_manifest_enters_nothing(tmp_path: Path, field: str) -> None:
    """A manifest whose names leave the run, or that is damaged, is not entered, and its model stays."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    shutil.rmtree(tmp_path / ".rna-watch")
    for step in range(1, 5):
        (tmp_path / f"step_{step}.pt").unlink()
    manifest = tmp_path / "rna" / "step_4.pt.json"
    content = json.loads(manifest.read_text())
    if field in {"path", "step"}:
        content["inputs"][-1][field] = "../../step_4.pt" if field == "path" else "four"
    else:
        content[field] = {"checkpoint": "/etc/step_4.pt", "series": None, "weights": [1, "a"]}[field]
    manifest.write_text(json.dumps(content))
    result = rna_watch("once", tmp_path, *LOCAL)
    assert "there is no journal: 1 model with a manifest" in result.stdout
    assert (tmp_path / "rna" / "step_4.pt").exists()
    assert list(replay(read(tmp_path / ".rna-watch" / "journal.jsonl")).outputs) == ["step_3.pt"]


def test_links_and_models_that_somebody_moved_are_put_right(tmp_path: Path) -> None:
    """`latest` and `best` that are gone or name another model name the right one again; a removed model is made again."""
    train(tmp_path, count=5)
    arguments = ("once", tmp_path, *LOCAL, "--keep", "3", "--evaluator", EVALUATOR)
    assert rna_watch(*arguments).returncode == 0
    tree = tmp_path / "rna"
    links = {path.name: os.readlink(path) for path in tree.iterdir() if path.is_symlink()}
    assert "latest" in links
    for name in links:
        (tree / name).unlink()
    (tree / "latest").symlink_to("step_3.pt")
    assert rna_watch("verify", tmp_path).returncode == 1
    assert rna_watch(*arguments).returncode == 3
    assert {path.name: os.readlink(path) for path in tree.iterdir() if path.is_symlink()} == links
    assert rna_watch("verify", tmp_path).returncode == 0
    (tree / "step_4.pt").unlink()
    result = rna_watch("verify", tmp_path, "--json")
    assert result.returncode == 1
    (missing,) = [each for each in json.loads(result.stdout) if each["verdict"] == "missing"]
    assert missing["output"] == str(tree / "step_4.pt")
    assert rna_watch(*arguments).returncode == 0
    assert rna_watch("verify", tmp_path).returncode == 0


def test_a_manifest_that_is_gone_is_said(tmp_path: Path) -> None:
    """A model whose manifest is gone is named as a problem, and by `verify`, until both are made anew."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    (tmp_path / "rna" / "step_3.pt.json").unlink()
    result = rna_watch("verify", tmp_path)
    assert (result.returncode, "step_3.pt: cannot be verified" in result.stdout) == (3, True)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 3
    (problem,) = replay(read(tmp_path / ".rna-watch" / "journal.jsonl")).problems.values()
    assert problem.what == "the manifest of step_3.pt is gone"
    (tmp_path / "rna" / "step_3.pt").rename(tmp_path.with_name(f"{tmp_path.name}.moved"))
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    assert rna_watch("verify", tmp_path).returncode == 0
    assert not replay(read(tmp_path / ".rna-watch" / "journal.jsonl")).problems


@pytest.mark.parametrize("how", ["removed", "replaced", "truncated"])
def test_a_journal_that_is_lost_ends_the_daemon(tmp_path: Path, how: str) -> None:
    """A journal that is removed or replaced while a daemon watches ends it with 1 and a sentence; it publishes no more."""
    train(tmp_path, count=4)
    daemon = start_foreground(tmp_path, *LOCAL)
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    wait_until(lambda: "published" in {each.kind for each in read(journal)})
    if how == "truncated":
        os.truncate(journal, 10)
    else:
        journal.unlink()
    if how == "replaced":
        journal.write_text("somebody's\n")
    begun = time.monotonic()
    output, _ = daemon.communicate(timeout=LIMIT_S)
    assert daemon.returncode == 1
    assert f"the journal {journal} was removed or replaced" in output
    assert time.monotonic() - begun < LIMIT_S / 4
    assert (journal.read_text() if how == "replaced" else "") in {"", "somebody's\n"}
    assert rna_watch("once", tmp_path, *LOCAL).returncode in {0, 3}
    assert rna_watch("verify", tmp_path).returncode == 0


def test_a_model_whose_removal_the_system_refuses_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `keep` leaves out stays recorded while it cannot be removed, so that the next start removes it."""
    train(tmp_path, count=5)
    real = disk._remove

    def refused(folder: int, name: str) -> None:
        if name == "step_3.pt":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        real(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_remove", refused)
        rna_watch("once", tmp_path, *LOCAL)
        assert (tmp_path / "rna" / "step_3.pt").exists()
    rna_watch("once", tmp_path, *LOCAL)
    assert {name for name in _models(tmp_path) if name.endswith(".pt")} == {"step_4.pt", "step_5.pt"}
