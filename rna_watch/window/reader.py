"""Reading a window's K checkpoints, block by block: as they are stored, and as float64.

Letters: K checkpoints, C companions (momentum buffers, gradients), n elements of a block. A block's values are
`(K + C, n)` float64, or `(K, n)` where these elements have no companions.
"""

from __future__ import annotations

import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rna_watch.layout.dtypes import DTYPES, Array, Float64, widen
from rna_watch.layout.open_file import opened
from rna_watch.window.segments import BLOCK_ELEMENTS, NOWHERE, Piece, cut_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.open_file import OpenFile
    from rna_watch.window.segments import Place, Segment

Bools = npt.NDArray[np.bool_]
# What is asked for as float64 is widened and worked on in blocks of so many bytes, which stay in a core's own cache: smaller ones
# cost calls, larger ones memory traffic.
_CACHE_BYTES = 2**20
_CACHE_STEP = 2048
_OTHER_FILES = 512
# What is read at once: across gaps of so many bytes (headers of small tensors), into as many buffers as the system takes.
_GAP_BYTES = 2**12
_MOST_BUFFERS = 1024
# Where a buffer lies 1 to 31 bytes behind what is read into it, within pages, copies of some processors (AMD Zen 3) take four
# times as long: their `rep movsb` waits for stores that it takes for its own. So rows begin at such lines, and as far behind one
# as the newest checkpoint's bytes do.
_LINE_BYTES = 64


class Block:
    """Some pieces of equal dtype, role and group, as they are stored and, where that is asked for, as float64.

    Both arrays are reused for the next block; `values` may be changed.

    Args:
        pieces: which elements.
        parts: the bits of sources that are stored alike, `(K, n)` and a dtype: the checkpoints, and then their companions.
        room: where values go, for a few columns at a time.
    """

    __slots__ = ("_parts", "_room", "_values", "pieces")

    def __init__(self, pieces: tuple[Piece, ...], parts: Sequence[tuple[Array, str]], room: Float64) -> None:
        self.pieces = pieces
        self._parts = parts
        self._room = room
        self._values: Float64 | None = None

    @property
    def size(self) -> int:
        """How many elements."""
        return self.pieces[-1].column + self.pieces[-1].count

    @property
    def stored(self) -> tuple[Array, str]:
        """The bits of the checkpoints `(K, n)`, and their dtype."""
        return self._parts[0]

    @property
    def values(self) -> Float64:
        """The values of all sources `(K + C, n)`, of a block that is no larger than the room for them."""
        if self._values is None:
            self._values = self._room[: sum(len(bits) for bits, _ in self._parts), : self.size]
            self._widen(slice(0, self.size), self._values)
        return self._values

    def widened(self, columns: slice) -> Float64:
        """Some columns as they are stored, as float64, in an array of their own."""
        found = np.empty((sum(len(bits) for bits, _ in self._parts), columns.stop - columns.start))
        self._widen(columns, found)
        return found

    def _widen(self, columns: slice, into: Float64) -> None:
        first = 0
        for bits, dtype in self._parts:
            widen(bits[:, columns], dtype, into[first : first + len(bits)])
            first += len(bits)

    def steps(self) -> Iterator[Block]:
        """The same a few columns after the other; there is room for the values of one at a time."""
        for start, inside in _steps(self.pieces, self._room.shape[1]):
            columns = slice(start, start + inside[-1].column + inside[-1].count)
            yield Block(inside, [(bits[:, columns], dtype) for bits, dtype in self._parts], self._room)


def still_infinities(values_kn: Float64) -> Bools | None:
    """Which elements are infinite and the same in all checkpoints (the -inf of a mask), or None where there are none.

    They are constants: no residual has a part of them, and every combination keeps them. NaN never is one.
    """
    newest = values_kn[-1]
    if np.isfinite(newest).all():
        return None
    found: Bools = (values_kn == newest).all(axis=0) & np.isinf(newest)
    return found if found.any() else None


