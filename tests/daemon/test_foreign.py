"""Other people's files: nothing beside, above or behind links loses a byte, whatever lies in our folders or in our journal."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.layout.owned import MARK
from tests.daemon import run_0_1_0
from tests.daemon.runs import events, published, rna_watch, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCAL = ("--engine", "local")
STATE = ("pins", "window", "scratch", "lock", "journal.jsonl", "log", "owner.json", "heartbeat.json", MARK)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four checkpoints and two models."""
    run = tmp_path_factory.mktemp("watched") / "run"
    train(run, count=4)
    assert rna_watch("once", run, *LOCAL).returncode == 0
    return run


@pytest.fixture
def run(watched: Path, tmp_path: Path) -> Path:
    """A copy of it, in a folder of its own beside the canary."""
    run = shutil.copytree(watched, tmp_path / "run", symlinks=True)
    _change_start(run / ".rna-watch" / "journal.jsonl", run=str(run), output=str(run))
    return run


def _change_start(journal: Path, **fields: str) -> None:
    known = list(log.read(journal))
    changed = [dataclasses.replace(each, **fields) if isinstance(each, e.Started) else each for each in known]
    journal.write_bytes(b"".join(map(log.encode, changed)))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What is not ours, under names as we make them."""
    folder = tmp_path / "canary"
    for place in (
        folder,
        folder / "step_9.pt.00000000.pinned",
        folder / "candidate-1",
        folder / ".rna-watch-a.1-b.tmp",
    ):
        place.mkdir()
        for name in ("data", "step_8.pt", ".rna-watch-c.1-d.tmp", "candidate-2.pt"):
            (place / name).write_bytes(b"precious" * 100)
    return folder


def _content(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("to", ["file", "folder"])
@pytest.mark.parametrize("name", [*STATE, ".", "rna"])
def test_a_link_in_the_place_of_what_is_ours_is_refused(run: Path, canary: Path, name: str, to: str) -> None:
    """`.rna-watch`, `rna` and what we keep there are no links: one line says which is, and what to do; exit code 2."""
    place = run / "rna" if name == "rna" else run / ".rna-watch" / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(canary / "data" if to == "file" else canary)
    before = _content(canary)
    result = rna_watch("once", run, *LOCAL)
    assert result.returncode == 2
    assert f"{place} is a symbolic link" in result.stderr
    assert "--allow-links" in result.stderr
    assert _content(canary) == before


def test_links_among_models_and_pins_are_replaced_or_removed_not_followed(run: Path, canary: Path) -> None:
    """A model whose name is a link gets its name; leftovers that are links go; what all of them show stays."""
    models, state = run / "rna", run / ".rna-watch"
    train(run, count=1, first=5)
    shutil.copy(models / "step_4.pt.json", models / "step_5.pt.json")
    (models / "step_5.pt").symlink_to(canary / "data")
    (models / "step_3.pt").unlink()
    (models / "step_3.pt").symlink_to(canary)
    (models / "best").symlink_to(canary / "data")
    (models / ".rna-watch-e.1-f.tmp").symlink_to(canary)
    (state / "pins" / "step_9.pt.00000000.pinned").symlink_to(canary)
    (state / "scratch").mkdir(exist_ok=True)
    (state / "scratch" / "candidate-7").symlink_to(canary)
    mine = [
        state / "pins" / "notes",
        state / "scratch" / "notes",
        models / "best-of-all",
        models / "step_5.pt.export.safetensors.bak",
    ]
    for path in mine:
        path.symlink_to("nowhere")
    before = _content(canary)
    result = rna_watch("once", run, *LOCAL, "--keep", 1)
    assert result.returncode == 0, result.stderr
    assert _content(canary) == before
    assert not (models / "step_5.pt").is_symlink()
    assert not any(os.path.lexists(models / name) for name in ("step_3.pt", ".rna-watch-e.1-f.tmp"))
    assert not os.path.lexists(state / "pins" / "step_9.pt.00000000.pinned")
    assert not os.path.lexists(state / "scratch" / "candidate-7")
    assert all(path.is_symlink() for path in mine)


def test_a_folder_of_models_that_is_a_link_gets_none(run: Path, canary: Path) -> None:
    """`rna/sub` is a link: nothing is written or removed behind it, and the reason is recorded."""
    train(run / "sub", count=4, first=6)
    (run / "rna" / "sub").symlink_to(canary)
    before = _content(canary)
    rna_watch("once", run, *LOCAL, "--patterns", "sub/*.pt")
    assert _content(canary) == before
    assert any("symbolic link" in event.reason for event in events(run, "failed"))


def _bad(folder: Path) -> list[str]:
    return [str(folder), f"../{folder.name}", "../../canary", "a/../../canary", "a//b", "./a", "..", ".", "a\0b"]


def test_paths_of_a_journal_that_lead_elsewhere_cost_their_lines(run: Path, canary: Path) -> None:
    """Lines with sound checksums whose paths leave our folders are left out, which is said; the run goes on."""
    known = list(log.read(run / ".rna-watch" / "journal.jsonl"))
    admitted = next(each for each in known if isinstance(each, e.Admitted))
    (run / "precious.pinned").write_text("mine")
    lines: list[e.Event] = []
    for bad in _bad(canary):
        lines += [
            dataclasses.replace(admitted, checkpoint="step_0.pt", pin="copy", pin_path=bad, fingerprint="0"),
            dataclasses.replace(admitted, checkpoint=bad, fingerprint="1"),
            dataclasses.replace(admitted, checkpoint="step_00.pt", path=bad, fingerprint="2"),
            e.Published(checkpoint="step_3.pt", output=bad, written_bytes=0, seconds=0.0),
            e.Publishing(checkpoint="step_3.pt", output=bad, temporary="a", manifest_digest=""),
            e.BestMoved(checkpoint="step_3.pt", output=bad, value=0.0),
            e.BestWithdrawn(checkpoint="step_3.pt", output=bad, reason=""),
            e.Pruned(checkpoint="step_3.pt", output=bad),
        ]
    count = len(lines)
    # these are well formed, and name what is not ours all the same
    lines += [
        dataclasses.replace(admitted, checkpoint="step_0.pt", pin="copy", pin_path=name, fingerprint="3")
        for name in ("precious.pinned", "step_1.pt", "rna/step_3.pt", ".rna-watch/journal.jsonl", "rna", ".rna-watch")
    ]
    lines += [e.Publishing(checkpoint="step_4.pt", output="step_4.pt", temporary="step_3.pt", manifest_digest="")]
    with (run / ".rna-watch" / "journal.jsonl").open("ab") as file:
        for number, each in enumerate(lines, known[-1].seq + 1):
            file.write(log.encode(dataclasses.replace(each, seq=number)))
    before = _content(canary)
    result = rna_watch("once", run, *LOCAL)
    assert result.returncode in {0, 3}, result.stderr
    assert _content(canary) == before
    assert (run / "precious.pinned").read_text() == "mine"
    assert {"step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt"} <= set(os.listdir(run))
    assert set(published(run)) == {"step_3.pt", "step_4.pt"}
    problems = json.loads(rna_watch("status", run, "--json").stdout)["problems"]
    assert f"{count} lines of the journal are not ours and left out" in json.dumps(problems)


def test_links_above_ours_are_followed(run: Path, tmp_path: Path) -> None:
    """A person may type a path with links in it, for the run and for --output."""
    (tmp_path / "link").symlink_to(tmp_path)
    train(run, count=1, first=5)
    assert rna_watch("once", tmp_path / "link" / "run", *LOCAL).returncode == 0
    assert published(run)[-1] == "step_5.pt"
    (tmp_path / "elsewhere").mkdir()
    (run / "out").symlink_to(tmp_path / "elsewhere")
    assert rna_watch("once", run, *LOCAL, "--output", run / "out" / "new").returncode == 0
    assert (tmp_path / "elsewhere" / "new" / "rna" / "step_5.pt").is_file()


def test_allowed_links_are_followed(run: Path, tmp_path: Path) -> None:
    """With --allow-links the state and the pins may lie on other disks; models are made as ever, by a command too."""
    (run / ".rna-watch").rename(tmp_path / "state")
    (run / ".rna-watch").symlink_to(tmp_path / "state")
    (tmp_path / "state" / "pins").rename(tmp_path / "pins")
    (tmp_path / "state" / "pins").symlink_to(tmp_path / "pins")
    train(run, count=1, first=5)
    command = "test -f {checkpoint} && echo '{\"loss\": 1}'"
    given = ("once", run, *LOCAL, "--evaluate-command", command)
    assert rna_watch(*given).returncode == 2
    result = rna_watch(*given, "--allow-links")
    assert result.returncode == 0, result.stderr
    assert "step_5.pt" in published(run)
    assert list((tmp_path / "pins").iterdir())
    assert list((tmp_path / "state" / "scratch").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".rna-watch", "rna", ".rna-watch/journal.jsonl", ".rna-watch/pins"])
def test_what_belongs_to_another_user_is_refused(run: Path, name: str) -> None:
    """Folders and files that another user made in our places are not used, unless that is allowed."""
    os.chown(run / name, 12345, 12345)
    result = rna_watch("once", run, *LOCAL)
    assert result.returncode == 2
    assert f"{run / name} belongs to another user (12345" in result.stderr
    assert rna_watch("once", run, *LOCAL, "--allow-links").returncode in {0, 3}


def _notes(run: Path) -> list[str]:
    return [event.text for event in events(run, "noted") if "older version" in event.text]


def test_a_folder_of_0_1_0_is_taken_over_once(tmp_path: Path) -> None:
    """It carries no mark yet: the journal says that it is this folder's, it gets the mark, and that is said, once."""
    paths = run_0_1_0.make(tmp_path)
    run_0_1_0.save(tmp_path, 6)
    for _ in range(2):
        assert rna_watch("once", tmp_path, *LOCAL).returncode in {0, 3}
        assert _notes(tmp_path) == [f"{paths.state} was made by an older version and is taken over"]
    assert (paths.state / MARK).is_file()


def _of_another(state: Path) -> str:
    _change_start(state / "journal.jsonl", output="/somewhere/else")
    return "its journal is that of a run whose outputs lay in /somewhere/else"


def _of_nobody(state: Path) -> str:
    (state / "journal.jsonl").unlink()
    (state / "thesis.tex").write_text("mine")
    return "it holds thesis.tex, and no journal of ours"


@pytest.mark.parametrize("change", [_of_another, _of_nobody])
def test_a_folder_without_mark_that_is_not_this_run_s_is_refused(tmp_path: Path, change: Callable[[Path], str]) -> None:
    """An unpacked or foreign folder in our place is not worked in, unless a person says that it is right."""
    paths = run_0_1_0.make(tmp_path)
    run_0_1_0.save(tmp_path, 6)
    reason = change(paths.state)
    refused = rna_watch("once", tmp_path, *LOCAL)
    assert refused.returncode == 2
    assert f"does not carry the mark of rna-watch, and {reason}" in refused.stderr
    assert len(list((paths.state / "window").iterdir())) == run_0_1_0.COUNT
    rna_watch("once", tmp_path, *LOCAL, "--allow-links")
    assert (paths.state / MARK).is_file()
