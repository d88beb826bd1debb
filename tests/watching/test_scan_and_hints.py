"""The scan of real folders, and the hints of the real watchdog."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from rna_watch.errors import UsageError
from rna_watch.watching.hints import Hints
from rna_watch.watching.scan import network_file_system, scan

if TYPE_CHECKING:
    from pathlib import Path


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def _scan(run: Path, *patterns: str) -> list[str]:
    found, problems = scan(run, patterns=patterns, exclude=(run / "rna", run / ".rna-watch"))
    assert problems == []
    return [each.name for each in found]


def test_what_looks_like_a_checkpoint_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Usual endings, also in sub-folders; not hidden or temporary files, other files, or what trainers save beside a model."""
    for name in ("a.pt", "b.ckpt", "sub/c.safetensors", "d.pth.tar", "e.BIN"):
        _write(tmp_path / name)
    for name in (
        ".f.pt",
        ".tmpAbCdEf",
        "g.pt.tmp",
        "h.txt",
        "optimizer.pt",
        "optimizer_2.bin",
        "rng_state_0.pth",
        ".x/i.pt",
    ):
        _write(tmp_path / name)
    assert _scan(tmp_path) == ["a.pt", "b.ckpt", "d.pth.tar", "e.BIN", "sub/c.safetensors"]
    assert _scan(tmp_path, "*.txt", "sub/*") == ["h.txt", "sub/c.safetensors"]


def test_our_outputs_are_never_inputs(tmp_path: Path) -> None:
    """Not in the output tree, not through a link into it, and not beside a manifest, wherever that lies."""
    _write(tmp_path / "rna" / "a.pt")
    _write(tmp_path / ".rna-watch" / "window" / "b.pt")
    (tmp_path / "best.pt").symlink_to("rna/a.pt")
    _write(tmp_path / "old" / "c.pt")
    manifest = {"schema": 1, "inputs": [], "weights": [], "coefficients": []}
    (tmp_path / "old" / "c.pt.json").write_text(json.dumps(manifest))
    _write(tmp_path / "d.pt")
    (tmp_path / "d.pt.json").write_text('{"loss": 1}')
    assert _scan(tmp_path) == ["d.pt"]


def test_links_that_lead_nowhere_and_loops_are_passed_over(tmp_path: Path) -> None:
    """A dangling link is no file, and a folder that links to its parent is not entered."""
    _write(tmp_path / "a.pt")
    (tmp_path / "gone.pt").symlink_to("nowhere.pt")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert _scan(tmp_path) == ["a.pt"]


def test_a_run_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing folder, or a file in its place, is wrong usage."""
    with pytest.raises(UsageError, match="does not exist"):
        scan(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no folder"):
        scan(_write(tmp_path / "file"))


def test_events_wake_and_our_own_files_do_not(tmp_path: Path) -> None:
    """A file written or renamed into the folder wakes; what we write ourselves does not."""
    woken = threading.Event()
    (tmp_path / "rna").mkdir()
    hints = Hints(tmp_path, woken.set, [tmp_path / "rna"])
    assert hints.start() == ""
    try:
        assert hints.alive()
        _write(tmp_path / "a.pt")
        assert woken.wait(10)
        outside = _write(tmp_path.parent / f"{tmp_path.name}-outside.pt")
        woken.clear()
        outside.rename(tmp_path / "b.pt")
        assert woken.wait(10)
        _write(tmp_path / "c.pt")
        while woken.wait(1.0):  # the last echoes of c.pt
            woken.clear()
        _write(tmp_path / "rna" / "ours.pt")
        assert not woken.wait(1.0)
    finally:
        hints.stop()
    assert not hints.alive()


def test_a_folder_that_cannot_be_watched_is_a_reason_not_an_error(tmp_path: Path) -> None:
    """Where events cannot be had, scans go on, and the reason is told."""
    hints = Hints(tmp_path / "nowhere", lambda: None, [])
    assert "scans find checkpoints all the same" in hints.start()
    assert not hints.alive()
    hints.stop()


def test_a_local_folder_is_on_no_network(tmp_path: Path) -> None:
    """The file system of a path is that of the innermost mount above it."""
    assert network_file_system(tmp_path) is None
    assert network_file_system(tmp_path / "not" / "there") is None


def test_an_unreadable_sub_folder_is_told_and_the_rest_is_found(tmp_path: Path) -> None:
    """One folder without permission does not hide the others."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    _write(tmp_path / "a.pt")
    _write(tmp_path / "closed" / "b.pt").parent.chmod(0)
    found, problems = scan(tmp_path)
    assert [each.name for each in found] == ["a.pt"]
    assert "closed cannot be read" in problems[0]
