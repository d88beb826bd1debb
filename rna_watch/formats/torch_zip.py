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

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import loading, safe_pickle, storages
from rna_watch.formats.format import FileFormat, WrittenAs
from rna_watch.formats.zip_checksums import CHECKSUMS
from rna_watch.formats.zip_directory import MAGIC, Record, payload_offset, read_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.formats.safe_pickle import Storage
    from rna_watch.layout.layout import Layout
    from rna_watch.layout.open_file import OpenFile

_STORAGES = "data/"
_SAMPLES = 64


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

    def tree(self, load: Callable[[bytes], object] = safe_pickle.load) -> object:
        """What was saved, read by a reader of pickles.

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
        try:
            return load(data)
        except ValueError as error:
            raise RefusedCheckpoint(str(error)) from error

    def place(self, storage: Storage) -> tuple[int, int] | None:
        """The first byte and the length in bytes of a storage, None if there is none."""
        record = self.records.get(_STORAGES + storage.key)
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


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """The layout of a complete file.

    Raises:
        IncompleteCheckpoint: it has no readable central directory (yet).
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    content = read(file)
    return storages.layout(file, FORMAT.name, content.tree(), source, content.place, content.fingerprint)


FORMAT = FileFormat(
    name="torch zip",
    recognises=lambda _path, head: head.startswith(MAGIC),
    read_layout=read_layout,
    endings=(".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar"),
    checksums=CHECKSUMS,
    alone_as=WrittenAs.TORCH_ZIP,
    loading=loading.torch_file,
)
