"""Keeping a checkpoint's bytes under another name."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from rna_watch.daemon.pinned_file import COPY, LINK, REFLINK, pin
from rna_watch.errors import InputChanged
from rna_watch.layout import disk
from rna_watch.layout.identity import identify

RESTED = (10**18, 10**18)


class Stopped(Exception):
    """The command is stopping."""


def go_on():
    """Nothing asks to stop."""


@pytest.fixture
def source(tmp_path):
    """A checkpoint of some megabytes (of no format: pinning does not look inside)."""
    path = tmp_path / "epoch_1.pt"
    path.write_bytes(os.urandom(3_000_001))
    os.utime(path, ns=RESTED)
    return path


@pytest.fixture
def store(tmp_path):
    """The window store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def pinned(source, store, *, link, proceed=go_on):
    """Pin a file as it is now."""
    return pin(identify(str(source)), str(store / "pinned"), link=link, proceed=proceed)


@pytest.mark.parametrize("link", [True, False])
def test_pinned_bytes_survive_unlink_and_rename(source, store, link):
    """However it is pinned, a file that the trainer removes or replaces is still there, and nothing else is left in the store."""
    content = source.read_bytes()
    kind, identity = pinned(source, store, link=link)
    assert kind == (LINK if link else COPY)
    assert identity == identify(str(store / "pinned"))
    source.unlink()
    assert (store / "pinned").read_bytes() == content
    assert os.listdir(store) == ["pinned"]


def test_a_link_is_the_file_itself(source, store):
    """A hard link takes no room, and has the identity that was probed."""
    before = identify(str(source))
    _, identity = pinned(source, store, link=True)
    assert identity.inode == source.stat().st_ino
    assert before.same_content(identity)


def test_a_copy_survives_a_rewrite_in_place(source, store):
    """A copy keeps the bytes, the mode and the modification time when the trainer writes over the original."""
    content, mode = source.read_bytes(), source.stat().st_mode
    _, identity = pinned(source, store, link=False)
    source.write_bytes(b"new")
    assert (store / "pinned").read_bytes() == content
    assert identity.mtime_ns == RESTED[0]
    assert (store / "pinned").stat().st_mode == mode


def test_an_older_pin_is_replaced(source, store):
    """A pin and a half-made one of an earlier try give way."""
    (store / "pinned").write_bytes(b"old")
    Path(disk.temporary_path(str(store / "pinned"))).write_bytes(b"half")
    pinned(source, store, link=False)
    assert (store / "pinned").read_bytes() == source.read_bytes()
    assert os.listdir(store) == ["pinned"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_no_link_can_be_made_it_is_copied(source, store, code, monkeypatch):
    """Another file system (EXDEV), a system that protects others' files (EPERM), too many links (EMLINK): a copy does."""

    def link(*_arguments, **_folders):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    kind, _ = pinned(source, store, link=True)
    assert kind == COPY
    assert (store / "pinned").read_bytes() == source.read_bytes()


def test_the_target_of_a_symbolic_link_is_pinned(source, store, tmp_path):
    """`last.pt`, a link that the trainer will move, is pinned as the file that it shows now."""
    (tmp_path / "last.pt").symlink_to(source.name)
    pinned(tmp_path / "last.pt", store, link=True)
    assert not (store / "pinned").is_symlink()
    assert (store / "pinned").samefile(source)


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_not_the_one_probed_is_not_pinned(source, store, link, gone):
    """A file that was rewritten or removed since it was probed gives `InputChanged`, and no pin."""
    identity = identify(str(source))
    if gone:
        source.unlink()
    else:
        source.write_bytes(b"another checkpoint")
    words = "changed" if not gone else "is gone" if link else "cannot be opened any more"
    with pytest.raises(InputChanged, match=rf"epoch_1\.pt {words}"):
        pin(identity, str(store / "pinned"), link=link, proceed=go_on)
    assert os.listdir(store) == []


@pytest.mark.parametrize("size", [0, 1_000_000, 3_000_001])
def test_a_file_that_changes_while_it_is_copied_is_not_pinned(source, store, size):
    """A rewrite during the copy, to any length, is noticed when the copy ends."""
    calls = []

    def proceed():
        calls.append(None)
        if len(calls) == 2:
            source.write_bytes(os.urandom(size))

    with pytest.raises(InputChanged):
        pinned(source, store, link=False, proceed=proceed)
    assert os.listdir(store) == []


def test_a_long_copy_can_be_given_up(source, store):
    """`proceed` is asked before every piece, and what it raises ends the copy without a trace."""
    calls = []

    def proceed():
        calls.append(None)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        pinned(source, store, link=False, proceed=proceed)
    assert len(calls) == 3
    assert os.listdir(store) == []


def test_a_store_without_room_says_so(source, store, monkeypatch):
    """A full disk is the store's trouble: the system's own error arrives, and no half copy stays."""

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        pinned(source, store, link=False)
    assert os.listdir(store) == []


def test_shared_blocks_are_used_where_the_file_system_has_them(source, store, monkeypatch):
    """A reflink that works is reported as one, and no byte is copied by hand."""

    def ioctl(writer, request, reader):
        assert request == 0x40049409  # FICLONE
        os.sendfile(writer, reader, 0, os.fstat(reader).st_size)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "pwrite", None)
    kind, _ = pinned(source, store, link=False)
    assert kind == REFLINK
    assert (store / "pinned").read_bytes() == source.read_bytes()


def test_a_file_system_without_shared_blocks_says_so(tmp_path):
    """Two files that cannot share blocks, as on ext4, are answered with no, for the caller to copy instead."""
    reader, writer = os.pipe()
    try:
        assert disk.share_blocks(reader, writer) is False
    finally:
        os.close(reader)
        os.close(writer)
