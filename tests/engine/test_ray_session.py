"""The place of Ray's session: short, private, held by a lock, and removed only where nobody holds it and it is ours."""

import os
import signal
import stat
import subprocess
import sys
import tempfile

import pytest

from rna_watch.engine import ray_session
from rna_watch.errors import EngineError
from rna_watch.layout import disk
from rna_watch.layout.owned import MARK, MARK_TEXT


@pytest.fixture
def base(tmp_path_factory, monkeypatch):
    """The only places that there are: a short folder, which TMPDIR names."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as base:
        monkeypatch.setattr(ray_session, "_places", lambda: [ray_session.Path(base)])
        yield ray_session.Path(base)


def test_a_session_is_closed_to_others_and_goes_with_all_that_is_in_it(base):
    """Nobody but us enters the folder around the one that Ray opens to everybody; a second removal does nothing."""
    session = ray_session.Session()
    outer = session.folder.parent
    assert stat.S_IMODE(outer.stat().st_mode) == 0o700
    session.folder.mkdir(mode=0o777)
    (session.folder / "session_latest").symlink_to(base)
    session.remove()
    session.remove()
    assert list(base.iterdir()) == []


def test_only_sessions_of_ours_that_nobody_holds_are_removed(base):
    """The session of a process that was killed goes. Held ones, those without our mark, and what only has such a name stay."""
    code = (
        "import pathlib, signal\nfrom rna_watch.layout import disk\n"
        f"held = disk.HeldFolder(pathlib.Path({str(base)!r}), 'rw-', 1)\n"
        "print(held.path, flush=True)\nsignal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    stale = ray_session.Path(child.stdout.readline().strip())
    precious = base / "precious"
    for name in ("rw-2024-results", f"rw-{child.pid}-results", "precious", "rw-empty-mark", "rw-linked-mark"):
        (base / name).mkdir()
        (base / name / "data").write_text("mine")
    (base / "rw-empty-mark" / MARK).touch()
    (base / "text").write_bytes(MARK_TEXT)
    (base / "rw-linked-mark" / MARK).symlink_to(base / "text")
    (base / "rw-link").symlink_to(precious)
    (stale / "behind").symlink_to(precious)
    ours = ray_session.Session()
    before = {path.name for path in base.iterdir()}
    ray_session.remove_stale()
    assert {path.name for path in base.iterdir()} == before
    child.send_signal(signal.SIGKILL)
    child.communicate()
    ray_session.remove_stale()
    assert {path.name for path in base.iterdir()} == before - {stale.name}
    assert (precious / "data").read_text() == "mine"
    ours.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_user_s_session_stays(base):
    """A folder that another user made, with a mark like ours, is not touched."""
    held = disk.HeldFolder(base, "rw-", 1)
    os.close(held._lock)
    os.chown(held.path, 12345, 12345)
    ray_session.remove_stale()
    assert os.path.isdir(held.path)


def test_a_long_or_full_place_gives_way_to_the_next(base, monkeypatch):
    """TMPDIR may be too long for a socket, not there, or full; where none is left, each is named with its reason."""
    long, missing = base / ("x" * 60), base / "none"
    long.mkdir()
    monkeypatch.setattr(ray_session, "_places", lambda: [long, missing, base])
    session = ray_session.Session()
    assert session.folder.parent.parent == base
    longest = f"{session.folder}/session_2026-11-27_08-13-00_123456_4194304/sockets/plasma_store"
    assert len(longest) - len(str(base)) == ray_session._OWN_BYTES + ray_session._RAY_BYTES
    session.remove()
    monkeypatch.setattr(ray_session, "_ROOM_BYTES", 2**62)
    words = r"x is too long a path for Ray's sockets; .*none cannot be used \(No such file.*; .*(is full|be used).*--engine local"
    with pytest.raises(EngineError, match=words):
        ray_session.Session()
    assert sorted(path.name for path in base.iterdir()) == [long.name]


def test_the_places_are_named_once_and_tmpdir_first(monkeypatch):
    """What the environment names comes first, then where every system has room."""
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.delenv("TMP", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert [str(path) for path in ray_session._places()] == ["/var/tmp", "/tmp", "/run/user/1"]
