"""Windows that the page cache cannot hold: what is read of them leaves nothing in it, and is the same."""

import ctypes
import errno
import mmap
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from rna_watch.acceleration.gram import merge
from rna_watch.layout import open_file
from rna_watch.layout.open_file import opened, outgrows_cache
from rna_watch.window import tasks_plan
from tests.engine import windows


def _uncached(layouts):
    """The Gram matrix by tasks that keep nothing in the page cache."""
    work = tasks_plan.gram_tasks(layouts, len(layouts) - 1, windows.BUDGET_MIB)
    assert not any(task.uncached for task in work), "so small a window is kept"
    return merge(windows.serial([replace(task, uncached=True) for task in work]))


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


def test_the_cache_is_as_large_as_the_memory_that_is_available(tmp_path, monkeypatch):
    """A window of more bytes than that outgrows it; where the system does not say, none does."""
    monkeypatch.setattr(open_file, "_MEMORY", tmp_path / "meminfo")
    assert not outgrows_cache(2**60)
    (tmp_path / "meminfo").write_text("MemTotal:       64 kB\nMemAvailable:       8 kB\n")
    assert not outgrows_cache(8 * 1024)
    assert outgrows_cache(8 * 1024 + 1)
    layouts = windows.write(tmp_path)
    assert all(task.uncached for task in tasks_plan.gram_tasks(layouts, 3, 1.0))
