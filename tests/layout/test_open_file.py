"""Reading files that were planned: exactly, in bounded pieces, and only while they are what they were."""

import errno
import os

import numpy as np
import pytest

from rna_watch.errors import InputChanged, Unreadable
from rna_watch.layout.identity import identify
from rna_watch.layout.open_file import FileSlice, OpenFile, opened


@pytest.fixture
def path(tmp_path):
    """A file of two and a half MiB that has rested."""
    path = tmp_path / "a"
    path.write_bytes(os.urandom(5 * 2**19))
    os.utime(path, (1e9, 1e9))
    return path


def test_a_range_comes_in_bounded_pieces(path):
    """The pieces are the range, each of at most a MiB; of a part of a file likewise."""
    content = path.read_bytes()
    with OpenFile(str(path)) as file:
        pieces = [bytes(piece) for piece in file.pieces(3, 2**21 + 5)]
        assert [len(piece) for piece in pieces] == [2**20, 2**20, 5]
        assert b"".join(pieces) == content[3 : 2**21 + 8]
        assert [bytes(piece) for piece in FileSlice(file, 100, 50).pieces(7, 9)] == [content[107:116]]
        assert list(file.pieces(0, 0)) == []


def test_what_the_system_gives_in_parts_is_read_to_its_end(path, monkeypatch):
    """A system that gives a few bytes at a time is asked again; a file that ends before is an error."""
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: real(fd, [part[:1000] for part in parts], at))
    buffer = bytearray(5000)
    with OpenFile(str(path)) as file:
        file.read_into(memoryview(buffer), 17)
        assert buffer == path.read_bytes()[17:5017]
        with pytest.raises(InputChanged, match="a became shorter while it was being read"):
            file.read_into(memoryview(buffer), file.size_bytes - 4999)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_files_that_change_are_noticed_before_and_after(path, when):
    """A rewrite between the plan and the opening, or before the end, spoils the reading."""
    planned = identify(str(path))

    def read():
        with opened([planned]) as (file,):
            if when == "meanwhile":
                path.write_bytes(b"other")
            assert file.identity == planned

    if when == "before":
        path.write_bytes(b"other")
    with pytest.raises(InputChanged, match="a changed while it was being read"):
        read()


def test_a_file_that_is_gone_is_an_error_and_one_that_goes_meanwhile_is_read(path):
    """What was opened stays readable without its name."""
    planned = identify(str(path))
    with opened([planned]) as (file,):
        path.unlink()
        assert len(file.read(0, 10)) == 10
    with pytest.raises(InputChanged, match="a cannot be opened any more"), opened([planned]):
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT])
def test_a_file_that_was_read_before_is_changed_only_where_the_system_says_so(path, monkeypatch, code):
    """Access that is refused for a while, or a disk that fails, says nothing of the bytes; that there is no such file does."""

    def refuse(given, *_arguments, **_options):
        raise OSError(code, os.strerror(code), given)

    file = identify(str(path))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputChanged if code == errno.ENOENT else Unreadable), opened([file]):
        pass


@pytest.mark.parametrize("at_once", [True, False])
def test_several_buffers_are_filled_one_behind_the_other(tmp_path, monkeypatch, at_once):
    """Also where the system reads less than was asked for; a file that became shorter is named."""
    data = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(data)
    if not at_once:
        real = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:100]], offset))
    with OpenFile(str(tmp_path / "a")) as file:
        buffers = [memoryview(bytearray(size)) for size in (5, 300, 1, 4000)]
        file.read_all(buffers, 17)
        assert b"".join(buffers) == data[17 : 17 + 4306]
        with pytest.raises(InputChanged, match="a became shorter while it was being read"):
            file.read_all(buffers, len(data) - 4305)


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 70_000])
def test_large_pieces_lie_in_memory_where_they_lie_in_pages_of_the_file(tmp_path, offset):
    """Copies to places that are a few bytes behind take some processors four times as long."""
    data = np.random.default_rng(0).bytes(3 * 2**20)
    (tmp_path / "a").write_bytes(data)
    with OpenFile(str(tmp_path / "a")) as file:
        found = b""
        for piece in file.pieces(offset, len(data) - offset):
            assert np.frombuffer(piece, np.uint8).ctypes.data % 4096 == offset % 4096
            found += bytes(piece)
    assert found == data[offset:]
