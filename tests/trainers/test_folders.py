"""Folders through the whole of rna-watch, without their trainers: crashes, republication, commands, full disks, verification."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon.pipeline import Pipeline
from rna_watch.layout.disk import TEMPORARY_PREFIX
from tests.daemon.in_process import process
from tests.daemon.runs import events, published, rna_watch, start_foreground, wait_until
from tests.trainers.live_run import listing, watched
from tests.trainers.saved_folder import CARRIED, SHARDED, SHARDS, save
from tests.trainers.watched import check_combination, check_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCAL = ("--engine", "local", "--workers", 1, "--keep", 20)
_KILLED = """
import os, shutil, sys
what, text = sys.argv[1:3]
owner = shutil if what == "rmtree" else os
real = getattr(owner, what)
def killed(*arguments, **options):
    if str(arguments[-1]).endswith(text):
        os._exit(137)
    return real(*arguments, **options)
setattr(owner, what, killed)
from rna_watch.layout import disk
disk._exchanged = lambda *_: False  # as on a file system that cannot
from rna_watch.cli import main
sys.argv = ["rna-watch", *sys.argv[3:]]
main()
"""
# no torch: it is started for every candidate
_EVALUATE = """
import json, math, os, struct, sys
names = sorted(os.listdir(sys.argv[1]))
total = 0.0
for name in names:
    if name.endswith(".safetensors"):
        data = open(os.path.join(sys.argv[1], name), "rb").read()
        start = 8 + struct.unpack_from("<Q", data)[0]
        for key, entry in json.loads(data[8:start]).items():
            if key != "__metadata__" and entry["dtype"] == "F32":
                low, high = entry["data_offsets"]
                total += sum(abs(v) for v in struct.unpack(f"<{(high - low) // 4}f", data[start + low:start + high]))
print(json.dumps({"loss": total, "files": len(names)}))
"""


def _train(run: Path, *steps: int, seed: int = 0) -> None:
    for step in steps:
        folder = run / f"checkpoint-{step}"
        if folder.exists():
            shutil.rmtree(folder)
        save(folder, step // 100, seed=seed)


def _leftovers(run: Path) -> list[str]:
    return [path.name for path in (run / "rna").rglob("*") if path.name.startswith(TEMPORARY_PREFIX)]


@pytest.mark.parametrize(
    ("what", "text", "there"),
    [
        ("rename", ".old.tmp", "old"),  # the old model is about to be swapped out
        ("rename", "checkpoint-400", "none"),  # it is out, the new one is about to be swapped in
        ("rmtree", ".old.tmp", "new"),  # the new one is in, the old one is about to be removed
    ],
)
def test_killed_while_a_folder_is_replaced(tmp_path: Path, what: str, text: str, there: str) -> None:
    """A run began again in its folder; killed at each step of replacing a model, a restart ends as if never killed."""
    _train(tmp_path, 200, 300, 400)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    model = tmp_path / "rna" / "checkpoint-400"
    old = model.stat().st_ino
    _train(tmp_path, 200, 300, 400, seed=1)
    given = [sys.executable, "-c", _KILLED, what, text, "once", tmp_path, *LOCAL]
    assert subprocess.run([*map(str, given)], capture_output=True, check=False).returncode == 137
    inode = model.stat().st_ino if model.exists() else None
    assert {"old": inode == old, "none": inode is None, "new": inode not in {None, old}}[there]
    assert _leftovers(tmp_path)
    result = rna_watch("once", tmp_path, *LOCAL)
    assert result.returncode == 0, result.stderr
    assert published(tmp_path) == ["checkpoint-400"] * 2
    assert (model.stat().st_ino == inode) == (there == "new")
    check_folder(model, tmp_path)
    assert _leftovers(tmp_path) == []
    assert rna_watch("verify", model).returncode == 0
    sizes = [event.written_bytes for event in events(tmp_path, "published")]
    assert sizes == [sum(file.stat().st_size for file in model.iterdir())] * 2


def test_killed_at_many_points_it_ends_as_if_never_killed(tmp_path: Path) -> None:
    """SIGKILL after every few lines of the journal: the same models in the end, each published once, nothing else left."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    for folder in (run, calm):
        _train(folder, *range(100, 700, 100))
    before = listing(run)
    journal = run / ".rna-watch" / "journal.jsonl"

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for step in (4, 9, 3, 5, 6, 4, 8):
        target = lines() + step
        daemon = start_foreground(run, *LOCAL)
        try:
            wait_until(lambda target=target: lines() >= target or len(published(run)) == 4)
        finally:
            daemon.kill()
            daemon.communicate()
        for model in (run / "rna").glob("checkpoint-*[0-9]"):
            check_folder(model, run)
    for folder in (run, calm):
        assert rna_watch("once", folder, *LOCAL).returncode in {0, 3}
    assert sorted(published(run)) == published(calm) == [f"checkpoint-{step}" for step in (300, 400, 500, 600)]
    assert _leftovers(run) == []
    assert listing(run) == before
    for name in published(calm):
        for file in (calm / "rna" / name).iterdir():
            assert (run / "rna" / name / file.name).read_bytes() == file.read_bytes()


