"""The format of `torch.save` before torch 1.6: five pickles, then the storages, without gaps.

A magic number, a protocol version, facts about the machine, the object itself and the list of storage keys are a pickle
each; a storage is its number of elements in 8 bytes, then its bytes. There is no directory and no checksum: a file is
complete when its last storage ends where it does. Source: torch/serialization.py, `_legacy_save`, and the views of storages
in `persistent_id` of torch 0.1.10 to 0.3.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import loading, safe_pickle, storages, torch_zip
from rna_watch.formats.format import FileFormat
from rna_watch.formats.safe_pickle import Storage, StorageType
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.open_file import HEADER_LIMIT_BYTES

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout
    from rna_watch.layout.open_file import OpenFile

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_OPENING = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_PICKLE_PROTOCOLS = b"\x02\x03\x04\x05"
_FRAME = b"\x95"
# a tar archive begins with its first member's name; torch < 0.1.10 put this one first
_TAR_NAMES = (b"sys_info".ljust(64, b"\0"), b"././@PaxHeader".ljust(64, b"\0"))
_READ_AHEAD_BYTES = 2**16
_LINE_LIMIT_BYTES = 2**16
_SAMPLES = 1024
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()} | {
    "": 1,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
}
# a short text of digits, in any pickle protocol: the addresses that serve as keys are such
_KEY = re.compile(rb"(?:X.\0\0\0|[\x8cU].)(\d+)", re.DOTALL)


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """The layout of a complete file.

    Raises:
        IncompleteCheckpoint: it ends before its last storage does, or behind it.
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    if file.read(0, 1) != b"\x80":
        raise RefusedCheckpoint(
            "it is a tar archive, as torch before 0.1.10 wrote them; if torch.load(..., weights_only=False) reads it, save "
            "it again with today's torch"
        )
    stream = _Stream(file)
    references = _References()
    try:
        if safe_pickle.read(stream, references) != _MAGIC:
            raise ValueError("its magic number is damaged")
        if safe_pickle.read(stream, references) != _PROTOCOL_VERSION:
            raise RefusedCheckpoint(f"its protocol version is not {_PROTOCOL_VERSION}, the only one that torch had")
        _check_machine(safe_pickle.read(stream, references))
        tree = safe_pickle.read(stream, references)
        end_of_tree = stream.position
        keys = safe_pickle.read(stream, references)
    except ValueError as error:
        if stream.only_zeros_follow():
            raise IncompleteCheckpoint(f"it is zeros from byte {stream.position} on: not written yet") from error
        raise RefusedCheckpoint(str(error)) from error
    _check_keys(keys, references)
    places = _walk(file, stream.position, keys, references)

    def locate(storage: Storage) -> tuple[int, int]:
        return places[storage.key][0], storage.count * _ITEM_BYTES[storage.dtype]

    def fingerprint() -> str:
        return _fingerprint(file, end_of_tree, [(key, *places[key]) for key in references.storages])

    return storages.layout(file, FORMAT.name, tree, source, locate, fingerprint)


class _Stream:
    """The front of a file, read forward in pieces that are bounded, whatever a pickle claims."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._start = 0
        self._ahead = b""
        self._at = 0
        self._cut = f"it ends at byte {file.size_bytes}, within its pickles"

    @property
    def position(self) -> int:
        """The byte of the file that comes next."""
        return self._start + self._at

    def tell(self) -> int:
        """The same, as a stream gives it."""
        return self.position

    def read(self, count: int) -> bytes:
        """So many bytes.

        Raises:
            IncompleteCheckpoint: the file ends before.
            RefusedCheckpoint: no pickle of a checkpoint is so long.
        """
        if self._at + count > len(self._ahead):
            self._advance(count)
        data = self._ahead[self._at : self._at + count]
        self._at += count
        return data

    def readline(self) -> bytes:
        """The bytes up to the end of the line, and that."""
        end = self._ahead.find(b"\n", self._at)
        if end < 0:
            left = self._file.size_bytes - self.position
            self._advance(min(_LINE_LIMIT_BYTES, left))
            end = self._ahead.find(b"\n")
            if end < 0 and left <= _LINE_LIMIT_BYTES:
                raise IncompleteCheckpoint(self._cut)
            if end < 0:
                raise ValueError("a line without end")
        return self.read(end + 1 - self._at)

    def only_zeros_follow(self) -> bool:
        """Whether the byte read last and those behind it are zeros, as in a file of which the end is not written yet."""
        start = max(0, self.position - 1)
        return not self._file.read(start, min(64, self._file.size_bytes - start)).strip(b"\0")

    def _advance(self, count: int) -> None:
        start, size = self.position, self._file.size_bytes
        if start + count > size:
            raise IncompleteCheckpoint(self._cut)
        if start + count > HEADER_LIMIT_BYTES:
            raise RefusedCheckpoint(f"its pickles are longer than {HEADER_LIMIT_BYTES} bytes: it is damaged")
        self._ahead = self._file.read(start, min(max(count, _READ_AHEAD_BYTES), size - start, HEADER_LIMIT_BYTES))
        self._start, self._at = start, 0


class _References:
    """What persistent ids say of storages: by key, in the order of first use, their dtypes and lengths."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._views: dict[str, tuple[str, int, int]] = {}

    def __call__(self, pid: Any) -> object:
        match pid:
            case ("module", kind, _file, _source):
                return kind
            case ("storage", StorageType(dtype=dtype), str(key), _location, int(count), view):
                whole = Storage(key=key, dtype=dtype, count=count)
                if count < 0 or key in self._views or self.storages.setdefault(key, whole) != whole:
                    raise ValueError(f"storage {key} is described in two ways")
                return whole if view is None else self._view(whole, view)
        raise ValueError("a reference of an unknown kind")

    def _view(self, whole: Storage, view: Any) -> Storage:
        match view:
            case (str(key), int(start), int(count)) if whole.dtype and min(start, count) >= 0:
                known = self._views.setdefault(key, (whole.key, start, count))
                if key in self.storages or known != (whole.key, start, count):
                    raise ValueError(f"the view {key} of a storage is described in two ways")
                if start + count > whole.count:
                    raise ValueError(f"the view {key} is longer than its storage")
                return Storage(key=whole.key, dtype=whole.dtype, count=start + count, start=start)
        raise ValueError("a view of a storage is of an unknown kind")


