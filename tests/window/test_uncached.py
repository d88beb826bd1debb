"""Windows that the page cache cannot hold: what is read of them leaves nothing in it, and is the same."""

import ctypes
import math
import mmap
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from rna_watch.acceleration.gram import merge
from rna_watch.layout import open_file
from rna_watch.layout.identity import identify
from rna_watch.layout.open_file import cache_bytes, opened
from rna_watch.window import tasks_plan
from tests.engine import windows


def _uncached(layouts):
    """The Gram matrix by tasks that keep nothing in the page cache."""
    work = tasks_plan.gram_tasks(layouts, len(layouts) - 1, windows.BUDGET_MIB)
    assert not any(task.uncached for task in work), "so small a window is kept"
    return merge(windows.serial([replace(task, uncached=len(task.files)) for task in work]))


def _kept(path, offset=0):
    """Whether a page of a file, the first, is in the page cache."""
    with open(path, "rb") as file:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        view = mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, access, offset=offset)
    held, first = ctypes.c_ubyte(), ctypes.c_char.from_buffer(view)
    found = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), mmap.PAGESIZE, ctypes.byref(held))
    assert found == 0
    del first
    view.close()
    return bool(held.value & 1)


def _dropped(layouts):
    """Take all files out of the page cache."""
    for layout in layouts:
        with open(layout.path, "r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_is_read_leaves_nothing_in_the_page_cache(tmp_path):
    """The products are the same."""
    layouts = windows.write(tmp_path)
    expected = windows.gram(layouts)
    _dropped(layouts)
    if _kept(layouts[0].path):
        pytest.skip("this file system does not drop what is in the page cache")
    assert _uncached(layouts).rows.tobytes() == expected.rows.tobytes()
    assert not any(_kept(layout.path) for layout in layouts)
    windows.gram(layouts)
    assert all(_kept(layout.path) for layout in layouts)


def test_what_was_read_ahead_in_large_pieces_is_dropped_too(tmp_path):
    """Of a file that is read in small parts, no more stays than what the system has read ahead last."""
    path = tmp_path / "large"
    path.write_bytes(bytes(2**26))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _kept(path):
        pytest.skip("this file system does not drop what is in the page cache")
    with opened([identify(str(path))], uncached=True) as (file,):
        part = memoryview(bytearray(2**18))
        for offset in range(0, 2**25, len(part)):
            file.read_into(part, offset)
        assert not any(_kept(path, page) for page in range(0, 2**25 - 2**23, 2**16))


def test_files_in_memory_are_read_too():
    """On tmpfs, which has nothing to drop."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        layouts = windows.write(Path(folder), rows=4)
        assert _uncached(layouts).rows.tobytes() == windows.gram(layouts).rows.tobytes()


@pytest.fixture
def available(tmp_path, monkeypatch):
    """Sets the memory that is available, in kB."""
    monkeypatch.setattr(open_file, "_MEMORY", tmp_path / "meminfo")
    return lambda kb: (tmp_path / "meminfo").write_text(f"MemTotal:       64 kB\nMemAvailable:       {kb} kB\n")


def test_the_cache_is_as_large_as_the_memory_that_is_available(tmp_path, available):
    """A window of more bytes than that outgrows it; where the system does not say, none does."""
    layouts = windows.write(tmp_path)
    assert cache_bytes() == math.inf
    assert {task.uncached for task in tasks_plan.gram_tasks(layouts, 3, 1.0)} == {0}
    available(8)
    assert cache_bytes() == 8 * 1024
    assert {task.uncached for task in tasks_plan.gram_tasks(layouts, 3, 1.0)} == {4}


def test_the_cache_keeps_what_it_can_of_a_window_that_it_cannot_hold(tmp_path, available, monkeypatch):
    """The beginning of all checkpoints but the oldest, as much as two thirds of the available memory hold."""
    layouts = windows.write(tmp_path, rows=400)
    monkeypatch.setattr(tasks_plan, "task_elements", lambda _: 2**14)
    size = sum(layout.size_bytes for layout in layouts)
    available(size * 3 // 4 // 1024)
    found = [
        (task.uncached, 3 * sum(each.size_bytes for each in task.segments))
        for task in tasks_plan.gram_tasks(layouts, 3, 1.0)
    ]
    counts = [uncached for uncached, _ in found]
    assert counts == sorted(counts)
    assert set(counts) == {1, 4}
    kept = sum(taken for uncached, taken in found if uncached == 1)
    assert kept <= size / 2 < kept + 2 * 3 * 4 * 2**14


def test_what_is_written_leaves_nothing_in_the_page_cache(tmp_path, monkeypatch, available):
    """Where the cache cannot hold the window, each task sends its part of the model to the disk; the bytes are the same."""
    layouts = windows.write(tmp_path)
    expected = windows.published(layouts, tmp_path / "kept.pt")
    advised = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, *advice: advised.append(advice))
    assert windows.published(layouts, tmp_path / "fits.pt") == expected
    assert not advised
    available(8)
    assert windows.published(layouts, tmp_path / "outgrown.pt") == expected
    assert (0, 0, os.POSIX_FADV_DONTNEED) in advised