def test_a_folder_is_waited_for_in_words_while_it_is_written(tmp_path: Path) -> None:
    """Beside a living daemon, what is still to come is named at each stage, and the folder is taken when it is whole."""
    run = tmp_path / "run"
    run.mkdir()
    whole = save(tmp_path / "checkpoint-100", 1)

    def reasons() -> list[str]:
        return [event.reason for event in events(run, "waiting")]

    with watched(run, report_after_s=0.01):
        folder = run / "checkpoint-100"
        folder.mkdir()
        done = 0
        for last, reason in (
            ("config.json", "no weights"),
            (SHARDS[1], "index"),
            ("rng_state.pth", "trainer_state.json"),
        ):
            until = SHARDED.index(last) + 1
            for name in SHARDED[done:until]:
                shutil.copy(whole / name, folder / name)
            done = until
            wait_until(lambda reason=reason: any(reason in each for each in reasons()))
            assert not events(run, "admitted")
        shutil.copy(whole / SHARDED[-1], folder / SHARDED[-1])
        wait_until(lambda: bool(events(run, "finished")))
        save(run / "checkpoint-200", 2, SHARDED[:-1])
        wait_until(lambda: any("trainer_state.json" in each for each in reasons()[3:]))
        shutil.rmtree(run / "checkpoint-200")
        wait_until(lambda: bool(events(run, "vanished")))
    assert [event.checkpoint for event in events(run, "admitted")] == ["checkpoint-100"]


def test_a_command_evaluates_folders(tmp_path: Path) -> None:
    """{checkpoint} is a folder like the one that is published: model and configuration, no training state; then it is gone."""
    _train(tmp_path, *range(100, 600, 100))
    (tmp_path / "evaluate.py").write_text(_EVALUATE)
    command = f"{sys.executable} {tmp_path / 'evaluate.py'} {{checkpoint}}"
    result = rna_watch("once", tmp_path, *LOCAL, "--evaluate-command", command, "--metric", "loss", "--mode", "min")
    assert result.returncode == 0, result.stderr
    assert published(tmp_path) == ["checkpoint-300", "checkpoint-400", "checkpoint-500"]
    for name in published(tmp_path):
        model = tmp_path / "rna" / name
        said = subprocess.run([sys.executable, tmp_path / "evaluate.py", model], capture_output=True, check=True)
        metrics = json.loads(model.with_name(f"{name}.json").read_text())["metrics"]
        assert metrics["chosen"] == json.loads(said.stdout)
        assert metrics["chosen"]["files"] == len(CARRIED) + len(SHARDS)
    assert list((tmp_path / ".rna-watch" / "scratch").iterdir()) == []


def test_only_so_many_folders_are_kept(tmp_path: Path) -> None:
    """An older model is removed with all that is in it with --keep 1."""
    _train(tmp_path, *range(100, 600, 100))
    assert rna_watch("once", tmp_path, *LOCAL[:-1], 1).returncode == 0
    assert sorted(path.name for path in (tmp_path / "rna").iterdir()) == [
        "checkpoint-500",
        "checkpoint-500.json",
        "latest",
    ]


