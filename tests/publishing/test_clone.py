"""Clone and patch: the making of the file, its gaps, and what is left when it fails."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.errors import StoreError
from rna_watch.formats.probe import probe
from rna_watch.publishing import clone, draft
from rna_watch.publishing.write import publish
from rna_watch.window import tasks
from rna_watch.window.combine import Combination
from tests.checkpoints import twins
from tests.checkpoints.writers import BARE, model

WEIGHTS = (0.0, -1.0, 2.0)


@pytest.fixture
def paths(tmp_path):
    """Three checkpoints."""
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        BARE.write(path, model(seed), seed)
    return paths


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))), st.integers(1, 20))
def test_gaps_are_the_rest_of_the_file(runs, limit):
    """Patched runs and gaps together are every byte once, and no gap is longer than the limit."""
    size = max((start + count for start, count in runs), default=0) + 5
    gaps = clone._complement(runs, size, limit)
    patched = {place for start, count in runs for place in range(start, start + count)}
    copied = [place for start, count in gaps for place in range(start, start + count)]
    assert copied == sorted(set(range(size)) - patched)
    assert all(0 < count <= limit for _, count in gaps)


def test_a_reflink_leaves_no_gaps(paths, tmp_path, monkeypatch):
    """The clone begins whole if blocks can be shared, and only the model's extents are written."""

    def share(reader, writer):
        return os.sendfile(writer, reader, 0, os.fstat(reader).st_size) > 0

    kinds = []

    def run(work):
        kinds.extend(type(task).__name__ for task in work)
        return [tasks.run(task) for task in work]

    expected = Path(twins.publish_here(paths, WEIGHTS, tmp_path / "copied.pt")).read_bytes()
    monkeypatch.setattr(draft, "share_blocks", share)
    out = tmp_path / "shared.pt"
    combination = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=WEIGHTS)
    publish(combination, str(out), run)
    assert set(kinds) == {"CombineTask"}
    assert out.read_bytes() == expected


def test_an_existing_file_is_replaced_at_once(paths, tmp_path):
    """A reader that holds the older file keeps it whole; the name leads to the new one."""
    out = tmp_path / "out.pt"
    out.write_bytes(b"older")
    with open(out, "rb") as reader:
        twins.publish_here(paths, WEIGHTS, out)
        assert reader.read() == b"older"
    assert torch.load(out, weights_only=True).keys() == model(1).keys()


def test_a_read_only_original_gives_a_file_that_its_owner_can_remove(paths, tmp_path):
    """Permissions are the original's, but for the owner's right to write, which patching needs."""
    paths[-1].chmod(0o444)
    assert os.stat(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")).st_mode & 0o777 == 0o644


def failing(real, code, after):
    """A system call that works `after` times, then fails as it does in life."""
    calls = []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize("small_bytes", [0, 2**22], ids=["in parts", "copied whole"])
@pytest.mark.parametrize(
    ("name", "code", "after"),
    [
        ("pwrite", errno.ENOSPC, 0),
        ("pwrite", errno.ENOSPC, 3),
        ("pwrite", errno.EDQUOT, 10),
        ("ftruncate", errno.ENOSPC, 0),
        ("fchmod", errno.EROFS, 0),
        ("fsync", errno.EIO, 0),
        ("replace", errno.EACCES, 0),
        ("utime", errno.EPERM, 0),
    ],
)
def test_a_failing_disk_leaves_nothing_behind(paths, tmp_path, monkeypatch, name, code, after, small_bytes):
    """Wherever the disk fails, the older output stands whole, the temporary file is gone, and the error says what failed."""
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "model.pt"
    out.write_bytes(b"older")
    monkeypatch.setattr(draft, "_SMALL_BYTES", 0 if name == "ftruncate" else small_bytes)
    monkeypatch.setattr(os, name, failing(getattr(os, name), code, after))
    with pytest.raises((StoreError, OSError), match=os.strerror(code)):
        twins.publish_here(paths, WEIGHTS, out)
    monkeypatch.undo()
    assert out.read_bytes() == b"older"
    assert os.listdir(folder) == ["model.pt"]


@pytest.mark.parametrize("small_bytes", [0, 2**22], ids=["in parts", "copied whole"])
def test_writes_that_the_system_splits_are_finished(paths, tmp_path, monkeypatch, small_bytes):
    """A system that takes a few bytes at a time (signals, network file systems) gets them all."""
    monkeypatch.setattr(draft, "_SMALL_BYTES", small_bytes)
    real_write, real_read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, data[:100], at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: real_read(fd, [part[:77] for part in parts], at))
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    monkeypatch.undo()
    assert zipfile.ZipFile(out).testzip() is None
    assert Path(out).read_bytes() == Path(twins.publish_here(paths, WEIGHTS, tmp_path / "again.pt")).read_bytes()


def test_a_publication_is_put_on_the_disk_before_its_name(paths, tmp_path, monkeypatch):
    """The file's bytes are synced, then it is renamed, then the folder is synced: a crash leaves the old or the new."""
    order = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_sync(descriptor)

    def replace(old, new, **folders):
        order.append("rename")
        real_replace(old, new, **folders)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    assert order == ["file", "rename", "folder"]
