"""Windows that the page cache cannot hold: what is read of them leaves nothing in it, and is the same."""

import ctypes
import errno
import math
import mmap
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from rna_watch.acceleration.gram import merge
from rna_watch.layout import open_file
from rna_watch.layout.disk import DONTCACHE
from rna_watch.layout.open_file import cache_bytes, opened
from rna_watch.window import tasks_plan
from tests.engine import windows


def _uncached(layouts):
    """The Gram matrix by tasks that keep nothing in the page cache."""
    work = tasks_plan.gram_tasks(layouts, len(layouts) - 1, windows.BUDGET_MIB)
    assert not any(task.uncached for task in work), "so small a window is kept"
    return merge(windows.serial([replace(task, uncached=len(task.files)) for task in work]))


def _kept(path):
    """Whether the first page of a file is in the page cache."""
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
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


@pytest.mark.parametrize("by_flag", [True, False])
def test_what_is_read_leaves_nothing_in_the_page_cache(tmp_path, monkeypatch, by_flag):
    """By the flag of newer systems, or where the system does not take it, by advice afterwards; the products are the same."""
    layouts = windows.write(tmp_path)
    expected = windows.gram(layouts)
    _dropped(layouts)
    if _kept(layouts[0].path):
        pytest.skip("this file system does not drop what is in the page cache")
    monkeypatch.setattr(open_file.OpenFile, "_by_flag", by_flag)
    assert _uncached(layouts).rows.tobytes() == expected.rows.tobytes()
    assert not any(_kept(layout.path) for layout in layouts)
    windows.gram(layouts)
    assert all(_kept(layout.path) for layout in layouts)


def test_a_system_that_does_not_take_the_flag_is_asked_once(tmp_path, monkeypatch):
    """Systems that are older say so, and tmpfs, at the first read of a file; any other error is one."""
    asked = []
    real = os.preadv

    def preadv(descriptor, buffers, offset, flags=0):
        if flags:
            asked.append(offset)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    layouts = windows.write(tmp_path)
    with opened(layouts[0].files, uncached=True) as (file,):
        parts = [bytearray(100) for _ in range(3)]
        for number, part in enumerate(parts):
            file.read_into(memoryview(part), 100 * number)
    assert b"".join(parts) == Path(layouts[0].path).read_bytes()[:300]
    assert asked == [0]


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


@pytest.mark.parametrize("taken", [True, False])
def test_what_is_written_leaves_nothing_in_the_page_cache(tmp_path, monkeypatch, available, taken):
    """Where the cache cannot hold the window, by the flag or by advice afterwards; the bytes are the same."""
    layouts = windows.write(tmp_path)
    expected = windows.published(layouts, tmp_path / "kept.pt")
    flags = []
    real = os.pwritev

    def pwritev(descriptor, buffers, offset, flag):
        flags.append(flag)
        if not taken:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(descriptor, buffers, offset)

    advised = []
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, *advice: advised.append(advice))
    assert windows.published(layouts, tmp_path / "fits.pt") == expected
    assert not flags
    assert not advised
    available(8)
    assert windows.published(layouts, tmp_path / "outgrown.pt") == expected
    assert set(flags) == {DONTCACHE}
    assert (0, 0, os.POSIX_FADV_DONTNEED) in advised