def test_folders_are_extrapolated_by_hand_and_verified(tmp_path: Path) -> None:
    """`extrapolate` writes a folder, replaces only its own, and `verify` finds what was changed in it afterwards."""
    _train(tmp_path, 100, 200, 300, 1000)
    given = [tmp_path / f"checkpoint-{step}" for step in (1000, 300, 100, 200)]
    out = tmp_path / "model"
    for force in ((), ("--force",)):
        result = rna_watch("extrapolate", *given, "-o", out, "--json", *force)
        assert result.returncode == 0, result.stderr
        manifest = json.loads(result.stdout)
        assert [each["step"] for each in manifest["inputs"]] == [100, 200, 300, 1000]
        check_combination(out, sorted(given, key=lambda path: int(path.name[11:])), manifest["weights"])
    assert rna_watch("verify", out).returncode == 0
    precious = tmp_path / "precious"
    save(precious, 7)
    refused = rna_watch("extrapolate", *given, "-o", precious, "--force")
    assert refused.returncode == 1
    assert "did not write" in refused.stderr
    assert (precious / "trainer_state.json").is_file()
    for name in (SHARDS[0], "config.json"):
        whole, saved = (out / name).read_bytes(), (out / name).stat()
        (out / name).write_bytes(whole[:-2] + b"?" + whole[-1:])
        os.utime(out / name, ns=(saved.st_atime_ns, saved.st_mtime_ns))  # a flipped bit leaves no trace in the times
        changed = rna_watch("verify", out)
        assert changed.returncode == 1
        assert ("embedding.weight" if name == SHARDS[0] else name) in changed.stdout
        (out / name).write_bytes(whole)
        os.utime(out / name, ns=(saved.st_atime_ns, saved.st_mtime_ns))
    (out / SHARDS[1]).unlink()
    assert SHARDS[1] in rna_watch("verify", out).stdout


@pytest.mark.parametrize("link", [True, False])
def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    """Copy and model wait without room besides the reserve, which is reported; links need no room; then it goes on."""
    _train(tmp_path, 100, 200, 300)
    settings = {"pin": "link" if link else "copy", "reserve": 3000 / 2**30}
    with monkeypatch.context() as nearly_full:
        real = shutil.disk_usage
        nearly_full.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=5000))
        state = process(tmp_path, tmp_path, **settings)
    assert published(tmp_path) == []
    assert state.problems.keys() == {"held"} | (set() if link else {"pin"})
    assert bool(list((tmp_path / ".rna-watch" / "pins").iterdir())) == link
    assert {event.pin for event in events(tmp_path, "admitted")} == {"link" if link else "none"}
    assert process(tmp_path, tmp_path, **settings).checkpoints["checkpoint-300"].stage == "published"
    check_folder(tmp_path / "rna" / "checkpoint-300", tmp_path)


def test_a_folder_that_goes_before_it_is_read_is_left_out_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpinned and removed by retention: it is skipped in words, the window is tried again without it."""
    _train(tmp_path, 100, 200, 300, 400)
    real: Callable[[Pipeline, str], None] = Pipeline.process

    def removed_before(pipeline: Pipeline, name: str) -> None:
        if name == "checkpoint-400":
            shutil.rmtree(tmp_path / "checkpoint-100")
            real(pipeline, name)
        real(pipeline, name)

    monkeypatch.setattr(Pipeline, "process", removed_before)
    state = process(tmp_path, tmp_path, pin="none")
    assert "gone" in state.checkpoints["checkpoint-100"].reason
    assert "checkpoint-100" in events(tmp_path, "failed")[0].reason
    assert published(tmp_path) == ["checkpoint-300", "checkpoint-400"]
    manifest = json.loads((tmp_path / "rna" / "checkpoint-400.json").read_text())
    assert [each["path"] for each in manifest["inputs"]] == ["checkpoint-200", "checkpoint-300", "checkpoint-400"]
    check_folder(tmp_path / "rna" / "checkpoint-400", tmp_path)
