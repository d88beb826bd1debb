"""The zip format of `torch.save`: its pickle and its storages, found by the directory at its end, with a few bounded reads.

As torch 1.6 to 2.13 write it: records are stored uncompressed, their bytes aligned to 64, a data descriptor behind each. The
directory comes last, so that a file in which it can be read is complete.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import loading, model_source, safe_pickle, storages, training_marks
from rna_watch.formats.format import FileFormat, WrittenAs
from rna_watch.formats.zip_checksums import CHECKSUMS
from rna_watch.formats.zip_directory import MAGIC, Record, payload_offset, read_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.formats.safe_pickle import Storage
    from rna_watch.layout.layout import Layout
    from rna_watch.layout.open_file import FileSlice, OpenFile

_STORAGES = "data/"
_SAMPLES = 64
_KEPT_BYTES = 2**22  # of a pickle; that of 10,000 tensors takes a third
Place = tuple[int, int]  # first byte, length in bytes


@dataclass(frozen=True, slots=True)
class TorchZip:
    """A torch zip, be it an open file or a part of one: its records by name, without the folder that begins every name in it."""

    file: OpenFile
    records: dict[str, Record]

    def payload(self, name: str) -> bytes:
        """A record's bytes, compared with their checksum.

        Raises:
            RefusedCheckpoint: there is none, or it is damaged.
        """
        record = self.records.get(name)
        if record is None:
            raise RefusedCheckpoint(f"a torch.save file in it has no {name}: it is damaged")
        data = self.file.read(payload_offset(self.file, record), record.size_bytes)
        if record.crc and zlib.crc32(data) != record.crc:
            raise RefusedCheckpoint(f"record {record.name} is damaged: its checksum does not match")
        return data

    def pickled(self) -> bytes:
        """The pickle of what was saved.

        Raises:
            RefusedCheckpoint: it is no file that `torch.save` wrote here, or damaged.
        """
        if "data.pkl" not in self.records:
            raise RefusedCheckpoint("it is a zip file, but not one that torch.save wrote (it has no data.pkl)")
        if "constants.pkl" in self.records:
            raise RefusedCheckpoint("it is a TorchScript archive; save the model's state_dict instead")
        data = self.payload("data.pkl")
        if "byteorder" in self.records and self.payload("byteorder") != b"little":
            raise RefusedCheckpoint("it was written on a big-endian machine; save it again on a little-endian one")
        return data

    def tree(self, load: Callable[[bytes], object] = safe_pickle.load) -> object:
        """What was saved, read by a reader of pickles.

        Raises:
            RefusedCheckpoint: it is no file that `torch.save` wrote here, or damaged.
        """
        try:
            return load(self.pickled())
        except ValueError as error:
            raise RefusedCheckpoint(str(error)) from error

    def place(self, storage: Storage) -> Place | None:
        """The first byte and the length in bytes of a storage, None if there is none."""
        return self.place_of(storage.key)

    def place_of(self, key: str) -> Place | None:
        """The same, by the storage's key."""
        record = self.records.get(_STORAGES + key)
        return None if record is None else (payload_offset(self.file, record), record.size_bytes)

    def storages(self) -> dict[str, tuple[int, int]]:
        """The first byte and the length in bytes of each storage, by key."""
        return {
            name.removeprefix(_STORAGES): (payload_offset(self.file, record), record.size_bytes)
            for name, record in self.records.items()
            if name.startswith(_STORAGES)
        }

    def fingerprint(self) -> str:
        """A digest of names, sizes and checksums, without the root name, which follows the file's.

        Where the writer left the checksums out, samples of the bytes stand in for them.
        """
        digest = hashlib.blake2b(digest_size=16)
        checked = any(record.crc for record in self.records.values())
        for name, record in sorted(self.records.items()):
            if name == ".data/serialization_id":
                continue
            digest.update(f"{name}|{record.size_bytes}|{record.crc}\n".encode())
            if not checked:
                offset = payload_offset(self.file, record)
                for sample in self.file.samples(offset, record.size_bytes, _SAMPLES):
                    digest.update(sample)
        return digest.hexdigest()


def read(file: OpenFile) -> TorchZip:
    """The torch zip in a file.

    Raises:
        IncompleteCheckpoint: it has no readable central directory (yet).
        RefusedCheckpoint: readers would differ on what a name in it stands for.
    """
    found = read_directory(file)
    records = {record.name.partition("/")[2]: record for record in found}
    spelled = Counter(record.name.partition("/")[2].casefold() for record in found)
    if len(spelled) < len(found):  # torch finds names whatever their case
        ((name, _),) = spelled.most_common(1)
        raise RefusedCheckpoint(
            f"it holds a record {name} twice, of which readers take one or the other: it is damaged"
        )
    if sum(record.size_bytes for record in found) > file.size_bytes:
        raise RefusedCheckpoint("its records overlap: it is damaged")
    return TorchZip(file, records)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A file that was read: checkpoints of a training differ in their numbers, and seldom in anything else.

    `places` are those of all storages that were looked up.
    """

    pickled: bytes
    source: str | None
    tree: object
    places: dict[str, Place | None]
    layout: Layout

    def agrees(self, content: TorchZip) -> bool:
        """Whether another file has the same pickle, and every storage at the same place by its own directory and headers."""
        if content.pickled() != self.pickled:
            return False
        try:
            return all(content.place_of(key) == place for key, place in self.places.items())
        except (RefusedCheckpoint, IncompleteCheckpoint):
            return False  # whoever reads it in full says what is wrong


_last: list[_Known | None] = [None]


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """The layout of a complete file.

    Raises:
        IncompleteCheckpoint: it has no readable central directory (yet).
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    content = read(file)
    known = _last[0]
    if known is not None and known.source == source and known.agrees(content):
        value = storages.reader(file, content.place)
        return known.layout.of_other_file(
            file.identity,
            counters=model_source.counters(known.tree, value),
            fingerprint=content.fingerprint(),
            optimizer_steps=training_marks.optimizer_steps(known.tree, value),
        )
    places: dict[str, Place | None] = {}

    def place(storage: Storage) -> Place | None:
        places[storage.key] = None  # it stays so where this raises: such a file is like no other
        places[storage.key] = found = content.place(storage)
        return found

    tree = content.tree()
    layout = storages.layout(file, FORMAT.name, tree, source, place, content.fingerprint)
    data = content.pickled()
    if len(data) <= _KEPT_BYTES and None not in places.values():
        _last[0] = _Known(pickled=data, source=source, tree=tree, places=places, layout=layout)
    return layout


def layout_inside(file: OpenFile, part: FileSlice, name: str, source: str | None) -> Layout:
    """The layout of a file that holds a torch zip as a part of it, as `read_layout`.

    Args:
        file: the file.
        part: the torch zip.
        name: of the file's format.
        source: key path of the model in it, found if None.
    """
    content = read(part)

    def place(storage: Storage) -> Place | None:
        found = content.place(storage)
        return None if found is None else (part.start_bytes + found[0], found[1])

    return storages.layout(file, name, content.tree(), source, place, content.fingerprint)


FORMAT = FileFormat(
    name="torch zip",
    recognises=lambda _path, head: head.startswith(MAGIC),
    read_layout=read_layout,
    endings=(".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar"),
    checksums=CHECKSUMS,
    alone_as=WrittenAs.TORCH_ZIP,
    loading=loading.torch_file,
)
