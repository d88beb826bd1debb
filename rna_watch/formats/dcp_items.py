"""The items of a torch.distributed.checkpoint folder: each is a torch zip of its own inside a shard, read file by file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import model_source, safe_pickle, torch_zip
from rna_watch.formats.dcp_shard import METADATA
from rna_watch.formats.safe_pickle import OpaqueTensor, PickledTensor
from rna_watch.formats.zip_directory import MAGIC, payload_offset
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.open_file import FileSlice, OpenFile

if TYPE_CHECKING:
    from rna_watch.formats.dcp_metadata import Item, Metadata, Stored
    from rna_watch.formats.torch_zip import TorchZip
    from rna_watch.layout.identity import FileIdentity

_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a tensor: its item, the tensor in its torch zip, and the byte of file number `file` where its storage begins."""

    item: Item
    tensor: PickledTensor
    file: int
    start_bytes: int


_load = lru_cache(maxsize=1024)(safe_pickle.load)  # the pieces of equal shape have equal pickles


def opened(path: str) -> OpenFile:
    """An open file of a folder; one that may not be read is refused."""
    try:
        return OpenFile(path)
    except PermissionError as error:
        raise RefusedCheckpoint(
            f"{os.path.basename(path)} cannot be read (permission denied); give this user read access"  # noqa: PTH119
        ) from error


class Reading:
    """All items of a folder, read file by file: where the model's pieces lie, the counters, and a digest of it all.

    Args:
        folder: where the shards lie.
        names: of the folder's files.
        written_ns: when the `.metadata` was written; no shard is newer.
        metadata: what it says.
        model: names of the model's tensors.
        counters: names of entries that are numbers to read.

    Raises:
        IncompleteCheckpoint: a file is missing, too short, or newer than the `.metadata`.
        RefusedCheckpoint: an item is no torch zip, or damaged.
    """

    def __init__(
        self, folder: str, names: set[str], written_ns: int, metadata: Metadata, model: set[str], counters: set[str]
    ) -> None:
        self.files: list[FileIdentity] = []
        self.numbers: list[tuple[Stored, int]] = []
        self.tensors: dict[str, list[Part]] = {name: [] for name in model}
        self._model = model
        self._counters = counters
        self._lines: list[str] = []
        self._checked = False
        self._samples: list[tuple[str, str]] = []
        for name, items in sorted(metadata.by_file.items()):
            if name not in names:
                raise IncompleteCheckpoint(f"{name} is gone or not there yet")
            with opened(os.path.join(folder, name)) as file:  # noqa: PTH118
                if file.identity.mtime_ns > written_ns:
                    raise IncompleteCheckpoint(
                        f"{name} is newer than {METADATA}, which is written last: the folder is being written again "
                        f"(if it is a copy that lost its times: touch {METADATA})"
                    )
                if any(each.name in model for each, _ in items):
                    self.files.append(file.identity)
                for each, item in items:
                    try:
                        self._read(file, each, item)
                    except (RefusedCheckpoint, IncompleteCheckpoint) as error:
                        raise type(error)(f"{each.name} in {name}: {error}") from error
                file.check_unchanged()
        digest = hashlib.blake2b(digest_size=16)
        for line in sorted(self._lines):
            digest.update(line.encode(errors="backslashreplace"))
        for _, sample in sorted(self._samples):
            digest.update(sample.encode())
        if not self._checked:
            digest.update(metadata.save_id.encode())
        self.fingerprint = digest.hexdigest()

    def _read(self, file: OpenFile, each: Stored, item: Item) -> None:
        if item.offset_bytes + item.size_bytes > file.size_bytes:
            raise IncompleteCheckpoint(f"it ends beyond the end of the file ({file.size_bytes} bytes so far)")
        window = FileSlice(file, item.offset_bytes, item.size_bytes)
        where = f"{each.name}|{item.offsets}|{item.sizes}"
        head = window.read(0, min(4, item.size_bytes))
        if head != MAGIC:
            if each.dtype:
                raise RefusedCheckpoint("it is no torch.save file: only that form of shards is read")
            self._sample(where, window, 0, item.size_bytes)  # bytes that a trainer put there itself
            return
        blob = torch_zip.read(window)
        for name, record in sorted(blob.records.items()):
            if name != ".data/serialization_id":
                self._lines.append(f"{where}|{name}|{record.size_bytes}|{record.crc}\n")
        if any(record.crc for record in blob.records.values()):
            self._checked = True
        else:
            for record in blob.records.values():
                at = payload_offset(window, record)
                self._sample(f"{where}|{record.name}", window, at, record.size_bytes)
        if each.name in self._model:
            tensor, start_bytes = _tensor(each, item, blob)
            file_number = len(self.files) - 1
            self.tensors[each.name].append(Part(item=item, tensor=tensor, file=file_number, start_bytes=start_bytes))
        elif each.name in self._counters:
            number = _number(blob)
            if number is not None:
                self.numbers.append((each, number))

    def _sample(self, where: str, window: FileSlice, offset: int, count: int) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for sample in window.samples(offset, count, _SAMPLES):
            digest.update(sample)
        self._samples.append((where, digest.hexdigest()))


def _tensor(each: Stored, item: Item, blob: TorchZip) -> tuple[PickledTensor, int]:
    """The piece as its torch zip describes it, and where its storage begins in the file.

    Raises:
        RefusedCheckpoint: it is not the block that `.metadata` says, or no plain tensor.
    """
    tensor = blob.tree(_load)
    if isinstance(tensor, OpaqueTensor):
        raise RefusedCheckpoint(f"it is {tensor.what}, which cannot be averaged; save the model with plain tensors")
    if not isinstance(tensor, PickledTensor):
        raise RefusedCheckpoint("it is no tensor, but .metadata says that it is")
    if tensor.dtype != each.dtype or tensor.shape != item.sizes:
        raise RefusedCheckpoint(
            f"it holds {tensor.dtype} of shape {list(tensor.shape)}, and .metadata says {each.dtype} of shape {list(item.sizes)}"
        )
    place = blob.place(tensor.storage)
    if place is None:
        raise RefusedCheckpoint("its storage is missing: it is damaged")
    plain = model_source.as_pairs(tensor)
    if plain.start < 0 or any(step < 0 for step in plain.stride):
        raise RefusedCheckpoint("its strides are negative: it is damaged")
    last = plain.start + sum((size - 1) * step for size, step in zip(plain.shape, plain.stride, strict=True))
    if 0 not in plain.shape and (last + 1) * DTYPES[plain.dtype].itemsize > place[1]:
        raise RefusedCheckpoint("its storage is shorter than the tensor: it is damaged")
    return plain, item.offset_bytes + place[0]


def _number(blob: TorchZip) -> int | None:
    """A whole number that was saved as it is, or as a tensor."""

    def read(tensor: PickledTensor) -> bytes | None:
        itemsize = DTYPES[tensor.dtype].itemsize
        return blob.payload(f"data/{tensor.storage.key}")[tensor.start * itemsize :][:itemsize]

    return model_source.counters({"step": blob.tree(_load)}, read).get("step")