def cache_elements(count: int) -> int:
    """How many elements of so many sources are worked on at a time."""
    return max(_CACHE_STEP, _CACHE_BYTES // (8 * count) // _CACHE_STEP * _CACHE_STEP)


def _lines(count: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    """Rows of so many bytes and a line more, which begin at lines of the cache."""
    row = (-(-size_bytes // _LINE_BYTES) + 1) * _LINE_BYTES
    raw = np.empty(count * row + _LINE_BYTES, dtype=np.uint8)
    first = -raw.ctypes.data % _LINE_BYTES
    return raw[first : first + count * row].reshape(count, row)


def _steps(pieces: tuple[Piece, ...], step: int) -> Iterator[tuple[int, tuple[Piece, ...]]]:
    """The pieces of a block, a few columns at a time: the first of these columns, and the pieces at theirs."""
    size = pieces[-1].column + pieces[-1].count
    if size <= step:
        yield 0, pieces
        return
    number = 0
    for start in range(0, size, step):
        stop = min(start + step, size)
        inside = []
        while number < len(pieces):
            piece = pieces[number]
            low, high = max(start, piece.column), min(stop, piece.column + piece.count)
            inside.append(
                Piece(
                    segment=piece.segment, start=piece.start + low - piece.column, count=high - low, column=low - start
                )
            )
            if piece.column + piece.count > stop:
                break
            number += 1
            if piece.column + piece.count == stop:
                break
        yield start, tuple(inside)


def allow_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system allows: windows of sharded checkpoints are many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class WindowReader:
    """Reads blocks of K checkpoints into private, reused buffers; a context that checks the files before and after.

    Args:
        files: of each checkpoint, and of the companions.
        uncached: what is read of so many of them, the first, does not stay in the page cache.

    Raises:
        InputChanged: a file is gone, or is not the one that was planned, before or after the reading.
    """

    def __init__(self, files: Sequence[Sequence[FileIdentity]], uncached: int = 0) -> None:
        self._files = files
        self._uncached = uncached
        self._open = ExitStack()
        self._readers: list[list[OpenFile]] = []
        self._gap = memoryview(bytearray(_GAP_BYTES))
        self.read_bytes = 0

    def __enter__(self) -> WindowReader:
        allow_files(sum(len(files) for files in self._files))
        with ExitStack() as stack:
            stack.enter_context(np.errstate(invalid="ignore"))  # signalling NaNs
            self._readers = [
                stack.enter_context(opened(files, uncached=number < self._uncached))
                for number, files in enumerate(self._files)
            ]
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def steps(self, segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[Block]:
        """All segments, in order, so much at a time that its values stay in a core's cache; arguments as for `blocks`."""
        for block in self.blocks(segments, capacity):
            yield from block.steps()

    def blocks(self, segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[Block]:
        """All segments, in order, as much at a time as is read at once.

        Args:
            segments: what to read.
            capacity: most elements that are read at a time from each source.
        """
        count = len(self._readers)
        room = np.empty((count, min(capacity, cache_elements(count))), dtype=np.float64)
        raw = _lines(count, capacity * 8)
        for pieces in cut_blocks(segments, capacity):
            first = segments[pieces[0].segment]
            sources = len(first.places)
            own = sources - first.companions
            runs = [_runs(k, segments, pieces, DTYPES[first.dtype_of(k)].itemsize) for k in range(sources)]
            shift = runs[own - 1][0][1] % _LINE_BYTES // 8 * 8
            rows = raw[:, shift : shift + capacity * 8]
            for k in range(sources):
                self._read(k, runs[k], rows[k].data)
            parts = ((0, own, first.dtype), (own, sources, first.companion_dtype))[: 2 if first.companions else 1]
            size = pieces[-1].column + pieces[-1].count
            stored = [(rows[low:high].view(DTYPES[dtype].bits)[:, :size], dtype) for low, high, dtype in parts]
            yield Block(pieces, stored, room)

    def _read(self, k: int, runs: Sequence[tuple[int, int, int]], into: memoryview) -> None:
        """Read runs of one checkpoint, one behind the other; those that lie close together in a file at once."""
        done = 0
        near: list[memoryview] = []  # what to read at once: runs, and between them what is thrown away
        begin = at = place = 0
        for file, offset, length in runs:
            part, done = into[done : done + length], done + length
            if file == NOWHERE:
                part[:] = bytes(length)
                continue
            self.read_bytes += length
            gap = offset - at
            if near and (file != place or not 0 <= gap <= len(self._gap) or len(near) + 2 > _MOST_BUFFERS):
                self._readers[k][place].read_all(near, begin)
                near = []
            if not near:
                begin = offset
            elif gap:
                near.append(self._gap[:gap])
            near.append(part)
            place, at = file, offset + length
        if near:
            self._readers[k][place].read_all(near, begin)


def _runs(k: int, segments: Sequence[Segment], pieces: Sequence[Piece], itemsize: int) -> list[tuple[int, int, int]]:
    """What to read of checkpoint k for these pieces: (file, offset, bytes), neighbours in a file as one."""
    runs: list[tuple[int, int, int]] = []
    for piece in pieces:
        for file, offset, count in _part(segments[piece.segment].places[k], piece, itemsize):
            length = count * itemsize
            if runs and runs[-1][0] == file and runs[-1][1] + runs[-1][2] == offset:
                runs[-1] = (file, runs[-1][1], runs[-1][2] + length)
            else:
                runs.append((file, offset, length))
    return runs


def _part(places: tuple[Place, ...], piece: Piece, itemsize: int) -> list[Place]:
    """The places of a piece of a segment."""
    if len(places) == 1:
        ((file, offset, _),) = places
        return [(file, offset + piece.start * itemsize, piece.count)]
    parts = []
    position = 0
    for file, offset, count in places:
        low, high = max(piece.start, position), min(piece.start + piece.count, position + count)
        if low < high:
            parts.append((file, offset + (low - position) * itemsize, high - low))
        position += count
    return parts