def _check_machine(facts: object) -> None:
    if not isinstance(facts, dict):
        raise RefusedCheckpoint("what it says of the machine that wrote it is damaged")
    if dict.get(facts, "little_endian") is not True:
        raise RefusedCheckpoint("it was written on a big-endian machine; save it again on a little-endian one")


def _check_keys(keys: object, references: _References) -> None:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedCheckpoint("its list of storages is damaged")
    listed = set(keys)
    if len(listed) < len(keys):
        raise RefusedCheckpoint("its list of storages names one twice: the file is damaged")
    if missing := references.storages.keys() - listed:
        raise RefusedCheckpoint(f"its list of storages lacks {len(missing)} that its tensors use: the file is damaged")
    if foreign := listed - references.storages.keys():
        raise RefusedCheckpoint(f"its list of storages names {len(foreign)} that nothing uses: the file is damaged")


def _walk(file: OpenFile, position: int, keys: Any, references: _References) -> dict[str, tuple[int, int]]:
    """By key, where the bytes of each storage begin, and how many they are."""
    places: dict[str, tuple[int, int]] = {}
    size = file.size_bytes
    for number, key in enumerate(keys, 1):
        storage = references.storages[key]
        if storage.dtype not in _ITEM_BYTES:
            raise RefusedCheckpoint(f"it has a storage of an unknown dtype ({storage.dtype})")
        length = storage.count * _ITEM_BYTES[storage.dtype]
        if position + 8 <= size:
            (count,) = struct.unpack("<Q", file.read(position, 8))
            if count == 0 != storage.count:
                raise IncompleteCheckpoint(f"storage {number} of {len(keys)} has no length: not written yet")
            if count != storage.count:
                raise RefusedCheckpoint(
                    f"storage {number} of {len(keys)} has {count} elements where its tensors say {storage.count}: the file is "
                    "damaged"
                )
        if position + 8 + length > size:
            raise IncompleteCheckpoint(f"it ends at byte {size}, within storage {number} of {len(keys)}")
        places[key] = (position + 8, length)
        position += 8 + length
    if position != size:
        raise IncompleteCheckpoint(f"its storages end at byte {position}, and it has {size}")
    return places


def _fingerprint(file: OpenFile, end_of_tree: int, parts: list[tuple[str, int, int]]) -> str:
    """A digest of the pickles and of samples of every storage: the format keeps no checksum.

    Storages are numbered by first use, as their keys, addresses in memory, differ where the content does not.
    """
    numbers = {key.encode(errors="replace"): b"%d" % number for number, (key, *_) in enumerate(parts)}
    digest = hashlib.blake2b(digest_size=16)
    digest.update(_KEY.sub(lambda found: b"#" + numbers.get(found[1], found[0]), file.read(0, end_of_tree)))
    number = max(2, _SAMPLES // max(1, len(parts)))
    for _, offset, size in parts:
        for sample in file.samples(offset, size, number):
            digest.update(sample)
    return digest.hexdigest()


def _recognises(_path: str, head: bytes) -> bool:
    """The first pickle, or that of the tar archives that came before."""
    if head in _TAR_NAMES:
        return True
    opening = head[11:] if head[2:3] == _FRAME else head[2:]
    return (
        len(head) >= 9
        and head[:1] == b"\x80"
        and head[1] in _PICKLE_PROTOCOLS
        and _OPENING.startswith(opening[: len(_OPENING)])
    )


FORMAT = FileFormat(
    name="torch legacy",
    recognises=_recognises,
    read_layout=read_layout,
    endings=torch_zip.FORMAT.endings,
    not_alone="it is in torch's old format, which is only patched; save it with torch 1.6 or newer",
    loading=loading.torch_file,
)
