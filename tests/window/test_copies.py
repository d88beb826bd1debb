"""Copies of a checkpoint's pieces: the right bytes at the right places, with little memory and few open files."""

import os
import tracemalloc
import zlib

import pytest

from rna_watch.errors import InputChanged
from rna_watch.layout.identity import identify
from rna_watch.layout.layout import Chunk, Extent, Role
from rna_watch.window import copies
from rna_watch.window.combine import Patch


def written(folder, contents):
    """Files of these contents, and as many empty ones to copy to."""
    sources, outputs = [], []
    for number, content in enumerate(contents):
        sources.append(folder / f"source{number}")
        sources[-1].write_bytes(content)
        outputs.append(str(folder / f"output{number}"))
        (folder / f"output{number}").write_bytes(b"")
    return tuple(identify(str(path)) for path in sources), outputs


def test_bytes_go_to_their_place_and_views_into_logical_order(tmp_path):
    """Raw bytes keep their offset; a view that lies in two files comes out contiguous; only the latter is reported as a patch."""
    files, outputs = written(tmp_path, [b"abcdefgh", b"ijklmnop"])
    chunks = (Chunk(file=0, offset_bytes=4, start=0, count=4), Chunk(file=1, offset_bytes=0, start=4, count=2))
    extent = Extent(name="w", dtype="uint8", role=Role.COPIED, chunks=chunks)
    view = copies.of_view(extent, (2, 3), (1, 2), 0, 1, 3)  # the transposed of (3, 2)
    patches = copies.write_copies(files, [copies.of_bytes(0, 2, 3, 0), *view], outputs)
    assert (tmp_path / "output0").read_bytes() == b"\0\0cde"
    assert (tmp_path / "output1").read_bytes() == b"\0\0\0egifhj"
    assert patches == [Patch(file=1, offset_bytes=3, size_bytes=6, crc=zlib.crc32(b"egifhj"))]


def test_a_large_gap_takes_little_memory(tmp_path):
    """Raw bytes are copied in pieces, however many a copy has."""
    content = os.urandom(2**20) * 32
    files, outputs = written(tmp_path, [content])
    tracemalloc.start()
    try:
        copies.write_copies(files, [copies.of_bytes(0, 0, len(content), 0)], outputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21
    assert (tmp_path / "output0").read_bytes() == content


def test_many_small_files_are_open_one_after_the_other(tmp_path, monkeypatch):
    """A task over hundreds of files that a checkpoint carries needs no more descriptors than over one."""
    files, outputs = written(tmp_path, [b"x"] * 200)
    real, counts = copies.write_all, []

    def write(descriptor, data, offset):
        counts.append(len(os.listdir("/proc/self/fd")))
        real(descriptor, data, offset)

    monkeypatch.setattr(copies, "write_all", write)
    copies.write_copies(files, [copies.of_bytes(number, 0, 1, number) for number in range(200)], outputs)
    assert len(counts) == 200
    assert max(counts) == counts[0]
    assert all((tmp_path / f"output{number}").read_bytes() == b"x" for number in range(200))


@pytest.mark.parametrize("content", [b"", b"abc", b"ABCDEFGH, longer"])
def test_a_source_that_changed_is_not_copied(tmp_path, content):
    """A file that was rewritten since it was planned, to any length, is noticed."""
    files, outputs = written(tmp_path, [b"abcdefgh"])
    (tmp_path / "source0").write_bytes(content)
    with pytest.raises(InputChanged, match="source0 changed"):
        copies.write_copies(files, [copies.of_bytes(0, 0, 8, 0)], outputs)
