"""Replacing a name at once, durably or not, and what is left when it fails."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rna_watch.errors import StoreError
from rna_watch.layout import disk

MANIFEST = '{"schema": 1, "inputs": [], "weights": [], "coefficients": []}'


@pytest.fixture
def acts(monkeypatch):
    """The renames and the fsyncs, in order, by the name of what they act on."""
    acts = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def fsync(descriptor):
        acts.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def watched(real):
        def call(old, new, **folders):
            acts.append(("rename", os.path.basename(new)))
            real(old, new, **folders)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", watched(replace))
    monkeypatch.setattr(os, "rename", watched(rename))
    return acts


def temporary_name(name):
    """What a temporary path of this process is called."""
    return Path(disk.temporary_path(name)).name


def test_a_temporary_name_is_no_checkpoint_s():
    """The name in the making begins with a dot and ends like nothing that a trainer or a loader looks for."""
    assert disk.temporary_path("folder/epoch_3.pt") == f"folder/{temporary_name('epoch_3.pt')}"
    assert re.fullmatch(
        rf"\.rna-watch-epoch_3\.pt\.{os.getpid()}-[0-9a-f]{{6}}\.tmp", disk.temporary_path("epoch_3.pt")
    )


def test_processes_of_one_number_do_not_share_a_temporary_name():
    """Two containers may each have a process 1 that writes the same file."""
    program = "import os; os.getpid = lambda: 1; from rna_watch.layout import disk; print(disk.temporary_path('a'))"
    names = [subprocess.check_output([sys.executable, "-c", program], text=True) for _ in range(2)]
    assert names[0] != names[1]


def test_a_file_is_on_the_disk_before_its_name_and_its_name_after(tmp_path, acts):
    """Durable: bytes, rename, folder, so that a machine that stops leaves the old file or the new one."""
    with disk.replacing(tmp_path / "a", durable=True) as temporary:
        Path(temporary).write_text("new")
    assert acts == [("fsync", temporary_name("a")), ("rename", "a"), ("fsync", tmp_path.name)]
    assert (tmp_path / "a").read_text() == "new"


def test_what_need_not_last_is_not_synced(tmp_path, acts):
    """Not durable: one rename, and no waiting for the disk."""
    with disk.replacing(tmp_path / "a", durable=False) as temporary:
        Path(temporary).write_text("new")
    assert acts == [("rename", "a")]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_swapped_whole(tmp_path, acts, monkeypatch, exchanges):
    """All files and folders in it are on the disk first; a full folder of that name gives way, at once if that is possible."""
    if not exchanges:
        monkeypatch.setattr(disk, "_exchanged", lambda *_: False)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "a.json").write_text(MANIFEST)
    with disk.replacing(tmp_path / "a", durable=True) as temporary:
        Path(temporary, "b").mkdir(parents=True)
        Path(temporary, "b", "c").touch()
    name = temporary_name("a")
    synced = {("fsync", each) for each in (name, "b", "c")}
    assert set(acts[:3]) == synced
    renamed = [] if exchanges else [("rename", f"{name}.old.tmp"), ("rename", "a")]
    before_the_old_one_goes_and_at_the_end = [("fsync", tmp_path.name)] * 2
    assert acts[3:] == [*renamed, *before_the_old_one_goes_and_at_the_end]
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/b", "a/b/c", "a.json"]


def test_a_link_to_a_folder_is_replaced_as_a_link(tmp_path):
    """A link takes the name of an older link, and what both name stays as it is."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with disk.replacing(tmp_path / "best", durable=False) as temporary:
            Path(temporary).symlink_to(name)
    assert os.readlink(tmp_path / "best") == "two"
    assert sorted(os.listdir(tmp_path)) == ["best", "one", "two"]


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(("call", "after"), [("fsync", 0), ("fsync", 1), ("rename", 0), ("rename", 1)])
def test_a_disk_that_fails_leaves_the_old_one_or_the_new_one_and_nothing_else(
    tmp_path, monkeypatch, folder, call, after
):
    """Whichever act fails, the name stands for something whole, and no temporary name stays."""
    place = tmp_path / "a"
    (tmp_path / "a.json").write_text(MANIFEST)
    if folder:
        place.mkdir()
    content = place / "in" if folder else place
    content.write_text("old")
    call = "replace" if call == "rename" and not folder else call
    real, calls = getattr(os, call), []

    def fail(*arguments, **folders):
        calls.append(arguments)
        if len(calls) == after + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **folders)

    def make():
        with disk.replacing(place, durable=True) as temporary:
            if folder:
                Path(temporary).mkdir()
            Path(temporary, "in" if folder else "").write_text("new")

    monkeypatch.setattr(os, call, fail)
    monkeypatch.setattr(disk, "_exchanged", lambda *_: False)  # as on a file system that cannot
    if call == "replace" and after:
        make()
    else:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            make()
    assert content.read_text() in {"old", "new"}
    assert sorted(os.listdir(tmp_path)) == ["a", "a.json"]


def test_what_is_raised_while_it_is_made_leaves_the_old_one(tmp_path):
    """A file that is given up half-written never has the name; one that an earlier try left is made again."""
    (tmp_path / "a").write_text("old")
    (tmp_path / temporary_name("a")).mkdir()

    def give_up():
        with disk.replacing(tmp_path / "a", durable=True) as temporary:
            Path(temporary).write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_errors_of_the_disk_say_what_to_do(tmp_path):
    """What could not be written, why, and the option that names another folder."""
    words = r"cannot write x/y: No such file or directory; make room there, or name another folder with --out$"
    with pytest.raises(StoreError, match=words), disk.writing("x/y", "--out"):
        (tmp_path / "none" / "y").write_text("")
